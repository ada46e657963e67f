"""A store in an S3 bucket, through boto3. Only what every good server honours: PUT with If-None-Match, ranged GET, listing, batch delete.

Configured by the standard AWS variables, files and profiles, nothing of our own. No multipart: packs are at most 16 MiB, and a
checkpoint grows by half a KiB a version. What servers differ in was found by trying them (README, "Which stores").
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from artifactmount.config import ServerSideEncryption
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
    from boto3.session import Session
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

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
#: So many pages of a listing may bring nothing new.
_BARREN = 100


class S3Store:
    """Keys below `prefix` in a bucket. `sse`: what to ask for with every write; `connect` and `read` are time-outs in seconds."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        sse: ServerSideEncryption | None = None,
        pool: int = 32,
        connect: float = 5,
        read: float = 30,
    ) -> None:
        self.bucket, self.prefix, self.sse = bucket, prefix + "/" if prefix else "", sse
        self._asked = _sse_fields(sse)
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self.place = f"{self.url} {endpoint}".rstrip()
        self._pool, self._timeouts = pool, (connect, read)
        self._lock = threading.Lock()
        self._clients: dict[int, S3Client] = {}
        self._session: Session | None = None
        self._versioned: bool | None = None
        self._warned = False

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
        bundle = os.environ.get("AWS_CA_BUNDLE")
        if bundle and not os.path.exists(bundle):  # the library would say "No such file", and not which
            raise UsageError(f"AWS_CA_BUNDLE names {bundle}, which is not there")
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
            # One session: a second would read the library's descriptions of S3 again, 0.1 s.
            self._session = self._session or boto3.session.Session()
            client: S3Client = self._session.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"cannot use {self.url}: {error}") from error
        check_transport(client.meta.endpoint_url)
        return client

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store. A body cut short is asked for again; other errors the library has tried to get over already."""
        try:
            return self._get(key, start, stop)
        except DeniedError:
            # Where keys may be listed below a prefix only, some servers (Ceph before 2026) deny that a missing one is missing.
            if self._is_missing(key):
                raise KeyMissingError(key) from None
            raise

    def _is_missing(self, key: str) -> bool:
        """Whether a listing, which MUST be allowed, shows that there is no such key."""
        try:
            return all(found.key != key for found in self.list_keys(key, limit=1))
        except StoreError:
            return False

    def _get(self, key: str, start: int, stop: int | None) -> bytes:
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
        if stop is not None and stop <= start:
            return b""
        if start or stop is not None:
            where["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        for attempt in range(_READ_TRIES):
            try:
                with self._translated(key):
                    answer: Any = self._client(_READ_TRIES).get_object(**where)
            except _EmptyRangeError:
                return b""
            try:
                with self._translated(key):
                    # A server that ignores ranges sends what stands before, too; no more than that is taken in from any.
                    most = None if stop is None else stop - start if "ContentRange" in answer else stop
                    body = answer["Body"].read(most)
                    answer["Body"].close()
                return self._checked_range(key, body, answer, start, stop)
            except StoreError:
                if attempt == _READ_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _checked_range(self, key: str, body: bytes, answer: Any, start: int, stop: int | None) -> bytes:
        """The bytes asked for: a server that ignores ranges sends all of them, one that is wrong is not believed."""
        length = answer.get("ContentLength")
        cut = stop is not None and "ContentRange" not in answer and stop == len(body)  # by us: the server ignored the range
        if len(body) != length and not cut:
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
                where: dict[str, Any] = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}
                answer: Any = self._client(1).put_object(**where, Body=data, IfNoneMatch="*", **self._asked)
            except self._client(1).exceptions.ClientError as error:
                if _code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
        self._look_for_encryption(answer)
        return True

    def _look_for_encryption(self, answer: Any) -> None:
        """Warn, once, of a server that says nothing of the encryption that was asked for: Ceph 16 takes AES256, and stores what it gets.

        No error: what is written may be a commit, and that stands.
        """
        if self.sse is None or answer.get("ServerSideEncryption") == self.sse.algorithm:
            return
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            _log.warning(
                "%s: `sse` asks for %s, and the server does not say that it encrypts what is written; "
                "what may not lie there readable needs a project made with `init --encrypt`",
                self.url,
                self.sse.algorithm,
            )

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        found: list[Listed] = []
        with self._translated(prefix):
            while len(found) < limit:
                page = self._client(_READ_TRIES).list_objects_v2(
                    Bucket=self.bucket,
                    Prefix=self.prefix + prefix,
                    StartAfter=self.prefix + after if after else "",
                    MaxKeys=min(limit - len(found), _BATCH),
                )
                listed = [
                    Listed(item["Key"][len(self.prefix) :], item["Size"], item["LastModified"].timestamp())
                    for item in page.get("Contents", [])
                    if item["Key"].startswith(self.prefix + prefix)
                ]
                found += (item for item in listed if item.key > after)  # what stands before was listed, or the listing would have no end
                if not page.get("IsTruncated") or not found or found[-1].key <= after:
                    break
                after = found[-1].key
        return found[:limit]

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        whole, names = self.prefix + check_prefix(prefix), set[str]()
        where: dict[str, Any] = {"StartAfter": whole + after} if after else {}
        barren = 0
        with self._translated(prefix):
            while limit > 0:
                page = self._client(_READ_TRIES).list_objects_v2(
                    Bucket=self.bucket, Prefix=whole, Delimiter="/", MaxKeys=min(limit + 1, _BATCH), **where
                )
                known = len(names)
                found = (item["Prefix"][len(whole) : -1] for item in page.get("CommonPrefixes", []) if item["Prefix"].startswith(whole))
                names.update(name for name in found if name > after)
                if len(names) == known:
                    barren += 1
                    if barren == _BARREN:
                        raise StoreError(f"{self.url}: a listing that has no end")
                if not page.get("IsTruncated") or (len(names) >= limit and not _may_come_late(sorted(names)[limit - 1], names)):
                    break
                where = {"ContinuationToken": page["NextContinuationToken"]}
        return sorted(names)[:limit]

    def delete(self, keys: Sequence[str]) -> None:
        """See Store. On a versioned bucket every version and delete marker of the keys goes."""
        with self._translated("the keys to delete"):
            for start in range(0, len(keys), _BATCH):
                batch = [{"Key": self.prefix + check_key(key)} for key in keys[start : start + _BATCH]]
                if self.versioned():
                    batch = [version for item in batch for version in self._versions(item["Key"])]
                for at in range(0, len(batch), _BATCH):
                    self._delete_batch(batch[at : at + _BATCH])

    def _delete_batch(self, batch: list[dict[str, str]]) -> None:
        client = self._client(_READ_TRIES)
        try:
            answer: Any = client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})  # type: ignore[typeddict-item]
        except client.exceptions.ClientError as error:
            if _code(error) != "AccessDenied":
                raise
            # Ceph 16 asks for the right to delete the whole bucket where it gets a batch; one by one it asks for each key.
            for item in batch:
                client.delete_object(Bucket=self.bucket, **item)  # type: ignore[arg-type]
            return
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
                    self._versioned = client.get_bucket_versioning(Bucket=self.bucket).get("Status") in ("Enabled", "Suspended")
                except client.exceptions.ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] in _BUSY:
                        raise  # no answer: taking it for "no" would leave old versions behind for the life of this process
                    self._versioned = False
        return self._versioned

    def _versions(self, whole_key: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for page in self._client(_READ_TRIES).get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=whole_key):
            items: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            found += [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in items if item["Key"] == whole_key]
        return found

    def clock(self) -> float:
        """See Store. Each answer carries the server's date."""
        from email.utils import parsedate_to_datetime  # 3 ms of every command, also of those that have a folder

        client = self._client(_READ_TRIES)
        with self._translated("the server's date"):
            try:
                answer: Any = client.head_bucket(Bucket=self.bucket)
            except client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
                    raise
                answer = error.response  # a refusal has a date, too
        try:
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{self.url} does not say what time it is") from error

    # -- what protects it ----------------------------------------------------------------------------------------------------------
    def endpoint(self) -> str:
        """The URL that requests go to. Asks nothing. Raises UsageError."""
        return self._client(_READ_TRIES).meta.endpoint_url

    def partition(self) -> str:
        """What the names of resources begin with, behind `arn:`; asks nothing. Raises UsageError."""
        return self._client(_READ_TRIES).meta.partition

    def default_encryption(self) -> ServerSideEncryption | None:
        """What the bucket does with what is written without asking for anything; None: nothing.

        Raises DeniedError where that may not be asked, other StoreErrors where the server does not answer, or cannot say.
        """
        client = self._client(_READ_TRIES)
        with self._translated("?encryption"):
            try:
                answer = client.get_bucket_encryption(Bucket=self.bucket)
            except client.exceptions.ClientError as error:
                if _code(error) == "ServerSideEncryptionConfigurationNotFoundError":
                    return None
                raise
        for rule in answer["ServerSideEncryptionConfiguration"].get("Rules", []):  # Ceph 16 says "nothing" by naming no rule
            default = rule.get("ApplyServerSideEncryptionByDefault")
            if default is not None:
                return ServerSideEncryption(default["SSEAlgorithm"], default.get("KMSMasterKeyID"))
        return None

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
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # it is looked at before anything is sent
                advice = "is this the right server? AWS_CA_BUNDLE is for the authority that signed its certificate"
                raise UnreachableError(f"cannot reach {self.url}: {_short(error)}; {advice}") from error
            if type(error).__name__ in _NOT_SENT:
                advice = "are the network, AWS_ENDPOINT_URL and the credentials right?"
                raise UnreachableError(f"cannot reach {self.url}: {_short(error)}; {advice}") from error
            raise StoreError(f"{self.url}/{key}: {_short(error)}") from error
        except (LookupError, ValueError, TypeError, AttributeError) as error:  # an answer without what must be in it, or with nonsense
            raise StoreError(f"{self.url}/{key}: the server's answer makes no sense ({type(error).__name__}: {_short(error)})") from error

    def _client_error(self, error: Any, key: str) -> ArtifactError:
        code = _code(error)
        if code == "NoSuchBucket":
            return NotFoundError(f"no bucket {self.bucket}; make it first, with versioning off")
        if code == "InvalidRange":
            return _EmptyRangeError()
        if code in _MISSING:
            return KeyMissingError(key)
        if code in _DENIED:
            return DeniedError(f"{self.url}/{key}: denied ({_reason(error)}); these credentials may not do this here")
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


def _reason(error: Any) -> str:
    """The code, and what the server says beside: of a KMS key, for example, or which policy it was."""
    code, said = _code(error), " ".join(str(error.response["Error"].get("Message") or "").split())
    return code if said in ("", "Access Denied", "Access Denied.", "Forbidden") else f"{code}: {said[:300]}"


def _sse_fields(sse: ServerSideEncryption | None) -> dict[str, Any]:
    if sse is None:
        return {}
    return {"ServerSideEncryption": sse.algorithm} | ({"SSEKMSKeyId": sse.kms_key} if sse.kms_key else {})


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def is_loopback(endpoint: str) -> bool:
    """Whether what is sent to this URL never leaves this machine."""
    host = urlsplit(endpoint).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_transport(endpoint: str) -> None:
    """Content may not travel in clear: plain http only to this machine, or where the user says so."""
    if urlsplit(endpoint).scheme == "https" or os.environ.get("ARTIFACTMOUNT_ALLOW_HTTP") == "1":
        return
    if not is_loopback(endpoint):
        raise UsageError(
            f"{endpoint} is not https, so anybody on the way could read along; set ARTIFACTMOUNT_ALLOW_HTTP=1 if that is meant"
        )
