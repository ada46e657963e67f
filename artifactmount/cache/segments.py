"""Chunks in append-only segment files under a byte budget. A segment is evicted whole, the least recently used first.

Every process appends to a segment of its own; the index says which digest lies where. Read by pread, never mapped: a file that somebody
truncates would be SIGBUS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from artifactmount.cache.environment import Environment
from artifactmount.digest import chunk_digest
from artifactmount.private import make_folder

_WHERE = struct.Struct(">QQI")  # segment, offset, length; big-endian, so that members sort by segment
_SEGMENT = struct.Struct(">Q")
_SHARE = 16
_SMALLEST = 1 << 20
_DESCRIPTORS = 64
_TOUCH_SECONDS = 30
_LONGEST = 16 << 20
_FURTHEST = 1 << 62


class Segments:
    """The segment files in `path`, indexed in the tables "chunks" and "members" of `index`."""

    def __init__(self, path: str, index: Environment, budget: int) -> None:
        self._path, self._index, self._budget = path, index, budget
        self._limit = max(budget // _SHARE, min(_SMALLEST, budget))
        self._lock = threading.RLock()  # of the segment being written
        self._reading = threading.RLock()  # of the descriptors: apart, so that a reader never waits for a writer's disk
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._touched: dict[int, float] = {}
        self._mine: tuple[int, int, int] | None = None  # segment, descriptor, bytes

    def close(self) -> None:
        """Close all files."""
        with self._reading:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()
        with self._lock:
            self._end_mine()

    # -- reading -------------------------------------------------------------------------------------------------------------------
    def get(self, digest: bytes, name: Callable[[bytes], bytes] = chunk_digest) -> bytes | None:
        """A chunk's bytes, verified: `name` gives their digest."""
        where = self._index.get("chunks", digest)
        if where is None:
            return None
        # The index proves nothing of itself: without these bounds a flipped bit in it could ask for 4 GiB, or for what pread cannot take.
        segment, offset, length = _WHERE.unpack(where) if len(where) == _WHERE.size else (0, 0, 0)
        content = self._read(segment, offset, length) if offset <= _FURTHEST and length <= _LONGEST else None
        if content is not None and len(content) == length and name(content) == digest:
            return content
        self._drop(digest, where)
        return None

    def _read(self, segment: int, offset: int, length: int) -> bytes | None:
        with self._reading:
            descriptor = self._descriptors.get(segment)
            try:
                if descriptor is None:
                    self._close_gone()
                    descriptor = os.open(self._file(segment), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    self._descriptors[segment] = descriptor
                    if len(self._descriptors) > _DESCRIPTORS:
                        os.close(self._descriptors.popitem(last=False)[1])
                else:
                    self._descriptors.move_to_end(segment)
                # Under the lock, so that nobody closes the descriptor meanwhile; a page-cache read of 1 MiB is 0.2 ms.
                content = os.pread(descriptor, length, offset)
            except OSError:
                return None
        self._touch(segment)
        return content

    def _close_gone(self) -> None:
        """Let go of evicted segments: an unlinked file takes its place on the disk for as long as it is open."""
        with self._reading:
            for segment, descriptor in list(self._descriptors.items()):
                if os.fstat(descriptor).st_nlink == 0:
                    os.close(self._descriptors.pop(segment))

    def _touch(self, segment: int) -> None:
        """Last use is the file's mtime: seen by all processes, and no write to the index."""
        now = time.monotonic()
        if now - self._touched.get(segment, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            self._touched[segment] = now
            with contextlib.suppress(OSError):
                os.utime(self._file(segment))

    def _drop(self, digest: bytes, where: bytes) -> None:
        def drop(txn: Any) -> None:
            table = self._index.table("chunks")
            if txn.get(digest, db=table) == where:
                txn.delete(digest, db=table)

        self._index.change(drop)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Take chunks out of the index, and overwrite their bytes with zeros: what was deleted must not wait for the eviction."""
        found: list[bytes] = []

        def drop(txn: Any) -> None:
            chunks, members = self._index.table("chunks"), self._index.table("members")
            for digest in digests:
                where = txn.pop(digest, db=chunks)
                if where is not None and len(where) == _WHERE.size:
                    txn.delete(where, db=members)
                    found.append(where)

        if self._index.change(drop):
            for where in found:
                self._erase(*_WHERE.unpack(where))

    def _erase(self, segment: int, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._file(segment), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if offset + length <= os.fstat(descriptor).st_size:  # a flipped bit in the index must not make a file grow
                    os.pwrite(descriptor, bytes(length), offset)
            finally:
                os.close(descriptor)

    # -- writing -------------------------------------------------------------------------------------------------------------------
    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Append chunks and index them. Raises OSError when there is no room; then what was indexed before stays right."""
        with self._lock:
            written: list[tuple[bytes, bytes]] = []
            try:
                for digest, content in items:
                    if len(content) <= self._limit and self._index.get("chunks", digest) is None:
                        written.append((digest, self._append(content)))
            finally:
                self._record(written)

    def _record(self, written: list[tuple[bytes, bytes]]) -> None:
        def put(txn: Any) -> None:
            chunks, members = self._index.table("chunks"), self._index.table("members")
            for digest, where in written:
                txn.put(digest, where, db=chunks)
                txn.put(where, digest, db=members)

        if written and not self._index.change(put):
            raise OSError(str(self._index.failure))

    def _append(self, content: bytes) -> bytes:
        if self._mine is None or self._mine[2] + len(content) > self._limit or not self._sound(self._mine):
            self._end_mine()
            self._begin_mine()
        assert self._mine is not None
        segment, descriptor, size = self._mine
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            self._end_mine()  # what was written of it is in no index
            if not size:
                with contextlib.suppress(OSError):
                    os.unlink(self._file(segment))  # or each try on a full disk would leave an empty file
            raise
        self._mine = (segment, descriptor, size + len(content))
        return _WHERE.pack(segment, size, len(content))

    @staticmethod
    def _sound(mine: tuple[int, int, int]) -> bool:
        """Whether nobody deleted or cut the file: what was appended to it then would be found by nobody."""
        status = os.fstat(mine[1])
        return status.st_nlink > 0 and status.st_size == mine[2]

    def _begin_mine(self) -> None:
        make_folder(self._path)
        self._evict(self._budget - self._limit)
        segment = time.time_ns()
        descriptor = os.open(self._file(segment), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # nobody evicts what is being written
        self._mine = (segment, descriptor, 0)

    def _end_mine(self) -> None:
        if self._mine is not None:
            os.close(self._mine[1])
            self._mine = None

    # -- the budget ----------------------------------------------------------------------------------------------------------------
    def _evict(self, room: int) -> None:
        """Unlink segments, the least recently used first, until all of them take at most `room` bytes."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        for _, size, segment in files:
            if total <= room:
                break
            if self._remove(segment):
                total -= size
        self._close_gone()

    def _remove(self, segment: int) -> bool:
        try:
            descriptor = os.open(self._file(segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # its writer lives
        finally:
            os.close(descriptor)

        def forget(txn: Any) -> None:
            prefix = _SEGMENT.pack(segment)
            cursor = txn.cursor(db=self._index.table("members"))
            chunks = self._index.table("chunks")
            while cursor.set_range(prefix) and cursor.key().startswith(prefix):
                where, digest = cursor.item()
                if txn.get(digest, db=chunks) == where:
                    txn.delete(digest, db=chunks)
                cursor.delete()

        self._index.change(forget)
        with contextlib.suppress(OSError):
            os.unlink(self._file(segment))  # readers that have it open go on
        return True

    def _files(self) -> list[tuple[float, int, int]]:
        found: list[tuple[float, int, int]] = []
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError, ValueError):
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, int(entry.name, 16)))
        return sorted(found)

    def total(self) -> int:
        """Bytes of all segment files."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> None:
        """Unlink all segments but those that other processes write to."""
        with self._lock:
            self._end_mine()
            self._evict(0)

    def _file(self, segment: int) -> str:
        return os.path.join(self._path, f"{segment:016x}")
