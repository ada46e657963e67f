"""Rows that several writers made, each against nothing, as one run: what the parts of one version come to. Pure.

Equal rows of two writers are one row, which keeps the places of the first; times are not content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter

from artifactmount.errors import CorruptError
from artifactmount.manifest import MISSING, Table
from artifactmount.merge import diff
from artifactmount.rows import Change, path_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder

_FIRST = itemgetter(0)
_Span = tuple[bytes, int, int, int]  # directory key or name; the run; its rows from, to


class ConflictError(Exception):
    """Two runs, by their indices, have other content at one path."""

    def __init__(self, path: bytes, one: int, other: int) -> None:
        super().__init__(path, one, other)
        self.path, self.one, self.other = path, one, other


def unite(runs: Sequence[Run]) -> bytes:
    """The run that holds all rows of these, as bytes, with the places they have. Raises ConflictError; CorruptError for a removal.

    Directories that only one has are copied as slices of columns, as are rows between those that several have.
    """
    if any(Change.REMOVED in bytes(run.changes) for run in runs):
        raise CorruptError("a part that removes something: it is against nothing")
    builder, offsets = RunBuilder(), [run.name_offsets() for run in runs]
    for key, group in groupby(merge(*(_directories(runs, index) for index in range(len(runs)))), _FIRST):
        spans = list(group)
        if len(spans) == 1:
            _, index, start, stop = spans[0]
            builder.copy(key, runs[index], start, stop, Change.ADDED)
            continue
        source, start, stop = 0, 0, 0  # rows that are not copied yet
        for name, same in groupby(merge(*(_rows(runs, offsets, span) for span in spans)), _FIRST):
            (_, index, row, _), *others = same
            for _, other, at, _ in others:
                if _content(runs[index], row) != _content(runs[other], at):
                    raise ConflictError(path_of(key, name), index, other)
            if (index, row) != (source, stop):
                builder.copy(key, runs[source], start, stop, Change.ADDED)
                source, start = index, row
            stop = row + 1
        builder.copy(key, runs[source], start, stop, Change.ADDED)
    return builder.finish()


def _directories(runs: Sequence[Run], index: int) -> Iterator[_Span]:
    return ((key, index, start, stop) for key, start, stop in runs[index].directories())


def _rows(runs: Sequence[Run], offsets: Sequence[Sequence[int]], span: _Span) -> Iterator[_Span]:
    _, index, start, stop = span
    at, heap = offsets[index], runs[index].names
    return ((bytes(heap[at[row] : at[row + 1]]), index, row, row + 1) for row in range(start, stop))


def _content(run: Run, row: int) -> tuple[int, int, bytes]:
    return run.mode(row), run.size(row), run.digest_of(row)


def between(base: Table, table: Table, run: Run) -> RunBuilder:
    """What leads from a base to a tree, with places. `run`: all rows of the tree against nothing, so row n of one is row n of the other."""
    builder = RunBuilder()
    if not base.count:
        for key, start, stop in run.directories():
            builder.copy(key, run, start, stop, Change.ADDED)
        return builder
    for key, name, old, new in diff(base, table):
        if new == MISSING:
            builder.add(key, name, Change.REMOVED, base.mode(old), base.size(old))
            continue
        change, chunks = Change.ADDED if old == MISSING else Change.CHANGED, run.chunks(new)
        digests, places = b"".join(chunk.digest for chunk in chunks), [chunk.place for chunk in chunks]
        content = run.digest_of(new), run.target(new), digests, places
        builder.add(key, name, change, run.mode(new), run.size(new), run.mtime(new), *content)
    return builder
