"""Ids of packs, and sets of them as ranges. A session numbers its packs one after the other, so a version's packs are a handful
of ranges; where a session was gone on with, some numbers are left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from artifactmount.errors import CorruptError

SESSION_LIMIT = 10**16
NUMBER_LIMIT = 10**8


class PackId(NamedTuple):
    """A pack: the session that wrote it, and its number there."""

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class PackRanges:
    """An immutable set of packs: (session, first, last), sorted, merged, both ends included. Make one with `of` or `from_json`."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    @staticmethod
    def of(packs: Iterable[PackId]) -> PackRanges:
        """The set of these packs."""
        return PackRanges.merged((pack.session, pack.number, pack.number) for pack in packs)

    @staticmethod
    def merged(ranges: Iterable[tuple[int, int, int]]) -> PackRanges:
        """The set of these ranges, which may touch and overlap."""
        merged: list[tuple[int, int, int]] = []
        for session, first, last in sorted(ranges):
            if merged and merged[-1][0] == session and first <= merged[-1][2] + 1:
                merged[-1] = (session, merged[-1][1], max(last, merged[-1][2]))
            else:
                merged.append((session, first, last))
        return PackRanges(tuple(merged))

    @staticmethod
    def from_json(value: Any) -> PackRanges:
        """From [[session, first, last], …], which must be canonical. Raises CorruptError."""
        if not isinstance(value, list):
            raise CorruptError("ranges of packs are not a list")
        found: list[tuple[int, int, int]] = []
        for item in value:
            if not (isinstance(item, list) and len(item) == 3 and all(type(part) is int for part in item)):
                raise CorruptError(f"not a range of packs: {item!r:.80}")
            session, first, last = item
            if not (0 <= session < SESSION_LIMIT and 0 <= first <= last < NUMBER_LIMIT):
                raise CorruptError(f"a range of packs out of bounds: {item!r}")
            if found and (session, first) <= (found[-1][0], found[-1][2] + 1):
                raise CorruptError("ranges of packs are not in order and apart")
            found.append((session, first, last))
        return PackRanges(tuple(found))

    def to_json(self) -> list[list[int]]:
        """[[session, first, last], …]."""
        return [list(part) for part in self.ranges]

    def __iter__(self) -> Iterator[PackId]:
        return (PackId(session, number) for session, first, last in self.ranges for number in range(first, last + 1))

    def __len__(self) -> int:
        return sum(last - first + 1 for _, first, last in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, pack: object) -> bool:
        if not isinstance(pack, PackId):
            return False
        index = bisect_right(self.ranges, (pack.session, pack.number, NUMBER_LIMIT)) - 1
        if index < 0:
            return False
        session, _, last = self.ranges[index]
        return session == pack.session and pack.number <= last

    def __or__(self, other: PackRanges) -> PackRanges:
        if not other.ranges or not self.ranges:
            return self if not other.ranges else other
        return PackRanges.merged((*self.ranges, *other.ranges))

    def __sub__(self, other: PackRanges) -> PackRanges:
        left: list[tuple[int, int, int]] = []
        for session, first, last in self.ranges:
            index = max(bisect_right(other.ranges, (session, first, NUMBER_LIMIT)) - 1, 0)
            for taken_session, taken_first, taken_last in other.ranges[index:]:
                if (taken_session, taken_first) > (session, last):
                    break
                if taken_session != session or taken_last < first:
                    continue
                if taken_first > first:
                    left.append((session, first, taken_first - 1))
                first = taken_last + 1
            if first <= last:
                left.append((session, first, last))
        return PackRanges(tuple(left))

    def __le__(self, other: PackRanges) -> bool:
        return not (self - other)
