"""Pieces of files in memory, the least recently used dropped first. Knows neither stores nor the cache on disk.

Pieces that were read in one go lie one behind the other in one buffer, so that a request that spans several of them needs no copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from artifactmount.digest import Buffer


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [start, stop) of a buffer that nobody changes any more."""

    buffer: Buffer
    start: int
    stop: int

    @staticmethod
    def of(content: Buffer) -> Part:
        """All of a buffer."""
        return Part(content, 0, len(content))

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Part:
        """The bytes [start, stop) of this part, as far as it has them."""
        return Part(self.buffer, self.start + max(start, 0), min(self.start + stop, self.stop))


def joined(parts: Sequence[Part]) -> memoryview | bytes:
    """One after the other. Copied only where they do not lie so already."""
    first, last = parts[0], parts[-1]
    if all(before.buffer is after.buffer and before.stop == after.start for before, after in pairwise(parts)):
        return memoryview(first.buffer)[first.start : last.stop]
    return b"".join([memoryview(part.buffer)[part.start : part.stop] for part in parts])


@dataclass(slots=True)
class _Together:
    """A buffer, and the names of the pieces in it."""

    buffer: Buffer
    names: list[bytes]


class Held:
    """Pieces by their names: equal names, equal bytes. Whole buffers are dropped, so that what is held is what is counted."""

    def __init__(self, limit: int) -> None:
        """`limit`: in bytes, of all buffers."""
        self._limit, self._size = limit, 0
        self._parts: dict[bytes, Part] = {}
        self._buffers: OrderedDict[int, _Together] = OrderedDict()  # by id

    def __contains__(self, name: bytes) -> bool:
        return name in self._parts

    def get(self, name: bytes) -> Part | None:
        """A piece, which is now the most recently used."""
        part = self._parts.get(name)
        if part is not None:
            self._buffers.move_to_end(id(part.buffer))
        return part

    def put(self, pieces: Mapping[bytes, Part]) -> None:
        """Hold these, and drop what is too much then."""
        for name, part in pieces.items():
            if name in self._parts:
                continue
            together = self._buffers.get(id(part.buffer))
            if together is None:
                together = self._buffers[id(part.buffer)] = _Together(part.buffer, [])
                self._size += len(part.buffer)
            together.names.append(name)
            self._parts[name] = part
        while self._size > self._limit:
            _, dropped = self._buffers.popitem(last=False)
            self._size -= len(dropped.buffer)
            for name in dropped.names:
                del self._parts[name]
