"""W&B's manifest of an artifact, `wandb_manifest.json`: which files it has, by their MD5, and what it refers to. Pure: opens nothing.

It may come from anybody, so it is hostile: whatever W&B could not have written is CorruptError, and a path in it stays within the artifact.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from artifactmount.api.md5 import manifest_md5
from artifactmount.errors import CorruptError, UsageError
from artifactmount.reference import Referent, normal_uri
from artifactmount.rows import DEPTH_LIMIT, NAME_LIMIT, PATH_LIMIT, SIZE_LIMIT

#: Of the file, in bytes; a million files take half of it.
MANIFEST_LIMIT = 256 << 20
ENTRIES_LIMIT = 1_000_000
_DIGEST_LIMIT = 4 * PATH_LIMIT  # a reference's may be its URI
# What JSON becomes takes up to 30 times its bytes when it is all brackets. An entry has two pairs, and 8 commas at most.
_BRACKETS = 2 * ENTRIES_LIMIT + 1000
_COMMAS = 8 * ENTRIES_LIMIT + 1000
_SCHEMES = ("s3", "file", "http", "https")


@dataclass(frozen=True, slots=True)
class WandbFile:
    """A file: its path in the artifact, the MD5 of its content (16 bytes), its size in bytes (None where it does not say)."""

    path: bytes
    md5: bytes
    size: int | None


@dataclass(frozen=True, slots=True)
class WandbReference:
    """A reference that can be tracked here. `size` in bytes."""

    path: bytes
    referent: Referent
    size: int


@dataclass(frozen=True, slots=True)
class Untracked:
    """A reference that cannot be tracked here. `why`: a part of a sentence."""

    path: bytes
    why: str


@dataclass(frozen=True, slots=True)
class WandbManifest:
    """What an artifact of W&B has. `digest`: W&B's own of the version, 32 hex digits."""

    entries: tuple[WandbFile | WandbReference | Untracked, ...]
    digest: str


def parse_manifest(content: bytes) -> WandbManifest:
    """Raises CorruptError naming what is wrong."""
    if len(content) > MANIFEST_LIMIT:
        raise CorruptError(f"a manifest of more than {MANIFEST_LIMIT >> 20} MiB")
    if content.count(b"{") + content.count(b"[") > _BRACKETS or content.count(b",") > _COMMAS:
        raise CorruptError(f"a manifest of more than {ENTRIES_LIMIT:,} files, or none at all")
    try:
        fields = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not a manifest of W&B: {str(error)[:80]}") from None
    contents = fields.get("contents") if isinstance(fields, dict) else None
    if not isinstance(contents, dict):
        raise CorruptError("not a manifest of W&B: it has no contents")
    if fields.get("version") != 1:
        raise CorruptError(f"a manifest of W&B's version {str(fields.get('version'))[:20]!r}; only version 1 is known here")
    if len(contents) > ENTRIES_LIMIT:
        raise CorruptError(f"a manifest of {len(contents):,} files (limit {ENTRIES_LIMIT:,})")
    digests: list[tuple[str, str]] = []
    entries = tuple(_entries(contents, digests))
    return WandbManifest(entries, manifest_md5(digests))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise CorruptError(f"a manifest that names {ascii(name)[:200]} twice")
            seen.add(name)
    return found


def _entries(contents: Mapping[str, Any], digests: list[tuple[str, str]]) -> Iterator[WandbFile | WandbReference | Untracked]:
    """What each entry is; (path, digest) of each goes to `digests`."""
    for name, entry in contents.items():
        path = _checked_path(name)
        if not isinstance(entry, dict):
            raise _wrong(name, "is no entry")
        digest, size, ref, extra = (entry.get(field) for field in ("digest", "size", "ref", "extra"))
        if not isinstance(digest, str) or not 0 < len(digest) <= _DIGEST_LIMIT or not _is_text(digest):
            raise _wrong(name, "has no digest")
        if size is not None and (type(size) is not int or not 0 <= size < SIZE_LIMIT):
            raise _wrong(name, f"has a size of {ascii(size)[:40]}")
        if not isinstance(ref, str | None) or not isinstance(extra, dict | None):
            raise _wrong(name, "is no entry")
        digests.append((name, digest))
        yield WandbFile(path, _md5_of(name, digest), size) if ref is None else _reference(path, ref, digest, size, extra or {})


def _checked_path(name: str) -> bytes:
    """Surrogates are refused, too: a name that is not UTF-8 has no digest in W&B, so no artifact can have it."""
    if not _is_text(name):
        raise _wrong(name, "is no path in an artifact (not UTF-8)")
    path = name.encode()
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise _wrong(name, "is no path in an artifact (relative, without . and ..)")
    if len(path) > PATH_LIMIT or len(parts) > DEPTH_LIMIT or max(map(len, parts)) > NAME_LIMIT:
        raise _wrong(name, "is too long, or too deep")
    return path


def _md5_of(name: str, digest: str) -> bytes:
    try:
        md5 = base64.b64decode(digest, validate=True)
    except ValueError:
        md5 = b""
    if len(md5) != 16 or base64.b64encode(md5).decode() != digest:
        raise _wrong(name, f"has a digest that is no MD5: {ascii(digest)[:80]}")
    return md5


def _reference(path: bytes, ref: str, digest: str, size: int | None, extra: Mapping[str, Any]) -> WandbReference | Untracked:
    scheme = ref.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        return Untracked(path, f"leads to {ascii(ref)[:200]}, and only {', '.join(_SCHEMES)} are tracked here")
    if size is None:
        return Untracked(path, f"leads to {ascii(ref)[:200]}, whose size W&B did not record (checksum=False)")
    try:
        referent = _referent(scheme, ref, digest, extra)
        referent.encode()
    except UsageError as error:
        return Untracked(path, f"leads to {ascii(ref)[:200]}, which cannot be tracked here: {error}")
    return WandbReference(path, referent, size)


def _referent(scheme: str, ref: str, digest: str, extra: Mapping[str, Any]) -> Referent:
    """With what W&B kept that we keep, too, in the form that we have it: the ETag, and the version in S3. Raises UsageError.

    A file's MD5 has no room in our record, and its inode and time are not in W&B's, so only its size is left.
    """
    uri = normal_uri(ref)
    if scheme == "file":
        return Referent(uri)
    etag, version = (value if isinstance(value, str) and value else None for value in (extra.get("etag"), extra.get("versionID")))
    etag = etag or (digest if digest != ref else None)
    if etag is not None and etag.startswith("W/"):
        etag = None  # a weak one tells of no change
    if scheme == "s3":
        return Referent(uri, etag and etag.strip('"'), version)
    return Referent(uri, etag if etag is None or etag.startswith('"') else f'"{etag}"')


def _is_text(text: str) -> bool:
    """Whether it could be in a file: half a surrogate pair could not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(name: str, what: str) -> CorruptError:
    return CorruptError(f"in W&B's manifest, {ascii(name)[:200]} {what}")
