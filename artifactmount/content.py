"""Reading the files of a staging folder into chunks: hashed and compressed in threads, handed on in order, in bounded memory.

Knows staging and digests. What is done with a chunk is the caller's business.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import NamedTuple

from artifactmount.digest import CHUNK_LIMIT, DIGEST_LENGTH, PLAIN_CHUNKING, SINGLE_LIMIT, Buffer, Chunking, content_digest
from artifactmount.listing import FIELDS, stat_record, unchanged
from artifactmount.manifest import MISSING
from artifactmount.pack import compress
from artifactmount.reading import UNREAD, Folder, Reads, read_files
from artifactmount.scan import Found
from artifactmount.staging import Staged
from artifactmount.workers import Job, WorkerLostError, Workers

_BATCH_FILES = 128
_BATCH_BYTES = 4 << 20
_AHEAD = 4  # batches read before their turn: with the one in hand 20 MiB at most
_WINDOW = 8 * CHUNK_LIMIT
#: Worker processes take 0.1 s of CPU to start, as much as they save with so many files.
_MANY = 1000


class Chunk(NamedTuple):
    """A chunk as it was read. `stored` is None when the caller knew it already; it is good until the next one is asked for."""

    digest: bytes
    plain: int
    stored: Buffer | None


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read: its digest, its chunks' digests, and the stat that was true all the while."""

    digest: bytes
    chunk_digests: bytes
    status: os.stat_result


class Read(NamedTuple):
    """A small file as it was read: the stat record that was true all the while, its digest, and its only chunk (None for an empty file)."""

    record: Sequence[int]
    digest: bytes
    chunk: Chunk | None


class Batch(NamedTuple):
    """Some paths, and beside each what was read of it: None where nothing was wanted, and for a file of more than one chunk."""

    found: list[Found]
    reads: Iterable[Read | None]


class NewFiles(NamedTuple):
    """New files, read just as they were listed, one after the other in their listing: what is done with them is done to all at once.

    `stored`: the bytes of all, good until the next batch is asked for.
    """

    found: list[Found]
    reads: Reads
    stored: memoryview


Fill = Callable[[memoryview, int], int]
"""Puts bytes of a file from an offset on into a buffer, and says how many; 0 at its end. As `os.preadv` does."""


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

    def stream(self, fill: Fill) -> Iterator[list[Chunk]]:
        """A file of any size as chunks, a window at a time in order. Chunks are good until the next window is asked for."""
        for window in self._windows(fill):
            yield list(self._pool.map(self.chunk, window))

    def _windows(self, fill: Fill) -> Iterator[list[memoryview]]:
        """The file cut into chunks, some at a time; the next bytes are read while these are hashed.

        Into two buffers by turns, each with room in front for what the window before left over: a new one for every 16 MiB, and the two
        made one, took as long as hashing them.
        """
        buffers = [memoryview(bytearray(CHUNK_LIMIT + _WINDOW)) for _ in range(2)]
        turn = offset = rest = 0
        reading = self._pool.submit(fill, buffers[0][CHUNK_LIMIT:], 0)
        while True:
            buffer, got = buffers[turn], reading.result()
            turn, offset = 1 - turn, offset + got
            view = buffer[CHUNK_LIMIT - rest : CHUNK_LIMIT + got]
            if got:
                reading = self._pool.submit(fill, buffers[turn][CHUNK_LIMIT:], offset)
            chunks: list[memoryview] = []
            start = 0
            # A cut depends on the CHUNK_LIMIT bytes after its start, so near the end of what was read it must wait for more.
            while start < len(view) and (not got or len(view) - start >= CHUNK_LIMIT):
                # A file that shrank below the limit since it was listed is one chunk, as any file of its size.
                whole = offset == len(view) and not got and len(view) <= SINGLE_LIMIT
                length = len(view) if whole else self.chunking.cut(view[start:])
                chunks.append(view[start : start + length])
                start += length
            rest = len(view) - start
            buffers[turn][CHUNK_LIMIT - rest : CHUNK_LIMIT] = view[start:]
            if chunks:
                yield chunks
            if not got:
                return


class ContentReader(Chunker):
    """Reads the files of what is staged."""

    def __init__(self, staging: Staged, known: Callable[[bytes], bool], threads: int = 2, chunking: Chunking = PLAIN_CHUNKING) -> None:
        super().__init__(known, threads, chunking)
        self._staging = staging

    def small(self, found: Iterable[Found], wanted: Callable[[Found], bool], files: int = 0) -> Iterator[Batch | NewFiles]:
        """Every path, in order, some at a time, with its content where it is `wanted`.

        `files`: about how many are wanted. Of many, worker processes read.
        """
        workers = self._staging.workers() if files >= _MANY else None
        room = _AHEAD if workers is None else workers.room
        waiting: deque[Callable[[], Batch | NewFiles]] = deque()
        for batch in _batches(found):
            if len(waiting) == room:
                yield waiting.popleft()()
            waiting.append(self._begin(batch, wanted, workers))
        while waiting:
            yield waiting.popleft()()

    def _begin(self, batch: list[Found], wanted: Callable[[Found], bool], workers: Workers | None) -> Callable[[], Batch | NewFiles]:
        """Begin to read a batch; what is given waits for it."""
        if workers is None:
            return self._pool.submit(self._read_batch, batch, wanted).result
        chosen = [found for found in batch if wanted(found)]
        folders: list[Folder] = []
        for found in chosen:
            where = self._staging.located(found.key, found.name)
            if where is None:  # a file that is not of this machine is read here
                return partial(self._read_batch, batch, wanted)
            root, key, name = where
            if folders and folders[-1].key == key and folders[-1].root == root:
                folders[-1].names.append(name)
            else:
                folders.append(Folder(root, key, [name]))
        if not folders:
            return partial(Batch, batch, repeat(None, len(batch)))
        try:
            return partial(self._take, batch, chosen, workers.give(read_files, self.chunking, folders))
        except WorkerLostError:
            return partial(self._read_batch, batch, wanted)

    def _take(self, batch: list[Found], chosen: list[Found], job: Job) -> Batch | NewFiles:
        """What a worker read."""
        try:
            reads: Reads = job.wait()
        except WorkerLostError:
            asked = set(map(id, chosen))
            return self._read_batch(batch, lambda found: id(found) in asked)
        if len(chosen) == len(batch) and _are_new(batch, reads):
            return NewFiles(batch, reads, job.slot)
        read = self._decode(chosen, reads, job.slot)
        asked = set(map(id, chosen))
        return Batch(batch, (next(read) if id(found) in asked else None for found in batch))

    def _decode(self, chosen: list[Found], reads: Reads, stored: memoryview) -> Iterator[Read | None]:
        """File by file. What was left unread, or is not what was listed, is read here."""
        lengths, records = array("i", reads.lengths), array("q", reads.records)
        at = 0
        for row, found in enumerate(chosen):
            length, record = lengths[row], records[row * FIELDS : (row + 1) * FIELDS]
            digest = reads.digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH]
            if length == UNREAD or found.listing is None or record != found.listing.records[found.row * FIELDS : (found.row + 1) * FIELDS]:
                yield self.one(found.path)
            elif not record[1]:
                yield Read(record, digest, None)
            else:
                yield Read(record, digest, Chunk(digest, record[1], None if self.known(digest) else stored[at : at + length]))
            at += max(length, 0)

    def _read_batch(self, batch: list[Found], wanted: Callable[[Found], bool]) -> Batch:
        return Batch(batch, [self.one(found.path) if wanted(found) else None for found in batch])

    def one(self, path: bytes) -> Read | None:
        """A small file; None when it is larger than one chunk (it may have grown since it was listed)."""
        read = self._staging.read(path, SINGLE_LIMIT)
        if read is None:
            return None
        content, status = read
        chunk = self.chunk(content) if content else None
        return Read(stat_record(status), content_digest([]) if chunk is None else chunk.digest, chunk)

    def large(self, path: bytes) -> Iterator[list[Chunk] | Content]:
        """A large file: its chunks, a window at a time in order, and at the end the content.

        A file that changed while it was read is read again from its start: chunks come again then, and only the content at the end says
        which count. After three tries it raises StagingError naming it.
        """
        for _ in range(3):
            descriptor = self._staging.open(path)
            try:
                before, digests, total = os.fstat(descriptor), list[bytes](), 0
                for chunks in self.stream(partial(_fill, descriptor)):
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


def _fill(descriptor: int, view: memoryview, offset: int) -> int:
    return os.preadv(descriptor, [view], offset)


def _are_new(batch: list[Found], reads: Reads) -> bool:
    first, last = batch[0], batch[-1]
    listing, start, stop = first.listing, first.row, last.row + 1
    if listing is None or last.listing is not listing or stop - start != len(batch) or any(found.old != MISSING for found in batch):
        return False
    return UNREAD not in array("i", reads.lengths) and listing.records[start * FIELDS : stop * FIELDS].tobytes() == reads.records


def _batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    size = 0
    for item in found:
        batch.append(item)
        if item.listing is not None:
            size += min(item.listing.size(item.row), SINGLE_LIMIT)
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
