"""A store in an S3 bucket, through boto3. Only what every good server honours: PUT with If-None-Match, ranged GET, listing, batch delete.

Configured by the standard AWS variables, files and profiles, nothing of our own. No multipart: packs are at most 16 MiB, and a
checkpoint grows by half a KiB a version. What servers differ in was found by trying them (README, "Which stores").
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import threading
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from artifactmount.errors import (
    ArtifactError,
    DeniedError,
    KeyMissingError,
    NotFoundError,
    NotSentError,
    StoreError,
    UnreachableError,
    UsageError,
)
from artifactmount.store import Listed, check_key, check_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BATCH = 1000
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MISSING = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled"}
# Not SSLError: it may also come with the answer, after the request was done.
_NOT_SENT = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "NoCredentialsError"}
_BUSY = (500, 502, 503, 504)
#: Refusals that say nothing of what became of an earlier attempt, or ask to try again. Every other 4xx was refused before it was done.
_UNDECIDED = (408, 409, 412, 429)
_READ_TRIES = 4


class S3Store:
    """Keys below `prefix` in a bucket. `connect` and `read` are time-outs in seconds."""

    def __init__(self, bucket: str, prefix: str = "", *, pool: int = 32, connect: float = 5, read: float = 30) -> None:
        self._bucket, self._prefix = bucket, prefix + "/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self.place = f"{self.url} {endpoint}".rstrip()
        self._pool, self._timeouts = pool, (connect, read)
        self._lock = threading.Lock()
        self._clients: dict[int, S3Client] = {}
        self._versioned: bool | None = None

    def _client(self, attempts: int) -> S3Client:
        with self._lock:
            if attempts not in self._clients:
                self._clients[attempts] = self._connect(attempts)
            return self._clients[attempts]

    def _connect(self, attempts: int) -> S3Client:
        # Imported here: boto3 costs 0.25 s and 25 MB, and a folder project or `--help` never needs it.
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = Config(
            connect_timeout=self._timeouts[0],
            read_timeout=self._timeouts[1],
            max_pool_connections=self._pool,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # Older servers refuse the trailing checksums that boto3 sends by itself over https; our own digests cover every byte.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint else {},
        )
        try:
            client = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"cannot use {self.url}: {error}") from error
        check_transport(client.meta.endpoint_url)
        return client

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store. A body cut short is asked for again; other errors the library has tried to get over already."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}
        if stop is not None and stop <= start:
            return b""
        if start or stop is not None:
            where["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        for attempt in range(_READ_TRIES):
            try:
                with self._translated(key):
                    answer = self._client(_READ_TRIES).get_object(**where)
            except _EmptyRangeError:
                return b""
            try:
                with self._translated(key):
                    body = answer["Body"].read()
                return self._checked_range(key, body, answer, start, stop)
            except StoreError:
                if attempt == _READ_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _checked_range(self, key: str, body: bytes, answer: Any, start: int, stop: int | None) -> bytes:
        """The bytes asked for: a server that ignores ranges sends all of them, one that is wrong is not believed."""
        length = answer.get("ContentLength")
        if len(body) != length:
            # Without a length the end of the connection would pass for the end of the value.
            raise StoreError(f"{self.url}/{key}: {len(body)} of {'?' if length is None else length} bytes came")
        if not start and stop is None:
            return body
        got = answer.get("ContentRange")
        if got is None:
            return body[start:stop]
        sent = _CONTENT_RANGE.fullmatch(got)
        first, last, total = map(int, sent.groups()) if sent else (-1, -1, 0)
        end = total if stop is None else min(stop, total)
        if (first, last) != (start, end - 1) or len(body) != end - start:
            raise StoreError(f"{self.url}/{key}: asked for bytes {start} to {stop}, got {got}")
        return body

    def create(self, key: str, data: bytes) -> bool:
        """See Store. One attempt: a library that tries again by itself would see its own first success as a conflict."""
        with self._translated(key):
            try:
                self._client(1).put_object(Bucket=self._bucket, Key=self._prefix + check_key(key), Body=data, IfNoneMatch="*")
            except self._client(1).exceptions.ClientError as error:
                if _code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
        return True

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        found: list[Listed] = []
        with self._translated(prefix):
            while len(found) < limit:
                page = self._client(_READ_TRIES).list_objects_v2(
                    Bucket=self._bucket,
                    Prefix=self._prefix + prefix,
                    StartAfter=self._prefix + after if after else "",
                    MaxKeys=min(limit - len(found), _BATCH),
                )
                for item in page.get("Contents", []):
                    key = item["Key"][len(self._prefix) :]
                    found.append(Listed(key, item["Size"], item["LastModified"].timestamp()))
                if not page.get("IsTruncated") or not page.get("Contents"):
                    break
                after = found[-1].key
        return found

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        whole, names = self._prefix + check_prefix(prefix), set[str]()
        where: dict[str, Any] = {"StartAfter": whole + after} if after else {}
        with self._translated(prefix):
            while limit > 0:
                page = self._client(_READ_TRIES).list_objects_v2(
                    Bucket=self._bucket, Prefix=whole, Delimiter="/", MaxKeys=min(limit + 1, _BATCH), **where
                )
                found = (item["Prefix"][len(whole) : -1] for item in page.get("CommonPrefixes", []))
                names.update(name for name in found if name > after)
                if not page.get("IsTruncated") or (len(names) >= limit and not _may_come_late(sorted(names)[limit - 1], names)):
                    break
                where = {"ContinuationToken": page["NextContinuationToken"]}
        return sorted(names)[:limit]

    def delete(self, keys: Sequence[str]) -> None:
        """See Store. On a versioned bucket every version and delete marker of the keys goes."""
        with self._translated("the keys to delete"):
            for start in range(0, len(keys), _BATCH):
                batch = [{"Key": self._prefix + check_key(key)} for key in keys[start : start + _BATCH]]
                if self.versioned():
                    batch = [version for item in batch for version in self._versions(item["Key"])]
                for at in range(0, len(batch), _BATCH):
                    self._delete_batch(batch[at : at + _BATCH])

    def _delete_batch(self, batch: list[dict[str, str]]) -> None:
        answer: Any = self._client(_READ_TRIES).delete_objects(
            Bucket=self._bucket,
            Delete={"Objects": batch, "Quiet": True},  # type: ignore[typeddict-item]
        )
        # The answer is 200 also when keys could not be deleted: only its Errors say so.
        errors = [error for error in answer.get("Errors", []) if error.get("Code") not in _MISSING]
        if errors:
            what = f"{self.url}: {len(errors)} keys were not deleted, first {errors[0].get('Key')}: {errors[0].get('Code')}"
            raise DeniedError(what) if errors[0].get("Code") in _DENIED else StoreError(what)

    def versioned(self) -> bool:
        """Whether the bucket keeps deleted bytes as old versions. Where that may not be asked, it is taken for one that does not."""
        if self._versioned is None:
            client = self._client(_READ_TRIES)
            with self._translated("?versioning"):
                try:
                    self._versioned = client.get_bucket_versioning(Bucket=self._bucket).get("Status") in ("Enabled", "Suspended")
                except client.exceptions.ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] in _BUSY:
                        raise  # no answer: taking it for "no" would leave old versions behind for the life of this process
                    self._versioned = False
        return self._versioned

    def _versions(self, whole_key: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for page in self._client(_READ_TRIES).get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=whole_key):
            items: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            found += [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in items if item["Key"] == whole_key]
        return found

    def clock(self) -> float:
        """See Store. Each answer carries the server's date."""
        with self._translated("the server's date"):
            answer: Any = self._client(_READ_TRIES).head_bucket(Bucket=self._bucket)
        try:
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{self.url} does not say what time it is") from error

    def close(self) -> None:
        """See Store."""
        for client in self._clients.values():
            client.close()

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """The only place where the library's errors become ours."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except ClientError as error:
            raise self._client_error(error, key) from error
        except (BotoCoreError, HTTPClientError, ResponseParserError, OSError, RecursionError) as error:
            # A certificate is looked at before anything is sent.
            if type(error).__name__ in _NOT_SENT or "CERTIFICATE_VERIFY_FAILED" in str(error):
                advice = "are the network, AWS_ENDPOINT_URL and the credentials right?"
                raise UnreachableError(f"cannot reach {self.url}: {_short(error)}; {advice}") from error
            raise StoreError(f"{self.url}/{key}: {_short(error)}") from error

    def _client_error(self, error: Any, key: str) -> ArtifactError:
        code = _code(error)
        if code == "NoSuchBucket":
            return NotFoundError(f"no bucket {self._bucket}; make it first, with versioning off")
        if code == "InvalidRange":
            return _EmptyRangeError()
        if code in _MISSING:
            return KeyMissingError(key)
        if code in _DENIED:
            return DeniedError(f"{self.url}/{key}: denied ({code}); these credentials may not do this here")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status in (401, 403):
            return DeniedError(f"{self.url}/{key}: {_short(error)}")
        if 400 <= status < 500 and status not in _UNDECIDED:
            return NotSentError(f"{self.url}/{key}: {_short(error)}")
        return StoreError(f"{self.url}/{key}: {_short(error)}")


class _EmptyRangeError(StoreError):
    """The range asked for begins behind the end."""


def _may_come_late(name: str, names: set[str]) -> bool:
    """Whether a name that sorts before `name` may still be listed behind all these `names`.

    A bucket lists `a-b/` before `a/`, so it can only be a beginning of `name` that goes on with a byte below the slash.
    """
    last = max(listed + "/" for listed in names)
    return any(name[at] < "/" and name[:at] not in names and name[:at] + "/" > last for at in range(1, len(name)))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def check_transport(endpoint: str) -> None:
    """Content may not travel in clear: plain http only to this machine, or where the user says so."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or os.environ.get("ARTIFACTMOUNT_ALLOW_HTTP") == "1":
        return
    host = parts.hostname or ""
    local = host == "localhost"
    with contextlib.suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if not local:
        raise UsageError(
            f"{endpoint} is not https, so anybody on the way could read along; set ARTIFACTMOUNT_ALLOW_HTTP=1 if that is meant"
        )
