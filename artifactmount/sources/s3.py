"""References into buckets, through boto3: the standard AWS configuration, or a profile and endpoint of a bucket's own.

Listings give size, ETag and time; on a versioned bucket another listing gives version ids, too. Never a request for each key.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from artifactmount.errors import NotFoundError, RefusedError, SourceChangedError, SourceDeniedError, SourceError, UsageError
from artifactmount.reference import Referent, bucket_and_key
from artifactmount.sources import Found, changed, gone
from artifactmount.store.s3 import check_transport

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRIES = 4
_POOL = 32
_CONNECT, _READ = 5, 30  # seconds
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_MISSING = {"NoSuchKey", "NoSuchVersion", "NotFound", "404", "MethodNotAllowed", "405"}
_CHANGED = {"PreconditionFailed", "412", "InvalidRange", "416"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """How a bucket is reached, where it is not by the standard profile or endpoint."""

    profile: str | None = None
    endpoint: str | None = None


class S3Source:
    """See Source."""

    def __init__(self, buckets: Mapping[str, Bucket]) -> None:
        self._buckets = buckets
        self._lock = threading.Lock()
        self._clients: dict[Bucket, S3Client] = {}

    def _client(self, bucket: str) -> S3Client:
        how = self._buckets.get(bucket, Bucket())
        with self._lock:
            if how not in self._clients:
                self._clients[how] = _connect(bucket, how)
            return self._clients[how]

    def find(self, uri: str) -> Iterator[Found]:
        """See Source. The object of exactly this key; where there is none, all below it as a folder. Markers of folders are left out."""
        bucket, key = bucket_and_key(uri)
        client = self._client(bucket)
        if key and not key.endswith("/"):
            with contextlib.suppress(_Missing):
                with _translated(uri):
                    found = _found_alone(uri, client.head_object(Bucket=bucket, Key=key))
                yield found
                return
            key += "/"
        prefix, empty = f"s3://{bucket}/", True
        try:
            with _translated(uri):
                for item in _listed(client, bucket, key):
                    below: str = item["Key"][len(key) :]
                    if item["Size"] == 0 and (not below or below.endswith("/")):
                        continue
                    empty = False
                    if not below:
                        raise RefusedError(f"cannot be referenced: {prefix}{item['Key']} ends with a slash and is not empty")
                    # The null version of a bucket that was versioned later is one like any other.
                    referent = _referent(prefix + item["Key"], item)
                    yield Found(below.encode(), referent, item["Size"], int(item["LastModified"].timestamp()) * 10**9)
        except _Missing:
            raise NotFoundError(f"no bucket {bucket}") from None
        if empty:
            raise NotFoundError(f"nothing at {uri}, and nothing below {prefix}{key}")

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source."""
        where = _where(referent)
        if referent.etag is not None:
            where["IfMatch"] = f'"{referent.etag}"'
        client = self._client(where["Bucket"])
        for attempt in range(_TRIES):
            try:
                with _translated(referent.uri):
                    answer = client.get_object(**where, Range=f"bytes={start}-{stop - 1}")
                    with contextlib.closing(answer["Body"]) as body:
                        content: bytes = body.read(stop - start + 1)
                    return _checked(referent, size, start, stop, answer, content)
            except _Missing:
                raise gone(referent) from None
            except _Changed:
                self.check(referent, size)  # tells what it is now
                raise changed(referent, referent.etag, "another") from None
            except (SourceDeniedError, SourceChangedError):
                raise
            except SourceError:  # a body cut short, say: other errors the library has tried to get over already
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def check(self, referent: Referent, size: int) -> None:
        """See Source."""
        where = _where(referent)
        try:
            with _translated(referent.uri):
                answer = self._client(where["Bucket"]).head_object(**where)
                _compare(referent, size, answer.get("ETag", ""), answer["ContentLength"])
        except _Missing:
            raise gone(referent) from None

    def close(self) -> None:
        """See Source."""
        for client in self._clients.values():
            client.close()


class _Missing(Exception):  # noqa: N818 - these two never leave this module
    pass


class _Changed(Exception):  # noqa: N818
    pass


def _connect(bucket: str, how: Bucket) -> S3Client:
    # Imported here: boto3 costs 0.25 s and 25 MB, and most commands never need it.
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = how.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        max_pool_connections=_POOL,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint else {},
    )
    try:
        core = botocore.session.Session(profile=how.profile)
        # The library's own parser of times takes half of the time of a listing.
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
        client: S3Client = boto3.session.Session(botocore_session=core).client("s3", endpoint_url=how.endpoint, config=config)
        check_transport(client.meta.endpoint_url)
    except (BotoCoreError, ValueError, UsageError) as error:  # of this bucket: the others can be read all the same
        raise SourceDeniedError(f"cannot use s3://{bucket}: {_short(error)}") from error
    return client


def _listed(client: S3Client, bucket: str, prefix: str) -> Iterator[Any]:
    if not _versioned(client, bucket):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", [])
        return
    for versions in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        yield from (item for item in versions.get("Versions", []) if item["IsLatest"])


def _time(value: Any) -> datetime:
    from botocore.utils import parse_timestamp

    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not None:
            return found
    except (TypeError, ValueError):
        pass
    parsed: datetime = parse_timestamp(value)
    return parsed


def _versioned(client: S3Client, bucket: str) -> bool:
    """Whether keys have versions. Where that may not be asked, nothing is pinned to one."""
    try:
        return client.get_bucket_versioning(Bucket=bucket).get("Status") in ("Enabled", "Suspended")
    except client.exceptions.ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (403, 405, 501):
            return False
        raise


def _found_alone(uri: str, answer: Any) -> Found:
    return Found(b"", _referent(uri, answer), answer["ContentLength"], int(answer["LastModified"].timestamp()) * 10**9)


def _referent(uri: str, said: Any) -> Referent:
    """With what an answer says of a key. Without a strong ETag, which no bucket of AWS lacks, nothing tells a change."""
    etag = _bare(said.get("ETag", ""))
    return Referent(uri, etag, said.get("VersionId")) if etag else Referent(uri)


def _where(referent: Referent) -> dict[str, Any]:
    bucket, key = bucket_and_key(referent.uri)
    return {"Bucket": bucket, "Key": key, **({"VersionId": referent.version} if referent.version else {})}


def _bare(etag: str) -> str:
    """A strong ETag without its quotes; a weak one, which may stay the same when bytes change, counts as none."""
    return "" if etag.startswith("W/") else etag.strip('"')


def _compare(referent: Referent, size: int, etag: str, now: int) -> None:
    if referent.etag is not None and _bare(etag) != referent.etag:
        raise changed(referent, referent.etag, _bare(etag) or "none")
    if now != size:
        raise changed(referent, size, now, "its size")


def _checked(referent: Referent, size: int, start: int, stop: int, answer: Any, content: bytes) -> bytes:
    """The bytes asked for, or an error: a server that ignores conditions or ranges is not believed."""
    sent = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if sent is not None:
        first, last, total = map(int, sent.groups())
        _compare(referent, size, answer.get("ETag", ""), total)
        if (first, last) == (start, stop - 1) and len(content) == stop - start:
            return content
    elif (start, stop) == (0, size):
        _compare(referent, size, answer.get("ETag", ""), answer["ContentLength"])
        if len(content) == size:
            return content
    raise SourceError(f"{referent.uri}: asked for bytes {start} to {stop}, got {len(content)} bytes, {answer.get('ContentRange')}")


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING or code == "NoSuchBucket":
            raise _Missing from error
        if code in _CHANGED:
            raise _Changed from error
        if status in (401, 403):
            raise SourceDeniedError(f"{uri}: denied ({code}); these credentials may not read it") from error
        raise SourceError(f"{uri}: {_short(error)}") from error
    except (BotoCoreError, HTTPClientError, ResponseParserError, OSError, RecursionError) as error:
        raise SourceError(f"{uri}: {_short(error)}") from error
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:  # what must be there is not, or is nonsense
        raise SourceError(f"{uri}: the server's answer makes no sense ({type(error).__name__}: {_short(error)})") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
