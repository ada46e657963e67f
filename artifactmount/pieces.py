"""What a file in a mount is read in: chunks of packs, or blocks of what a reference leads to. One face for the reader; blocking code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from artifactmount.blocks import Blocks
from artifactmount.fetch import Fetcher
from artifactmount.held import Part
from artifactmount.ranges import PackId
from artifactmount.rows import Kind, kind_of
from artifactmount.run import ChunkRef, Run
from artifactmount.state import State

_TOGETHER = 4 << 20  # bytes


class Pieces(Protocol):
    """The pieces of one file, in order. Sizes and offsets in bytes."""

    @property
    def size(self) -> int:
        """Of the file."""
        ...

    def __len__(self) -> int: ...

    def at(self, offset: int) -> int:
        """The piece that holds the byte at `offset`, which is below `size`."""
        ...

    def start(self, index: int) -> int:
        """The offset of a piece in the file."""
        ...

    def name(self, index: int) -> bytes:
        """What tells a piece from every other one: equal names, equal bytes."""
        ...

    def cached(self, index: int) -> bytes | None:
        """A piece that is at hand; None where it takes a request."""
        ...

    def has(self, index: int) -> bool:
        """Whether a piece can be read without a store or source."""
        ...

    def fetch(self, index: int) -> bytes:
        """A piece, from where it lies."""
        ...

    def pack(self, index: int) -> PackId | None:
        """The pack to fetch whole when more than one piece of it is wanted; None where each is fetched by itself."""
        ...

    def fetch_pack(self, index: int) -> dict[bytes, bytes]:
        """The pieces of its pack by their names, from this one on; what cannot be had is left out."""
        ...

    def groups(self, indices: Sequence[int]) -> list[list[int]]:
        """These pieces, which have no pack to be fetched whole, in groups that are worth fetching in one go."""
        ...

    def fetch_group(self, indices: Sequence[int]) -> dict[bytes, Part]:
        """The pieces of a group by their names; what is not right is left out."""
        ...


class Chunks:
    """A file's own content: chunks in packs."""

    def __init__(self, run: Run, row: int, fetcher: Fetcher, state: Callable[[], State]) -> None:
        self._run, self._fetcher, self._state = run.digest, fetcher, state
        self._refs: Sequence[ChunkRef] = run.chunks(row)
        self._starts: Sequence[int] = run.chunk_starts(row)

    @property
    def size(self) -> int:
        """See Pieces."""
        return self._starts[-1]

    def __len__(self) -> int:
        return len(self._refs)

    def at(self, offset: int) -> int:
        """See Pieces."""
        return bisect_right(self._starts, offset) - 1

    def start(self, index: int) -> int:
        """See Pieces."""
        return self._starts[index]

    def name(self, index: int) -> bytes:
        """See Pieces."""
        return self._refs[index].digest

    def cached(self, index: int) -> bytes | None:
        """See Pieces. Packs of a folder project are read where they lie."""
        return self._fetcher.ready(self._refs[index])

    def has(self, index: int) -> bool:
        """See Pieces."""
        return self._fetcher.in_place or self._fetcher.has(self.name(index))

    def fetch(self, index: int) -> bytes:
        """See Pieces."""
        return self._fetcher.chunk(self._refs[index], self._state(), self._run)

    def pack(self, index: int) -> PackId | None:
        """See Pieces."""
        return None if self._fetcher.in_place else self._refs[index].place.pack

    def fetch_pack(self, index: int) -> dict[bytes, bytes]:
        """See Pieces."""
        return self._fetcher.whole_pack(self._refs[index].place.pack, self._state(), self.name(index))

    def groups(self, indices: Sequence[int]) -> list[list[int]]:
        """See Pieces. Those that lie one behind the other in a pack; few enough that two threads have something to do."""
        groups: list[list[int]] = []
        before, size = None, 0
        for index in indices:
            place = self._refs[index].place
            follows = before is not None and (place.pack, place.offset) == (before.pack, before.offset + before.stored)
            if not follows or size + place.plain > _TOGETHER:
                groups.append([])
                size = 0
            groups[-1].append(index)
            before, size = place, size + place.plain
        return groups

    def fetch_group(self, indices: Sequence[int]) -> dict[bytes, Part]:
        """See Pieces."""
        return self._fetcher.neighbours([self._refs[index] for index in indices], self._state())


def pieces_of(run: Run, row: int, fetcher: Fetcher, state: Callable[[], State], blocks: Blocks) -> Pieces:
    """The pieces of a row of a run. Raises CorruptError, NeedsNewerError for a reference that cannot be understood."""
    if kind_of(run.mode(row)) is Kind.REFERENCE:
        return blocks.of(run.target(row), run.size(row))
    return Chunks(run, row, fetcher, state)
