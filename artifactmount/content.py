"""Reading the files of a staging folder into chunks: hashed and compressed in threads, handed on in order, in bounded memory.

Knows staging and digests. What is done with a chunk is the caller's business.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from artifactmount.digest import CHUNK_LIMIT, PLAIN_CHUNKING, SINGLE_LIMIT, Chunking, content_digest
from artifactmount.pack import compress
from artifactmount.scan import Found
from artifactmount.staging import Staged, unchanged

_BATCH_FILES = 128
_BATCH_BYTES = 4 << 20
_AHEAD = 4  # batches read before their turn: with the one in hand 20 MiB at most
_WINDOW = 8 * CHUNK_LIMIT


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as it was read. `stored` is None when the caller knew it already."""

    digest: bytes
    plain: int
    stored: bytes | None


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read: its digest, its chunks' digests, and the stat that was true all the while."""

    digest: bytes
    chunk_digests: bytes
    status: os.stat_result


Read = tuple[Content, Chunk | None]
"""A small file: its content, and its only chunk (None for an empty file)."""


class Chunker:
    """Cuts bytes into chunks, in threads. `known(digest)` is asked from there whether a chunk is needed at all."""

    def __init__(self, known: Callable[[bytes], bool], threads: int = 2, chunking: Chunking = PLAIN_CHUNKING) -> None:
        self.known, self.chunking = known, chunking
        self._pool = ThreadPoolExecutor(threads)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def chunk(self, plain: bytes | memoryview) -> Chunk:
        """Bytes that are one chunk."""
        digest = self.chunking.digest(plain)
        return Chunk(digest, len(plain), None if self.known(digest) else compress(plain)[1])

    def stream(self, read: Callable[[int, int], bytes]) -> Iterator[list[Chunk]]:
        """A file of any size as chunks, a window at a time in order. `read(length, offset)` gives its bytes as `os.pread` does."""
        for window in self._windows(read):
            yield list(self._pool.map(self.chunk, window))

    def _windows(self, read: Callable[[int, int], bytes]) -> Iterator[list[memoryview]]:
        """The file cut into chunks, some at a time; the next bytes are read while these are hashed."""
        offset, rest = 0, b""
        reading = self._pool.submit(read, _WINDOW, 0)
        while True:
            got = reading.result()
            offset += len(got)
            if got:
                reading = self._pool.submit(read, _WINDOW, offset)
            view = memoryview(rest + got if rest else got)
            chunks: list[memoryview] = []
            start = 0
            # A cut depends on the CHUNK_LIMIT bytes after its start, so near the end of what was read it must wait for more.
            while start < len(view) and (not got or len(view) - start >= CHUNK_LIMIT):
                # A file that shrank below the limit since it was listed is one chunk, as any file of its size.
                whole = offset == len(view) and not got and len(view) <= SINGLE_LIMIT
                length = len(view) if whole else self.chunking.cut(view[start:])
                chunks.append(view[start : start + length])
                start += length
            rest = bytes(view[start:])
            if chunks:
                yield chunks
            if not got:
                return


class ContentReader(Chunker):
    """Reads the files of what is staged."""

    def __init__(self, staging: Staged, known: Callable[[bytes], bool], threads: int = 2, chunking: Chunking = PLAIN_CHUNKING) -> None:
        super().__init__(known, threads, chunking)
        self._staging = staging

    def small(self, found: Iterable[Found], wanted: Callable[[Found], bool]) -> Iterator[tuple[Found, Read | None]]:
        """Every path, in order, with its content where it is `wanted`; None elsewhere, and for a file of more than one chunk."""
        waiting: deque[tuple[list[Found], Future[list[Read | None]]]] = deque()
        for batch in _batches(found):
            waiting.append((batch, self._pool.submit(self._read_batch, batch, wanted)))
            if len(waiting) > _AHEAD:
                ready, future = waiting.popleft()
                yield from zip(ready, future.result(), strict=True)
        for ready, future in waiting:
            yield from zip(ready, future.result(), strict=True)

    def _read_batch(self, batch: list[Found], wanted: Callable[[Found], bool]) -> list[Read | None]:
        return [self.one(found.path) if wanted(found) else None for found in batch]

    def one(self, path: bytes) -> Read | None:
        """A small file; None when it is larger than one chunk (it may have grown since it was listed)."""
        read = self._staging.read(path, SINGLE_LIMIT)
        if read is None:
            return None
        content, status = read
        if not content:
            return Content(content_digest([]), b"", status), None
        chunk = self.chunk(content)
        return Content(chunk.digest, chunk.digest, status), chunk

    def large(self, path: bytes) -> Iterator[list[Chunk] | Content]:
        """A large file: its chunks, a window at a time in order, and at the end the content.

        A file that changed while it was read is read again from its start: chunks come again then, and only the content at the end says
        which count. After three tries it raises StagingError naming it.
        """
        for _ in range(3):
            descriptor = self._staging.open(path)
            try:
                before, digests, total = os.fstat(descriptor), list[bytes](), 0
                for chunks in self.stream(partial(os.pread, descriptor)):
                    digests += [chunk.digest for chunk in chunks]
                    total += sum(chunk.plain for chunk in chunks)
                    yield chunks
                    if total > before.st_size:
                        break  # it grows: whoever appends faster than this reads would keep it here for ever
                if unchanged(before, os.fstat(descriptor)) and total == before.st_size:
                    yield Content(content_digest(digests), b"".join(digests), before)
                    return
            except OSError as error:
                raise self._staging.unreadable(path, error) from error
            finally:
                os.close(descriptor)
        raise self._staging.restless(path)


def _batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    size = 0
    for item in found:
        batch.append(item)
        size += min(item.listing.size(item.row), SINGLE_LIMIT) if item.listing is not None else 0
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
