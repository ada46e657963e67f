"""Two runs that follow each other, and the one run that does both: the same table, without the version between them."""

from __future__ import annotations

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import Place
from artifactmount.ranges import PackId
from artifactmount.rows import Change, path_of, split_path
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.squash import overridden, squash
from tests.unit.trees import Leaf, Tree, link, run_between, sized, trees

_NOTHING: Tree = {}


def checked(columns: bytes) -> Run:
    """As it will be read from a store."""
    return Run(columns, blake3(columns).digest())


def table(*runs: Run) -> Table:
    return Table(memoryview(merge(None, list(runs))))


def rows_of(found: Table) -> list[tuple[bytes, bytes, int, int, int, bytes]]:
    """Every row, but for where it comes from."""
    return [(key, name, found.mode(row), found.size(row), found.mtime(row), found.digest(row)) for key, name, row in found.walk()]


def changes_of(run: Run) -> dict[bytes, Change]:
    """What a run says of each path."""
    offsets = run.name_offsets()
    return {
        path_of(key, bytes(run.names[offsets[row] : offsets[row + 1]])): run.change(row)
        for key, start, stop in run.directories()
        for row in range(start, stop)
    }


def content_of(*runs: Run) -> dict[bytes, tuple[bytes, list[tuple[bytes, Place]]]]:
    """Target and chunks with their places of every path, as the runs together have them."""
    made = table(*runs)
    writers = {run.digest: run for run in runs}
    found = {}
    for key, name, row in made.walk():
        origin, at = made.origin(row)
        run = writers[made.origins[origin]]
        found[path_of(key, name)] = run.target(at), [(chunk.digest, chunk.place) for chunk in run.chunks(at)]
    return found


@given(trees(), trees(), trees())
def test_one_run_does_what_both_did(first: Tree, second: Tree, third: Tree) -> None:
    base, older, newer = run_between(_NOTHING, first), run_between(first, second), run_between(second, third)
    both = checked(squash(older, newer))
    assert rows_of(table(base, both)) == rows_of(table(base, older, newer))
    assert table(base, both).root == table(base, older, newer).root == table(run_between(_NOTHING, third)).root
    assert content_of(base, both) == content_of(base, older, newer)
    alone = checked(squash(base, older))  # the lowest of all goes: its successor stands on nothing
    assert table(alone, newer).root == table(base, older, newer).root
    assert set(changes_of(alone).values()) <= {Change.ADDED}


@given(trees(), trees(), trees())
def test_what_it_says_of_each_path_is_true_of_the_version_below(first: Tree, second: Tree, third: Tree) -> None:
    both = checked(squash(run_between(first, second), run_between(second, third)))
    for path, change in changes_of(both).items():
        assert (path in first, path in third) == {
            Change.ADDED: (False, True),
            Change.CHANGED: (True, True),
            Change.REMOVED: (True, False),
        }[change]
    assert both.count >= run_between(first, third).count  # a path changed there and back may still be named


@given(trees(), trees(), trees(), trees())
def test_in_whatever_order_three_become_one(first: Tree, second: Tree, third: Tree, fourth: Tree) -> None:
    """But for the size that a removal shows: of which version it is depends on what was squashed first."""
    base, a, b, c = run_between(_NOTHING, first), run_between(first, second), run_between(second, third), run_between(third, fourth)
    left, right = checked(squash(checked(squash(a, b)), c)), checked(squash(a, checked(squash(b, c))))
    assert changes_of(left) == changes_of(right) and bytes(left.names) == bytes(right.names)
    assert list(left.all_chunks()) == list(right.all_chunks())
    assert rows_of(table(base, left)) == rows_of(table(base, right)) == rows_of(table(base, a, b, c))


_marks = st.integers(0, 999).map(lambda n: b"between%03d" % n)


@given(trees(), st.dictionaries(_marks, st.sampled_from((b"name", b"target", b"content")), min_size=1), trees())
def test_nothing_of_the_middle_version_lingers(first: Tree, marks: dict[bytes, bytes], third: Tree) -> None:
    """Names, link targets, digests and places of what only the version between had."""
    only: dict[bytes, Leaf] = {b"name of " + mark: {b"target": link(mark)}.get(how, sized([mark])) for mark, how in marks.items()}
    older, newer = run_between(first, {**third, **only}), run_between({**third, **only}, third)
    columns = squash(older, newer)
    for mark, leaf in ((mark, only[b"name of " + mark]) for mark in marks):
        assert mark in bytes(older.buffer)
        assert mark not in columns and leaf.digest not in columns
    named = {digest for leaf in third.values() for digest in leaf.chunks}
    both = checked(columns)
    assert {chunk.digest for chunk in both.all_chunks()} <= named
    assert set(both.packs) == {chunk.place.pack for chunk in both.all_chunks()}
    assert columns == squash(run_between(first, third), run_between(third, third)), "the same as if it had never been"


@given(trees(), trees(), trees())
def test_the_rows_that_are_overridden(first: Tree, second: Tree, third: Tree) -> None:
    older, newer = run_between(first, second), run_between(second, third)
    paths = list(changes_of(older))
    assert {paths[row] for row in overridden(older, newer)} == changes_of(older).keys() & changes_of(newer).keys()
    assert overridden(older, run_between(third, third)) == set()
    assert overridden(older, older) == set(range(older.count))


def run_of(path: bytes, change: Change, content: bytes = b"", place: int = 0) -> Run:
    """A run of one file."""
    builder, (key, name) = RunBuilder(), split_path(path)
    leaf = sized([content])
    if change is Change.REMOVED:
        builder.add(key, name, change, leaf.mode, len(content))
    else:
        places = [Place(PackId(place, 0), place, 7, len(content))]
        builder.add(key, name, change, leaf.mode, leaf.size, place, leaf.digest, b"", leaf.digest, places)
    return checked(builder.finish())


def test_every_pair_of_changes() -> None:
    """The newer row is copied as it is, its place too; what was added and removed is nothing."""
    added, changed, removed = Change.ADDED, Change.CHANGED, Change.REMOVED
    for older, newer, result in (
        (added, changed, added),
        (added, removed, None),
        (changed, changed, changed),
        (changed, removed, removed),
        (removed, added, changed),
    ):
        both = checked(squash(run_of(b"d/f", older, b"old", 1), run_of(b"d/f", newer, b"newer", 2)))
        assert changes_of(both) == ({} if result is None else {b"d/f": result}), (older, newer)
        if result is None:
            assert both.buffer == RunBuilder().finish()
        elif newer is not removed:
            (chunk,) = both.chunks(0)
            assert chunk.place == Place(PackId(2, 0), 2, 7, 5) and both.mtime(0) == 2 and both.size(0) == 5


def test_paths_that_one_run_alone_names_are_copied() -> None:
    older, newer = run_of(b"a-b", Change.ADDED, b"one", 1), run_of(b"a/b", Change.ADDED, b"two", 2)
    for below, above in ((older, newer), (newer, older)):
        both = checked(squash(below, above))
        assert changes_of(both) == {b"a-b": Change.ADDED, b"a/b": Change.ADDED}
        assert [chunk.place.pack for chunk in both.all_chunks()] == [PackId(1, 0), PackId(2, 0)]
    nothing = checked(RunBuilder().finish())
    assert squash(nothing, older) == squash(older, nothing) == bytes(older.buffer)
