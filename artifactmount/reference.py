"""A reference's record: where its bytes lie, and how to tell that they are still those that were recorded. Pure: parses, reads nothing.

The record is the target of a row of kind Reference (docs/format.md, "Reference record"). It comes from a store, so it is hostile: whatever
is not in its one form is CorruptError, and nothing in it can leave the place that its URI names.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from blake3 import blake3

from artifactmount.errors import CorruptError, NeedsNewerError, UsageError
from artifactmount.rows import NAME_LIMIT, PATH_LIMIT, RECORD_LIMIT

#: A referenced file is read, and cached, in blocks of so many bytes.
BLOCK = 1 << 20
URI_LIMIT = 4 * PATH_LIMIT
KEY_LIMIT = 1024
TAG_LIMIT = 1024
_BLOCK_CONTEXT = "artifactmount v1 reference block"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{2,254}")
_TAG = re.compile(r"[!-~]([ -~]*[!-~])?")
_PATH_BYTES = "/-._~!$&'()*+,;=:@"
_WEB = re.compile(
    r"https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
    r"(/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
_TYPES = {"uri": str, "etag": str, "version": str, "modified": int, "inode": int}
_FIELDS = {"s3": {"etag", "version"}, "file": {"modified", "inode"}, "http": {"etag", "modified"}, "https": {"etag", "modified"}}


@dataclass(frozen=True, slots=True)
class Referent:
    """What a reference leads to. Beside the URI stands what tells whether it is unchanged; nothing, when that is not to be checked.

    `etag` as the source says it (S3: without the quotes); `version`: of a key in a versioned bucket; `modified` (ns since 1970) and `inode`
    of a file, `modified` alone of what a web server gives no ETag for.
    """

    uri: str
    etag: str | None = None
    version: str | None = None
    modified: int | None = None
    inode: int | None = None

    @property
    def checked(self) -> bool:
        """Whether a change of the source would be noticed (beyond one of its size)."""
        return self.etag is not None or self.modified is not None

    def encode(self) -> bytes:
        """The record: canonical JSON. Raises UsageError for what no reader would accept."""
        try:
            _check(self)
        except (CorruptError, NeedsNewerError) as error:
            raise UsageError(f"this cannot be referenced: {error}") from None
        return _canonical(self)

    @staticmethod
    def decode(data: bytes) -> Referent:
        """Raises CorruptError; NeedsNewerError for a scheme that is not known here."""
        if len(data) > RECORD_LIMIT:
            raise CorruptError(f"a reference of {len(data)} bytes (limit {RECORD_LIMIT})")
        try:
            fields = json.loads(data)
            if not isinstance(fields, dict) or any(type(value) is not _TYPES.get(name) for name, value in fields.items()):
                raise CorruptError("a reference with other fields")
            referent = Referent(**fields)
            _check(referent)
            canonical = _canonical(referent) == data
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptError(f"a reference cannot be read: {str(error)[:80]}") from None
        if not canonical:
            raise CorruptError("a reference that is not in its one form")
        return referent


def _canonical(referent: Referent) -> bytes:
    fields = {name: getattr(referent, name) for name in _TYPES}
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, sort_keys=True, separators=(",", ":")).encode("ascii")


def _check(referent: Referent) -> None:
    scheme = scheme_of(referent.uri)
    for name, value in (("etag", referent.etag), ("version", referent.version)):
        if value is not None and (len(value) > TAG_LIMIT or not _TAG.fullmatch(value)):
            raise CorruptError(f"a reference whose {name} cannot be")
    for name, number, lowest in (("modified", referent.modified, -(1 << 63)), ("inode", referent.inode, 0)):
        if number is not None and not lowest <= number < lowest + (1 << 64):
            raise CorruptError(f"a reference whose {name} cannot be")
    given = {name for name in ("etag", "version", "modified", "inode") if getattr(referent, name) is not None}
    contradiction = (
        not given <= _FIELDS[scheme]
        or given == {"version"}
        or (scheme == "file" and len(given) == 1)
        or (scheme != "file" and {"etag", "modified"} <= given)
    )
    if scheme == "s3" and not bucket_and_key(referent.uri)[1]:
        raise CorruptError("a reference to a bucket without a key")
    if contradiction:
        raise CorruptError(f"a reference to {scheme}:// with {', '.join(sorted(given))}")


def scheme_of(uri: Any) -> str:
    """The scheme of a URI in its one form. Raises CorruptError, NeedsNewerError."""
    found = _SCHEME.match(uri) if isinstance(uri, str) and len(uri) <= URI_LIMIT else None
    if found is None:
        raise CorruptError("a reference without a URI")
    match scheme := found[1]:
        case "s3":
            bucket_and_key(uri)
        case "file":
            path_of_uri(uri)
        case "http" | "https":
            _check_web(uri)
        case _:
            raise NeedsNewerError(f"a reference to {scheme}://, which this artifactmount cannot read")
    return scheme


# -- s3://bucket/key, the key as it is ---------------------------------------------------------------------------------------------
def bucket_and_key(uri: str) -> tuple[str, str]:
    """Of `s3://bucket/key`; the key may be empty. Raises CorruptError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise CorruptError("a key in S3 that is not UTF-8") from None
    if not _BUCKET.fullmatch(bucket) or length > KEY_LIMIT or "\0" in key:
        raise CorruptError(f"not a bucket and key in S3: {ascii(uri)[:80]}")
    return bucket, key


# -- file:///path, percent-encoded (RFC 8089) --------------------------------------------------------------------------------------
def path_of_uri(uri: str) -> bytes:
    """The absolute path of a `file://` URI in its one form. Raises CorruptError."""
    path = unquote_to_bytes(uri.removeprefix("file://"))
    parts = path.split(b"/")
    if uri_of_path(path) != uri or len(path) > PATH_LIMIT or b"\0" in path or parts[0] or len(parts) < 2:
        raise CorruptError(f"not the URI of a file: {ascii(uri)[:80]}")
    if any(part in (b"", b".", b"..") or len(part) > NAME_LIMIT for part in parts[1:]):
        raise CorruptError(f"not the URI of a file: {ascii(uri)[:80]}")
    return path


def uri_of_path(path: bytes) -> str:
    """The `file://` URI of an absolute path."""
    return "file://" + quote_from_bytes(path, safe=_PATH_BYTES)


# -- http(s):// --------------------------------------------------------------------------------------------------------------------
def _check_web(uri: str) -> None:
    found = _WEB.fullmatch(uri)
    if found is None:
        raise CorruptError(f"not a URL in its one form (host in lower case, no user, no fragment, percent-encoded): {ascii(uri)[:80]}")
    if any(part in (".", "..") for part in re.split(r"[/\\]", unquote(found[1]))):
        raise CorruptError(f"a URL that leads upwards: {uri[:80]}")


def normal_uri(text: str) -> str:
    """What a user typed as a URI in its one form. Raises UsageError."""
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise UsageError(f"a reference is a URI, such as s3://bucket/prefix, file:///folder or https://host/file: {text!r}")
    if scheme in ("http", "https"):
        host, slash, path = rest.partition("/")
        text = f"{scheme}://{host.lower()}/{path}" if slash or "?" not in host else text
    elif scheme == "file":
        path_bytes = unquote_to_bytes(rest.removeprefix("localhost").encode("utf-8", "surrogateescape"))
        text = uri_of_path(path_bytes.rstrip(b"/"))
    elif scheme == "s3":
        text = f"s3://{rest}"
    try:
        scheme_of(text)
    except (CorruptError, NeedsNewerError) as error:
        raise UsageError(str(error)) from None
    return text


def name_of(uri: str) -> bytes:
    """The last name of a URI in its one form; empty when it ends with a slash."""
    path = uri.partition("://")[2]
    if not uri.startswith("s3://"):
        return unquote_to_bytes(path.partition("?")[0].rpartition("/")[2])
    return path.rpartition("/")[2].encode()


def leads_into(uri: str, prefix: str) -> bool:
    """Whether a URI is `prefix`, or lies below it: whole path components, so that `s3://ab` does not open `s3://abc`."""
    return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else prefix + "/")


def block_name(record: bytes, size: int, number: int) -> bytes:
    """What the `number`-th block of a referenced file is called in memory and in the cache, 32 bytes."""
    return blake3(b"%d %d " % (size, number) + record, derive_key_context=_BLOCK_CONTEXT).digest()
