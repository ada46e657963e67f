"""Two runs that follow each other become one: what deleting the version between them means for the version above. Pure.

A manifest is an LSM tree in miniature, so deleting a version *is* a merge. The deleted version's names leave with it: what it added and the
next one removed is nothing now.
"""

from __future__ import annotations

from collections.abc import Iterator

from artifactmount.rows import Change
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder

_Row = tuple[bytes, bytes, Run, int]  # directory key, name, run, row

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
    """
    builder = RunBuilder()
    for key, name, run, row, change in _rows(older, newer):
        chunks = run.chunks(row)
        builder.add(
            key,
            name,
            change,
            run.mode(row),
            run.size(row),
            run.mtime(row),
            run.digest_of(row),
            run.target(row),
            b"".join(chunk.digest for chunk in chunks),
            [chunk.place for chunk in chunks],
        )
    return builder.finish()


def _rows(older: Run, newer: Run) -> Iterator[tuple[bytes, bytes, Run, int, Change]]:
    """The rows of the result, in order."""
    below, above = _walk(older), _walk(newer)
    a, b = next(below, None), next(above, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[:2] < b[:2]):
            assert a is not None
            yield (*a, older.change(a[3]))
            a = next(below, None)
        elif a is None or b[:2] < a[:2]:
            yield (*b, newer.change(b[3]))
            b = next(above, None)
        else:
            change = _BOTH.get((older.change(a[3]), newer.change(b[3])), newer.change(b[3]))
            if change is not None:
                yield (*b, change)
            a, b = next(below, None), next(above, None)


def _walk(run: Run) -> Iterator[_Row]:
    at, names = run.name_offsets(), run.names
    for key, start, stop in run.directories():
        for row in range(start, stop):
            yield key, bytes(names[at[row] : at[row + 1]]), run, row


def overridden(older: Run, newer: Run) -> set[int]:
    """The rows of `older` that `newer` changes or removes."""
    above = _walk(newer)
    b = next(above, None)
    rows: set[int] = set()
    for a in _walk(older):
        while b is not None and b[:2] < a[:2]:
            b = next(above, None)
        if b is not None and b[:2] == a[:2]:
            rows.add(a[3])
    return rows
