"""Runs merged into tables, against trees as plain dicts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.digest import directory_digest
from artifactmount.manifest import MISSING, ROOT_ROW, Table
from artifactmount.merge import diff, merge
from artifactmount.rows import Kind, kind_of, path_of, split_path
from artifactmount.run import Run
from tests.unit.trees import DIRECTORY, Leaf, Tree, order, run_between, trees


def as_tree(table: Table, runs: list[Run]) -> Tree:
    by_digest = {run.digest: run for run in runs}
    tree: Tree = {}
    for key, name, row in table.walk():
        if table.kind(row) is Kind.DIRECTORY:
            tree[path_of(key, name)] = DIRECTORY
            continue
        origin, at = table.origin(row)
        run = by_digest[table.origins[origin]]
        assert (run.mode(at), run.size(at), run.digest_of(at)) == (table.mode(row), table.size(row), table.digest(row))
        chunks = tuple(ref.digest for ref in run.chunks(at))
        tree[path_of(key, name)] = Leaf(table.mode(row), table.size(row), table.mtime(row), table.digest(row), run.target(at), chunks)
    return tree


def naive_digest(tree: Tree, path: bytes = b"") -> bytes:
    """The directory digest by its definition, recursively, one row at a time."""
    rows = sorted(p for p in tree if p.rpartition(b"/")[0] == path and p != path)
    leaves = [tree[p] for p in rows]
    names = [p.rpartition(b"/")[2] for p in rows]
    return directory_digest(
        len(rows),
        bytes(leaf.mode for leaf in leaves),
        b"".join(leaf.size.to_bytes(8, "little") for leaf in leaves),
        bytes(map(len, names)),
        b"".join(names),
        b"".join(naive_digest(tree, p) if leaf is DIRECTORY else leaf.digest for p, leaf in zip(rows, leaves, strict=True)),
    )


@given(st.lists(trees(), min_size=1, max_size=4), st.data())
@settings(max_examples=150)
def test_any_split_of_the_chain_gives_the_same_table(versions: list[Tree], data: st.DataObject) -> None:
    states: list[Tree] = [{}, *versions]
    runs = [run_between(old, new) for old, new in pairwise(states)]
    at = data.draw(st.integers(0, len(runs)))
    base = Table(merge(None, runs[:at])) if at else None
    table = Table(merge(base, runs[at:]))
    tree = as_tree(table, runs)
    assert {p: leaf.identity for p, leaf in tree.items()} == {p: leaf.identity for p, leaf in versions[-1].items()}
    assert {p: leaf.chunks for p, leaf in tree.items()} == {p: leaf.chunks for p, leaf in versions[-1].items()}
    assert [path_of(k, n) for k, n, _ in table.walk()] == sorted(tree, key=order)
    assert table.root == naive_digest(versions[-1])
    assert bytes(merge(None, runs)[16:]) != b"" and Table(merge(None, runs)).root == table.root


@given(trees(), trees())
@settings(max_examples=150)
def test_diff_is_what_differs(old: Tree, new: Tree) -> None:
    a, b = Table(merge(None, [run_between({}, old)])), Table(merge(None, [run_between({}, new)]))
    found = {path_of(key, name): (x, y) for key, name, x, y in diff(a, b)}
    expected = {p for p in old.keys() | new.keys() if (p in old) != (p in new) or old[p].identity != new[p].identity}
    assert set(found) == expected
    assert list(found) == sorted(found, key=order)
    for path, (x, y) in found.items():
        assert (x == MISSING) == (path not in old) and (y == MISSING) == (path not in new)


@given(trees())
@settings(max_examples=100)
def test_looking_up(tree: Tree) -> None:
    table = Table(merge(None, [run_between({}, tree)]))
    assert table.lookup(b"") == table.lookup(b"/") == ROOT_ROW
    assert table.lookup(b"missing") == MISSING
    for path, leaf in tree.items():
        row = table.lookup(path)
        key, name = split_path(path)
        assert table.name(row) == name and table.directory_of(row) == key
        assert kind_of(table.mode(row)) is kind_of(leaf.mode)
        if leaf is DIRECTORY:
            start, stop = table.under(table.key_of(row))
            inside = {path_of(k, n) for k, n, _ in table.walk(start, stop)}
            assert inside == {p for p in tree if p.startswith(path + b"/")}
    assert table.under(b"") == (0, table.count)
