"""A run: what one version changed against the live version before it, in canonical columns. Knows no store, cache or log.

The bytes are specified in docs/format.md, "Run". They are canonical: heaps hold exactly what the rows use, in row order, so nothing
deleted lingers in them and equal input gives equal bytes. They are read in place (usually from a memory-mapped file of the cache), so a
run of a million rows costs no memory of its own but two sparse indexes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, compress, repeat
from typing import NamedTuple, overload

from artifactmount.digest import CHUNK_LIMIT, DIGEST_LENGTH, Buffer, chunk_digest, content_digest
from artifactmount.errors import CorruptError
from artifactmount.pack import Place
from artifactmount.ranges import NUMBER_LIMIT, SESSION_LIMIT, PackId
from artifactmount.rows import (
    MODES,
    PATH_LIMIT,
    RECORD_LIMIT,
    ROW_LIMIT,
    SIZE_LIMIT,
    Change,
    Kind,
    check_key,
    check_names,
    kind_of,
    path_of,
)

MAGIC = b"AMRN"
VERSION = 1
#: magic, version, 3 zero bytes, rows, directories, chunks, listed digests, packs; bytes of: directory heap, name heap, target heap
HEADER = struct.Struct("<4sB3x5Q3Q")
_BLOCK = 64
_ZERO = bytes(DIGEST_LENGTH)
_PACK_BYTES_LIMIT = 1 << 26  # an offset beyond this lies in no pack


class ChunkRef(NamedTuple):
    """A chunk of a file and where the run says it lies. The place is a hint, the digest is the truth."""

    digest: bytes
    place: Place


class _Blocks:
    """Prefix sums of a column of counts, kept for every 64th row: 1/64 of the memory, at most 64 additions for a look-up."""

    __slots__ = ("_counts", "_sums", "total")

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        blocks = (sum(counts[i : i + _BLOCK]) for i in range(0, len(counts), _BLOCK))
        self._sums = array("Q", accumulate(chain((0,), blocks)))
        self.total = self._sums[-1]

    def before(self, row: int) -> int:
        start = row & -_BLOCK
        return self._sums[row >> 6] + sum(self._counts[start:row])


class Run:
    """The rows of one run, read in place from `buffer`.

    `check=False` is for bytes that were checked before they were written to the cache; everything from a store is checked: arbitrary
    bytes give CorruptError, and nothing is allocated beyond the size of the input. `name` gives the digest of a symlink's target.
    """

    __slots__ = (
        "_chunk_digests",
        "_chunk_index",
        "_chunks",
        "_digests",
        "_listed_index",
        "_modes",
        "_mtimes",
        "_name_index",
        "_names",
        "_packs",
        "_sizes",
        "_target_index",
        "_targets",
        "buffer",
        "changes",
        "chunk_counts",
        "count",
        "digest",
        "dir_counts",
        "dir_heap",
        "dir_lengths",
        "name_lengths",
        "target_lengths",
    )

    def __init__(
        self, buffer: bytes | memoryview, digest: bytes, *, check: bool = True, name: Callable[[Buffer], bytes] = chunk_digest
    ) -> None:
        view = memoryview(buffer).toreadonly()
        if len(view) < HEADER.size:
            raise CorruptError(f"a run of {len(view)} bytes")
        magic, version, n, d, c, listed, p, dir_bytes, name_bytes, target_bytes = HEADER.unpack_from(view)
        if magic != MAGIC or version != VERSION or any(view[5:8]):
            raise CorruptError("not a run, or of an unknown version")
        # Python's integers do not overflow, so a lying header just fails this comparison, before anything is allocated.
        size = HEADER.size + 6 * d + dir_bytes + 59 * n + name_bytes + target_bytes + 16 * c + 32 * listed + 12 * p
        if size != len(view) or n > ROW_LIMIT:
            raise CorruptError(f"a run says it has {size} bytes and has {len(view)}")
        at = HEADER.size

        def column(width: int, items: int) -> memoryview:
            nonlocal at
            start, at = at, at + width * items
            return view[start:at]

        self.buffer, self.count, self.digest = view, n, digest
        self.dir_lengths = column(2, d).cast("H")
        self.dir_counts = column(4, d).cast("I")
        self.dir_heap = column(1, dir_bytes)
        self.changes = column(1, n)
        self._modes = column(1, n)
        self._sizes = column(8, n).cast("Q")
        self._mtimes = column(8, n).cast("q")
        self.name_lengths = column(1, n)
        self._names = column(1, name_bytes)
        self._digests = column(DIGEST_LENGTH, n)
        self.target_lengths = column(4, n).cast("I")
        self._targets = column(1, target_bytes)
        self.chunk_counts = column(4, n).cast("I")
        chunks = [column(4, c).cast("I") for _ in range(4)]
        self._chunks = (chunks[0], chunks[1], chunks[2], chunks[3])
        self._chunk_digests = column(DIGEST_LENGTH, listed)
        self._packs = (column(8, p).cast("Q"), column(4, p).cast("I"))
        self._chunk_index: _Blocks | None = None
        self._listed_index: array[int] | None = None
        self._name_index: _Blocks | None = None
        self._target_index: _Blocks | None = None
        if check:
            _check(self, name)

    # -- columns, as slices, for whoever merges ------------------------------------------------------------------------------------
    @property
    def modes(self) -> memoryview:
        """Mode bytes, one a row."""
        return self._modes

    @property
    def sizes(self) -> memoryview:
        """Sizes in bytes (uint64), one a row."""
        return self._sizes

    @property
    def mtimes(self) -> memoryview:
        """Modification times in ns (int64), one a row; zero where the version's own time is shown."""
        return self._mtimes

    @property
    def names(self) -> memoryview:
        """All names, one after the other."""
        return self._names

    @property
    def digests(self) -> memoryview:
        """Content digests, 32 bytes a row; zero for directories and removals."""
        return self._digests

    @property
    def packs(self) -> list[PackId]:
        """The packs that this run's places name, in the order of their first use."""
        sessions, numbers = self._packs
        return [PackId(session, number) for session, number in zip(sessions, numbers, strict=True)]

    def directories(self) -> Iterator[tuple[bytes, int, int]]:
        """(directory key, first row, row after the last) of every directory that has rows here, in order."""
        at = row = 0
        for length, count in zip(self.dir_lengths, self.dir_counts, strict=True):
            yield bytes(self.dir_heap[at : at + length]), row, row + count
            at += length
            row += count

    def name_offsets(self) -> array[int]:
        """Where each name starts in the heap, and one past the end (n + 1 items). Made anew at each call."""
        return array("Q", accumulate(self.name_lengths, initial=0))

    def chunk_offsets(self) -> array[int]:
        """Where the chunks of each row begin in `chunk_columns`, and one past the end (n + 1 items). Made anew at each call."""
        return array("Q", accumulate(self.chunk_counts, initial=0))

    # -- one row -------------------------------------------------------------------------------------------------------------------
    def path(self, row: int) -> bytes:
        """The path of a row. Adds up everything before it: for messages, not for loops."""
        start = sum(self.name_lengths[:row])
        key = next(key for key, _, stop in self.directories() if row < stop)
        return path_of(key, bytes(self._names[start : start + self.name_lengths[row]]))

    def change(self, row: int) -> Change:
        """Added, changed or removed."""
        return Change(self.changes[row])

    def mode(self, row: int) -> int:
        """The mode byte."""
        return int(self._modes[row])

    def size(self, row: int) -> int:
        """Size in bytes."""
        return int(self._sizes[row])

    def mtime(self, row: int) -> int:
        """Modification time in ns."""
        return int(self._mtimes[row])

    def digest_of(self, row: int) -> bytes:
        """The content digest of a file, symlink or reference."""
        return bytes(self._digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH])

    def target(self, row: int) -> bytes:
        """A symlink's target, a reference's record; empty for everything else."""
        if self._target_index is None:
            self._target_index = _Blocks(self.target_lengths)
        start = self._target_index.before(row)
        return bytes(self._targets[start : start + self.target_lengths[row]])

    def chunks(self, row: int) -> Sequence[ChunkRef]:
        """The chunks of a file, in file order; none for an empty file."""
        count = self.chunk_counts[row]
        if not count:
            return []
        first, listed = self._chunk_span(row)
        if count == 1:
            return [ChunkRef(self.digest_of(row), self._place(first))]
        return _Chunks(self, first, listed, count)

    def only_chunk(self, row: int) -> ChunkRef | None:
        """The chunk of a file that has exactly one, as every small file: `chunks` for who opens many of them."""
        if self.chunk_counts[row] != 1:
            return None
        if self._chunk_index is None:
            self._chunk_index = _Blocks(self.chunk_counts)
        return ChunkRef(self.digest_of(row), self._place(self._chunk_index.before(row)))

    def chunk_starts(self, row: int) -> array[int]:
        """Where each chunk of a file begins in it, and the file's size behind them."""
        count = self.chunk_counts[row]
        if count == 1:  # most files, and the chunk has the file's size
            return array("Q", (0, self._sizes[row]))
        first = self._chunk_span(row)[0] if count else 0
        return array("Q", accumulate(self._chunks[3][first : first + count], initial=0))

    def all_chunks(self) -> Iterator[ChunkRef]:
        """Every chunk that the run names, in row order (a digest may come more than once)."""
        packs = self.packs
        for _, digest, pack, offset, stored, plain in self.places():
            yield ChunkRef(digest, Place(packs[pack], offset, stored, plain))

    def places(self) -> Iterator[tuple[int, bytes, int, int, int, int]]:
        """(row, digest, index in `packs`, offset, stored length, plain length) of every chunk, in row order: `all_chunks` for who counts a
        million of them, as plain numbers (0.4 µs each instead of 3)."""
        counts, heap = self.chunk_counts, bytes(self._digests)
        if len(self._chunk_digests):
            rows = chain.from_iterable(map(repeat, range(self.count), counts))
            return zip(rows, self._digests_in_order(heap), *self._chunks, strict=True)
        digests = [heap[at : at + DIGEST_LENGTH] for at in range(0, len(heap), DIGEST_LENGTH)]
        return zip(compress(range(self.count), counts), compress(digests, counts), *self._chunks, strict=True)

    def _digests_in_order(self, heap: bytes) -> Iterator[bytes]:
        listed = 0
        for row, count in enumerate(self.chunk_counts):
            if count == 1:
                yield heap[DIGEST_LENGTH * row : DIGEST_LENGTH * (row + 1)]
            elif count:
                yield from self._listed(listed, count)
                listed += count

    def _listed(self, first: int, count: int) -> list[bytes]:
        start = first * DIGEST_LENGTH
        return [bytes(self._chunk_digests[i : i + DIGEST_LENGTH]) for i in range(start, start + count * DIGEST_LENGTH, DIGEST_LENGTH)]

    def _place(self, chunk: int) -> Place:
        packs, offsets, stored, plain = self._chunks
        return Place(self.pack(packs[chunk]), offsets[chunk], stored[chunk], plain[chunk])

    def spans(self, row: int) -> tuple[int, int, int, int]:
        """Where a row's name and target begin in their heaps, its chunks in `chunk_columns`, and its digests among `listed_digests`.

        Good for one past the last row, too: two calls bound what a slice of rows has of each.
        """
        if self._name_index is None:
            self._name_index = _Blocks(self.name_lengths)
        if self._target_index is None:
            self._target_index = _Blocks(self.target_lengths)
        return self._name_index.before(row), self._target_index.before(row), *self._chunk_span(row)

    def pack(self, index: int) -> PackId:
        """The index-th of `packs`."""
        return PackId(self._packs[0][index], self._packs[1][index])

    @property
    def targets(self) -> memoryview:
        """All targets, one after the other."""
        return self._targets

    @property
    def chunk_columns(self) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """Index in `packs`, offset, stored and plain length, of every chunk."""
        return self._chunks

    @property
    def listed_digests(self) -> memoryview:
        """The chunk digests, 32 bytes each, of the files that have more than one."""
        return self._chunk_digests

    def _chunk_span(self, row: int) -> tuple[int, int]:
        """Index of the row's first chunk in the chunk table, and of its first digest among those listed (count above 1)."""
        if self._chunk_index is None:
            self._chunk_index = _Blocks(self.chunk_counts)
        if self._listed_index is None:
            counts, sums = self.chunk_counts, [0]
            for i in range(0, self.count, _BLOCK):
                block = counts[i : i + _BLOCK]
                sums.append(sums[-1] + (_listed_in(block) if max(block) > 1 else 0))
            self._listed_index = array("Q", sums)
        return self._chunk_index.before(row), self._listed_index[row >> 6] + _listed_in(self.chunk_counts[row & -_BLOCK : row])


class _Chunks(Sequence[ChunkRef]):
    """The chunks of a large file, each made when it is asked for: a million of them as values would be 300 MB."""

    __slots__ = ("_count", "_first", "_listed", "_run")

    def __init__(self, run: Run, first: int, listed: int, count: int) -> None:
        self._run, self._first, self._listed, self._count = run, first, listed, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ChunkRef: ...

    @overload
    def __getitem__(self, index: slice) -> list[ChunkRef]: ...

    def __getitem__(self, index: int | slice) -> ChunkRef | list[ChunkRef]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        at = index % self._count
        (digest,) = self._run._listed(self._listed + at, 1)
        return ChunkRef(digest, self._run._place(self._first + at))


def _listed_in(counts: memoryview) -> int:
    return sum(count for count in counts if count > 1)


def _check(run: Run, name: Callable[[Buffer], bytes]) -> None:
    """Everything a reader relies on, once, for bytes from a store. Raises CorruptError."""
    n, (chunk_packs, offsets, stored, plain) = run.count, run._chunks
    if not all(change <= Change.REMOVED for change in set(run.changes)) or not set(run.modes) <= MODES:
        raise CorruptError("a run with an unknown kind or change")
    sums = (sum(run.dir_counts), sum(run.dir_lengths), sum(run.name_lengths), sum(run.target_lengths), sum(run.chunk_counts))
    if sums != (n, len(run.dir_heap), len(run.names), len(run._targets), len(offsets)):
        raise CorruptError("a run whose columns do not add up")
    if 0 in run.dir_counts or 0 in bytes(run.name_lengths) or bytes(run.names).find(b"/") >= 0 or bytes(run.names).find(b"\0") >= 0:
        raise CorruptError("a run with an empty directory entry, an empty name, or a name with a slash or NUL")
    if n and max(run.sizes) >= SIZE_LIMIT:
        raise CorruptError("a run with a size beyond 2^62")
    used = list(dict.fromkeys(chunk_packs))
    if used != list(range(len(run._packs[0]))) or len(set(run.packs)) != len(used):
        raise CorruptError("a run whose pack table is not exactly what its chunks use")
    if any(pack.session >= SESSION_LIMIT or pack.number >= NUMBER_LIMIT for pack in run.packs):
        raise CorruptError("a run with a pack that cannot be")
    if len(plain) and (max(plain) > CHUNK_LIMIT or min(plain) < 1 or max(offsets) > _PACK_BYTES_LIMIT):
        raise CorruptError("a run with a chunk of an impossible size or place")
    if len(stored) and (max(stored) > CHUNK_LIMIT or min(stored) < 1):
        raise CorruptError("a run with a chunk of an impossible stored size")
    _check_directories(run)
    _check_rows(run, name)


def _check_directories(run: Run) -> None:
    name_at, before = run.name_offsets(), None
    for key, start, stop in run.directories():
        check_key(key)
        if before is not None and key <= before:
            raise CorruptError("a run whose directories are out of order")
        before = key
        names = [bytes(run.names[name_at[row] : name_at[row + 1]]) for row in range(start, stop)]
        check_names(names)
        if key and len(key) + 1 + max(map(len, names)) > PATH_LIMIT:
            raise CorruptError(f"a path longer than {PATH_LIMIT} bytes")


_FILE, _REMOVED = int(Kind.FILE), int(Change.REMOVED)  # comparing members of an enum takes three times as long


def _check_rows(run: Run, name: Callable[[Buffer], bytes]) -> None:
    plain = run._chunks[3]
    chunk = listed = 0
    columns = zip(run.changes, run.modes, run.sizes, run.mtimes, run.target_lengths, run.chunk_counts, strict=True)
    for row, (change, mode, size, mtime, target, count) in enumerate(columns):
        # Nearly all rows are these, and there may be millions: 0.3 µs each instead of 2.8.
        if count == 1 and not target and mode & 3 == _FILE and change != _REMOVED and plain[chunk] == size:
            chunk += 1
            continue
        kind = kind_of(mode)
        if change == Change.REMOVED or kind is Kind.DIRECTORY:
            good = not (target or count or mtime) and run.digest_of(row) == _ZERO and (change == Change.REMOVED or size == 0)
        elif kind is Kind.FILE:
            good = not target and sum(plain[chunk : chunk + count]) == size
            if good and count != 1:
                good = run.digest_of(row) == content_digest(run._listed(listed, count))
        elif kind is Kind.SYMLINK:
            text = run.target(row) if 0 < target == size <= PATH_LIMIT else b""
            good = bool(text) and not (count or mtime) and b"\0" not in text and run.digest_of(row) == name(text)
        else:
            good = not count and 0 < target <= RECORD_LIMIT and run.digest_of(row) == name(run.target(row))
        if not good:
            raise CorruptError(f"row {row} of a run contradicts itself")
        chunk += count
        listed += count if count > 1 else 0
    if listed * DIGEST_LENGTH != len(run._chunk_digests):
        raise CorruptError("a run with digests that no row uses")
