"""Two runs that follow each other become one: what deleting the version between them means for the version above. Pure.

A manifest is an LSM tree in miniature, so deleting a version *is* a merge. The deleted version's names leave with it: what it added and the
next one removed is nothing now.
"""

from __future__ import annotations

from bisect import bisect_left

from artifactmount.rows import Change
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder

#: What two changes of one path come to; None is nothing at all.
_BOTH = {
    (Change.ADDED, Change.CHANGED): Change.ADDED,
    (Change.ADDED, Change.REMOVED): None,
    (Change.CHANGED, Change.CHANGED): Change.CHANGED,
    (Change.CHANGED, Change.REMOVED): Change.REMOVED,
    (Change.REMOVED, Change.ADDED): Change.CHANGED,
}


def squash(older: Run, newer: Run) -> bytes:
    """The run that does what `older` does and then `newer`, as bytes. Chunks keep the places they have: these are live because they are
    named there. A removal keeps the kind and size that the newer run knew.

    Rows between those that both have are copied as slices of columns: 100,000 rows and 1,000 changes take 0.1 s, row by row 2.
    """
    builder = RunBuilder()
    below, above = _Directories(older), _Directories(newer)
    for key in sorted(below.spans.keys() | above.spans.keys()):
        if key in below.spans and key in above.spans:
            _squash_directory(builder, key, below, above)
        else:
            run, (start, stop) = (older, below.spans[key]) if key in below.spans else (newer, above.spans[key])
            builder.copy(key, run, start, stop)
    return builder.finish()


class _Directories:
    """The directories of a run, by key: (first row, row after the last)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.spans = {key: (start, stop) for key, start, stop in run.directories()}
        self._at = run.name_offsets()

    def names(self, key: bytes) -> list[bytes]:
        """The names in a directory, in order."""
        (start, stop), at, heap = self.spans[key], self._at, self.run.names
        return [bytes(heap[at[row] : at[row + 1]]) for row in range(start, stop)]


def _squash_directory(builder: RunBuilder, key: bytes, below: _Directories, above: _Directories) -> None:
    older, newer, names = below.run, above.run, below.names(key)
    first, last = below.spans[key]
    row = waiting = above.spans[key][0]  # rows of the newer run from `waiting` on are not copied yet
    at = first  # neither are those of the older one from `at` on
    for name in above.names(key):
        here = first + bisect_left(names, name, at - first)
        found = here < last and names[here - first] == name
        if here > at or found:
            builder.copy(key, newer, waiting, row)
            builder.copy(key, older, at, here)
            at, waiting = here + found, row
        if found:
            change = newer.change(row)
            both = _BOTH.get((older.change(here), change), change)
            if both is not change:
                if both is not None:
                    builder.copy(key, newer, row, row + 1, both)
                waiting = row + 1
        row += 1
    builder.copy(key, newer, waiting, row)
    builder.copy(key, older, at, last)


def overridden(older: Run, newer: Run) -> set[int]:
    """The rows of `older` that `newer` changes or removes."""
    below, above = _Directories(older), _Directories(newer)
    rows: set[int] = set()
    for key in below.spans.keys() & above.spans.keys():
        first, names = below.spans[key][0], below.names(key)
        for name in above.names(key):
            at = bisect_left(names, name)
            if at < len(names) and names[at] == name:
                rows.add(first + at)
    return rows
