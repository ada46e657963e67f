"""Ranges of files, many at once: each piece is fetched once, several at a time. Blocking code; knows pieces, and no versions.

A miss fetches one piece; a second one in the same pack brings the whole pack, because small files are packed in the order of their paths,
and their neighbours are wanted next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from artifactmount.errors import ArtifactError
from artifactmount.pieces import Pieces
from artifactmount.ranges import PackId

_PARALLEL = 8
_MISSES = 4096


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes [start, stop) of a file of an artifact, within its size."""

    artifact: str
    pieces: Pieces
    start: int
    stop: int


@dataclass(slots=True)
class _Wanted:
    """A piece, and the answers that bytes of it go to."""

    artifact: str
    pieces: Pieces
    index: int
    answers: list[_Answer] = field(default_factory=list)

    @property
    def name(self) -> bytes:
        return self.pieces.name(self.index)

    def give(self, content: bytes) -> None:
        begin = self.pieces.start(self.index)
        for answer in self.answers:
            answer.take(begin, content)

    def fail(self, error: ArtifactError) -> None:
        for answer in self.answers:
            answer.error = error

    def fetch(self) -> None:
        try:
            content = self.pieces.cached(self.index)
            self.give(self.pieces.fetch(self.index) if content is None else content)
        except ArtifactError as error:
            self.fail(error)


class _Answer:
    """The bytes of one slice, as they come."""

    def __init__(self, asked: Slice) -> None:
        self._start, self._stop = asked.start, asked.stop
        self._bytes = bytearray(max(asked.stop - asked.start, 0))
        self.error: ArtifactError | None = None

    def take(self, begin: int, content: bytes) -> None:
        low, high = max(begin, self._start), min(begin + len(content), self._stop)
        if low < high:
            self._bytes[low - self._start : high - self._start] = memoryview(content)[low - begin : high - begin]

    @property
    def whole(self) -> bytes | ArtifactError:
        return bytes(self._bytes) if self.error is None else self.error


@dataclass(frozen=True, slots=True)
class _Group:
    """Pieces that are fetched in one go. `whole`: with the pack they lie in."""

    pieces: list[_Wanted]
    whole: bool


class VectoredReader:
    """Threads may share one; processes that were forked may not. It holds no bytes, only which packs were missed."""

    def __init__(self) -> None:
        self._missed: OrderedDict[tuple[str, PackId], None] = OrderedDict()
        self._kept = True  # whether the cache takes in what a pack brings, as far as is known

    def read(self, slices: Sequence[Slice]) -> list[bytes | ArtifactError]:
        """The bytes of each slice, in order, or why it cannot be read. Beside the answers it holds 8 packs, or 8 pieces, at once."""
        answers = [_Answer(asked) for asked in slices]
        wanted: dict[tuple[str, bytes, int], _Wanted] = {}
        for asked, answer in zip(slices, answers, strict=True):
            if asked.start >= asked.stop:
                continue
            pieces = asked.pieces
            for index in range(pieces.at(asked.start), pieces.at(asked.stop - 1) + 1):
                # The same bytes may stand at several places of a file, or of several: each place is its own.
                key = asked.artifact, pieces.name(index), pieces.start(index)
                wanted.setdefault(key, _Wanted(asked.artifact, pieces, index)).answers.append(answer)
        groups = self._grouped(list(wanted.values()))
        if len(groups) > 1:
            with ThreadPoolExecutor(min(_PARALLEL, len(groups))) as pool:
                list(pool.map(self._fetch, groups))
        else:
            for group in groups:
                self._fetch(group)
        return [answer.whole for answer in answers]

    def _grouped(self, wanted: list[_Wanted]) -> list[_Group]:
        """Pieces that lie in one pack, together; others alone."""
        packs: dict[tuple[str, PackId], list[_Wanted]] = {}
        groups: list[_Group] = []
        for piece in wanted:
            pack = piece.pieces.pack(piece.index)
            if pack is None or piece.pieces.has(piece.index):
                groups.append(_Group([piece], whole=False))
            else:
                packs.setdefault((piece.artifact, pack), []).append(piece)
        for key, together in packs.items():
            groups.append(_Group(together, whole=len(together) > 1 or (self._kept and key in self._missed)))
            self._missed[key] = None
        while len(self._missed) > _MISSES:
            self._missed.popitem(last=False)
        return groups

    def _fetch(self, group: _Group) -> None:
        first = group.pieces[0]
        try:
            contents = first.pieces.fetch_pack(first.index) if group.whole else {}
        except ArtifactError as error:
            for piece in group.pieces:
                piece.fail(error)
            return
        if contents and not first.pieces.has(first.index):
            self._kept = False  # then a pack is worth its bytes only to who wants several of its pieces now
        for piece in group.pieces:
            content = contents.get(piece.name)
            if content is None:
                piece.fetch()
            else:
                piece.give(content)
