"""Rows collected into the canonical bytes of a run. Knows no store, cache or log; see `run` for how they are read."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from artifactmount.digest import DIGEST_LENGTH, Buffer
from artifactmount.pack import Place
from artifactmount.ranges import PackId
from artifactmount.rows import Change
from artifactmount.run import HEADER, MAGIC, VERSION, Run

_ZERO = bytes(DIGEST_LENGTH)


class _Places:
    """The columns of the chunk table, and the packs in the order of their first use."""

    def __init__(self) -> None:
        self.packs: dict[PackId, int] = {}
        self.columns = (array("I"), array("I"), array("I"), array("I"))

    def add(self, place: Place) -> None:
        packs, offsets, stored, plain = self.columns
        packs.append(self.packs.setdefault(place.pack, len(self.packs)))
        offsets.append(place.offset)
        stored.append(place.stored)
        plain.append(place.plain)

    def nowhere(self, count: int) -> None:
        """Add that many places of no pack."""
        self.packs[PackId(0, 0)] = 0
        for column in self.columns:
            column.frombytes(bytes(4 * count))

    def copy(self, run: Run, start: int, stop: int) -> None:
        """Add the places of a run's chunks [start, stop)."""
        packs, *others = run.chunk_columns
        number = {index: self.packs.setdefault(run.pack(index), len(self.packs)) for index in dict.fromkeys(packs[start:stop])}
        self.columns[0].extend(map(number.__getitem__, packs[start:stop]))
        for column, more in zip(self.columns[1:], others, strict=True):
            column.frombytes(more[start:stop].cast("B"))


def _in_order(counts: memoryview, digests: memoryview, listed: memoryview) -> bytes | memoryview:
    """The chunk digests of rows: a row's own digest where it has one chunk, those listed for it where it has more."""
    if counts.tolist().count(1) == len(counts):
        return digests
    found, at = bytearray(), 0
    for row, count in enumerate(counts):
        if count == 1:
            found += digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH]
        elif count:
            found += listed[at * DIGEST_LENGTH : (at + count) * DIGEST_LENGTH]
            at += count
    return bytes(found)


class RunBuilder:
    """Collects rows in order and writes a run. Places are asked for at the end: a lost commit asks again, for another base."""

    def __init__(self) -> None:
        self._dirs: list[bytes] = []
        self._dir_counts = array("I")
        self._changes, self._modes, self._name_lengths = bytearray(), bytearray(), bytearray()
        self._sizes, self._mtimes = array("Q"), array("q")
        self._names, self._digests, self._targets, self._chunk_digests = bytearray(), bytearray(), bytearray(), bytearray()
        self._target_lengths, self._chunk_counts = array("I"), array("I")
        self._copied = _Places()

    def __len__(self) -> int:
        return len(self._changes)

    def _count(self, key: bytes, rows: int) -> None:
        """So many rows more, of a directory."""
        if not self._dirs or self._dirs[-1] != key:
            self._dirs.append(key)
            self._dir_counts.append(0)
        self._dir_counts[-1] += rows

    def add(
        self,
        key: bytes,
        name: bytes,
        change: Change,
        mode: int,
        size: int,
        mtime: int = 0,
        digest: bytes = _ZERO,
        target: bytes = b"",
        chunks: bytes = b"",
        places: Iterable[Place] = (),
    ) -> None:
        """Add one row; rows MUST come in order. `chunks`: the digests of a file's chunks one after the other (32 bytes each).

        `places`: where they lie, for a run whose places are copied from others as they are (`finish` without asking).
        """
        self._count(key, 1)
        self._changes.append(change)
        self._modes.append(mode)
        self._name_lengths.append(len(name))
        self._names += name
        self._sizes.append(size)
        self._mtimes.append(mtime)
        self._digests += digest
        self._target_lengths.append(len(target))
        self._targets += target
        self._chunk_counts.append(len(chunks) // DIGEST_LENGTH)
        self._chunk_digests += chunks
        for place in places:
            self._copied.add(place)

    def add_files(self, key: bytes, names: Sequence[bytes], modes: Buffer, sizes: array[int], mtimes: array[int], digests: Buffer) -> None:
        """Add files that are new, and have one chunk each (an empty one none), of one directory."""
        count = len(names)
        self._count(key, count)
        self._changes += bytes((Change.ADDED,)) * count
        self._modes += modes
        self._name_lengths += bytes(map(len, names))
        self._names += b"".join(names)
        self._sizes.extend(array("Q", sizes.tobytes()))
        self._mtimes.extend(mtimes)
        self._digests += digests
        self._target_lengths.extend(array("I", bytes(4 * count)))
        self._chunk_counts.extend(array("I", map(bool, sizes)))
        if 0 in sizes:
            digests = b"".join(digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH] for row, size in enumerate(sizes) if size)
        self._chunk_digests += digests

    def copy(self, key: bytes, run: Run, start: int, stop: int, change: Change | None = None) -> None:
        """Add rows [start, stop) of one directory of a run, with the places they have: slices of columns, no loop over rows.

        `change`: what is said of them instead of what the run says.
        """
        if start == stop:
            return
        self._count(key, stop - start)
        name, target, chunk, listed = run.spans(start)
        name_stop, target_stop, chunk_stop, listed_stop = run.spans(stop)
        counts, digests = run.chunk_counts[start:stop], run.digests[start * DIGEST_LENGTH : stop * DIGEST_LENGTH]
        self._changes += run.changes[start:stop] if change is None else bytes((change,)) * (stop - start)
        self._modes += run.modes[start:stop]
        self._name_lengths += run.name_lengths[start:stop]
        self._names += run.names[name:name_stop]
        self._sizes.frombytes(run.sizes[start:stop].cast("B"))
        self._mtimes.frombytes(run.mtimes[start:stop].cast("B"))
        self._digests += digests
        self._target_lengths.frombytes(run.target_lengths[start:stop].cast("B"))
        self._targets += run.targets[target:target_stop]
        self._chunk_counts.frombytes(counts.cast("B"))
        self._chunk_digests += _in_order(counts, digests, run.listed_digests[listed * DIGEST_LENGTH : listed_stop * DIGEST_LENGTH])
        self._copied.copy(run, chunk, chunk_stop)

    def chunk_digests(self) -> Iterator[bytes]:
        """Every chunk digest of the rows, in row order, repeats included."""
        heap = self._chunk_digests
        return (bytes(heap[i : i + DIGEST_LENGTH]) for i in range(0, len(heap), DIGEST_LENGTH))

    def given_places(self) -> Iterator[Place]:
        """The places that were given with the rows, chunk by chunk in row order; none where they are not known yet."""
        packs = list(self._copied.packs)
        return (Place(packs[pack], *rest) for pack, *rest in zip(*self._copied.columns, strict=True))

    def files(self) -> Iterator[tuple[bytes, bytes, int, list[bytes]]]:
        """(directory key, name, size, chunk digests) of every row that has chunks, in order."""
        row = name = digest = 0
        for key, rows in zip(self._dirs, self._dir_counts, strict=True):
            for _ in range(rows):
                end = digest + self._chunk_counts[row] * DIGEST_LENGTH
                name_end = name + self._name_lengths[row]
                if end > digest:
                    heap = self._chunk_digests
                    digests = [bytes(heap[i : i + DIGEST_LENGTH]) for i in range(digest, end, DIGEST_LENGTH)]
                    yield key, bytes(self._names[name:name_end]), self._sizes[row], digests
                row, name, digest = row + 1, name_end, end

    def finish_without_places(self) -> bytes:
        """The bytes of a run whose chunks lie nowhere."""
        places = _Places()
        if self._chunk_digests:
            places.nowhere(len(self._chunk_digests) // DIGEST_LENGTH)
        return self._finish(places)

    def finish(self, place_of: Callable[[bytes], Place] | None = None) -> bytes:
        """The run's bytes. `place_of(chunk digest)` says where each chunk lies; without it, the places given with the rows hold."""
        places = self._copied
        if place_of is not None:
            places = _Places()
            for digest in self.chunk_digests():
                places.add(place_of(digest))
        return self._finish(places)

    def _finish(self, places: _Places) -> bytes:
        listed = self._listed_digests()
        dir_heap = b"".join(self._dirs)
        header = HEADER.pack(
            MAGIC,
            VERSION,
            len(self),
            len(self._dirs),
            len(places.columns[0]),
            len(listed) // DIGEST_LENGTH,
            len(places.packs),
            len(dir_heap),
            len(self._names),
            len(self._targets),
        )
        parts: Sequence[bytes | bytearray | array[int]] = (
            header,
            array("H", map(len, self._dirs)),
            self._dir_counts,
            dir_heap,
            self._changes,
            self._modes,
            self._sizes,
            self._mtimes,
            self._name_lengths,
            self._names,
            self._digests,
            self._target_lengths,
            self._targets,
            self._chunk_counts,
            *places.columns,
            listed,
            array("Q", (pack.session for pack in places.packs)),
            array("I", (pack.number for pack in places.packs)),
        )
        return b"".join(bytes(part) for part in parts)

    def _listed_digests(self) -> bytes:
        heap = self._chunk_digests
        if not self._chunk_counts or max(self._chunk_counts) <= 1:
            return b""
        listed, at = bytearray(), 0
        for count in self._chunk_counts:
            if count > 1:
                listed += heap[at : at + count * DIGEST_LENGTH]
            at += count * DIGEST_LENGTH
        return bytes(listed)
