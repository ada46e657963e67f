"""A store that counts what S3 would be asked, and the commands of one machine over it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifactmount.cache import Cache
from artifactmount.project import Project
from artifactmount.store import Listed
from artifactmount.store.memory import MemoryStore
from artifactmount.store.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PAGE = 1000  # keys that one request lists or deletes


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests by the word that a bill has for them; bytes of content sent and received, without the protocol's own.

    A PUT that is refused (the key is there) and a GET of a key that is not there count: both are billed.
    """

    put: int = 0
    get: int = 0
    list: int = 0
    delete: int = 0
    head: int = 0
    up: int = 0
    down: int = 0

    def __add__(self, other: Requests) -> Requests:
        return Requests(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Requests:
        return Requests(*(a * times for a in astuple(self)))

    def without_bytes(self) -> Requests:
        """The requests alone."""
        return Requests(self.put, self.get, self.list, self.delete, self.head)


class CountedStore(MemoryStore):
    """A store in memory. Each of its calls is what `S3Store` sends for it (test_requests.py compares them)."""

    def __init__(self) -> None:
        super().__init__()
        self._counting = threading.Lock()
        self._total, self._versioning_known = Requests(), False

    def begin(self) -> None:
        """A process begins: it does not know yet whether the bucket keeps old versions."""
        self._total, self._versioning_known = Requests(), False

    def take(self) -> Requests:
        """What was asked since the last time."""
        with self._counting:
            total, self._total = self._total, Requests()
            return total

    def _count(self, requests: Requests) -> None:
        with self._counting:
            self._total += requests

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        self._count(Requests(get=1))
        content = super().get(key, start, stop)
        self._count(Requests(down=len(content)))
        return content

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        self._count(Requests(put=1, up=len(data)))
        return super().create(key, data)

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        self._count(Requests(list=-(-limit // _PAGE)))
        return super().list_keys(prefix, after, limit)

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        self._count(Requests(list=-(-limit // _PAGE)))
        return super().list_prefixes(prefix, after, limit)

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        self._count(Requests(delete=-(-len(keys) // _PAGE), get=not self._versioning_known and bool(keys)))
        self._versioning_known = True
        super().delete(keys)

    def clock(self) -> float:
        """See Store."""
        self._count(Requests(head=1))
        return super().clock()


class CountedS3Store(S3Store):
    """The real one, over a real server: what it really sends is counted."""

    def __init__(self, bucket: str) -> None:
        super().__init__(bucket, "p")
        self._counting, self._sent = threading.Lock(), Requests()

    def begin(self) -> None:
        """A process begins."""
        self._versioned, self._sent = None, Requests()

    def take(self) -> Requests:
        """What was sent since the last time, without bytes."""
        with self._counting:
            sent, self._sent = self._sent, Requests()
            return sent

    def _connect(self, attempts: int) -> S3Client:
        client = super()._connect(attempts)
        client.meta.events.register("before-send.s3", self._note)
        return client

    def _note(self, request: Any, **_: Any) -> None:
        listing = "list-type=2" in request.url
        one = Requests(
            put=request.method == "PUT",
            get=request.method == "GET" and not listing,
            list=listing,
            delete=request.method == "POST" and "?delete" in request.url,
            head=request.method == "HEAD",
        )
        assert one.put + one.get + one.list + one.delete + one.head == 1, request
        with self._counting:
            self._sent += one


class Machine:
    """A machine with a cache and what it remembers. Each `command` is a process of its own."""

    def __init__(self, folder: Path, store: CountedStore | CountedS3Store) -> None:
        self._folder, self.store = folder, store

    @contextmanager
    def command(self) -> Iterator[Project]:
        """The project, opened as a command opens it; what was counted before is forgotten."""
        cache = Cache(str(self._folder / "cache"), 1 << 30)
        try:
            self.store.begin()
            yield Project(self.store, cache, str(self._folder / "state"), create=True)
        finally:
            cache.close()
