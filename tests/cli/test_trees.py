"""Whatever Linux allows as a tree comes back as it was: odd names, depths, links; and any three trees in a row."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.program import Program
from tests.cli.trees import File, Folder, Link, Tree, read, write


def chain(name: bytes, levels: int, leaf: File) -> Tree:
    """A folder in a folder in a folder …, and in the last one a file."""
    tree: Tree = {b"/".join([name] * depth): Folder() for depth in range(1, levels + 1)}
    return tree | {b"/".join([name] * levels) + b"/f": leaf}


ODD: dict[str, Tree] = {
    "names": {
        name: File(name)
        for name in (
            b"\xff\xfe",
            b"new\nline",
            b"tab\t",
            b" ",
            b"-rf",
            b"~",
            b"$(x)",
            b"a\\b",
            b"\x01\x7f",
            "ü".encode(),
            b"u\xcc\x88",
            b"...",
        )
    },
    "case": {b"A": File(b"1"), b"a": File(b"2")},
    "long names": {b"x" * 255: File(b"1"), b"\xff" * 255: Folder(), b"\xff" * 255 + b"/" + b"y" * 255: Link(b"z" * 255)},
    "order": {b"a": Folder(), b"a/b": File(b"1"), b"a-b": File(b"2"), b"a.b": Folder(), b"a.b/c": File(b"3"), b"a\x01": File(b"4")},
    "empty": {b"file": File(), b"folder": Folder(), b"folder/folder": Folder(), b"folder/file": File()},
    "links": {
        b"dangling": Link(b"nowhere"),
        b"absolute": Link(b"/etc/passwd"),
        b"loop": Link(b"loop"),
        b"one": Link(b"two"),
        b"two": Link(b"one"),
        b"up": Link(b"../../.."),
        b"folder": Folder(),
        b"to folder": Link(b"folder/"),
        b"odd": Link(b"\xff\n"),
        b"long": Link(b"x" * 4095),
    },
    "executable": {b"yes": File(b"x", executable=True), b"no": File(b"x"), b"empty": File(b"", executable=True)},
    "sizes": {b"%d" % size: File(os.urandom(size)) for size in (1, 4095, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9_000_000)},
    "repeated": {b"zeros": File(bytes(5_000_000)), b"twice": File(b"same" * 500_000), b"again": File(b"same" * 500_000)},
}


@pytest.mark.parametrize("tree", ODD.values(), ids=ODD)
def test_odd_trees(program: Program, tmp_path: Path, tree: Tree) -> None:
    program.quick = True
    comes_back(program, tmp_path / "staging", tree)


def test_all_odd_trees_in_one(anywhere: Program, tmp_path: Path) -> None:
    folders: Tree = {name.encode(): Folder() for name in ODD}
    comes_back(
        anywhere, tmp_path / "staging", folders | {b"%s/%s" % (n.encode(), p): leaf for n, tree in ODD.items() for p, leaf in tree.items()}
    )


def comes_back(program: Program, staging: Path, tree: Tree) -> None:
    program.run("snapshot", write(staging, tree), "odd")
    program.run("download", "odd", "out")
    assert read(program.folder / "out") == tree == read(staging)
    assert program.run("snapshot", program.folder / "out", "odd").out == "odd:v0  unchanged\n"


@pytest.mark.parametrize(("name", "levels"), [(b"d" * 249, 16), (b"d", 2046)], ids=["long", "many"])
def test_deep_trees(program: Program, deep_path: Path, name: bytes, levels: int) -> None:
    """4,000 bytes and more of path, in few levels and in many; with the number of open files that users have."""
    tree = chain(name, levels, File(b"bottom"))
    staging = write(deep_path / "staging", tree)
    few = ("prlimit", "--nofile=1024", "--")
    program.run("snapshot", staging, "deep", prefix=few)
    program.run("download", "deep", "out", prefix=few)
    assert read(program.folder / "out") == tree
    assert program.run("download", "deep", "out", prefix=few).out.startswith("deep:v0  0 files (0 B) written, 1 kept")
    program.run("verify", prefix=few)
    bottom = b"/".join([name] * levels)
    assert program.run("ls", b"deep/" + bottom).out == "f\n"
    program.run("log", b"deep/" + bottom + b"/f")


def test_a_tree_that_is_too_deep_is_refused(program: Program, deep_path: Path) -> None:
    staging = write(deep_path / "staging", chain(b"d", 2040, File()))
    root = os.open(staging, os.O_RDONLY)
    bottom = os.open(b"/".join([b"d"] * 2040), os.O_RDONLY, dir_fd=root)
    os.mkdir(b"e" * 200, dir_fd=bottom)
    os.close(bottom)
    os.close(root)
    program.run("snapshot", staging, "deep", code=4)
    program.run("log", "deep", code=3)


def test_holes_and_hard_links_come_back_as_plain_content(program: Program, tmp_path: Path) -> None:
    staging = write(tmp_path / "staging", {b"one": File(b"linked")})
    os.link(staging / "one", staging / "two")
    with open(staging / "sparse", "wb") as file:
        file.truncate(200 << 20)
        file.seek(100 << 20)
        file.write(b"middle")
    assert program.run("snapshot", staging, "odd").out.startswith("odd:v0  +3 ~0 -0  adds ")
    program.run("download", "odd", "out")
    out = program.folder / "out"
    assert (out / "one").read_bytes() == (out / "two").read_bytes() == b"linked"
    assert (out / "one").stat().st_nlink == 1
    assert (out / "sparse").stat().st_size == 200 << 20
    assert (out / "sparse").stat().st_blocks * 512 < 8 << 20
    with open(out / "sparse", "rb") as file:
        assert file.read(100 << 20).count(0) == 100 << 20
        assert file.read(6) == b"middle"


def test_a_file_becomes_a_folder_a_link_and_a_file_again(anywhere: Program, tmp_path: Path) -> None:
    trees: list[Tree] = [
        {b"x": File(b"file"), b"y": File(b"stays")},
        {b"x": Folder(), b"x/inside": File(b"1"), b"x/z": Folder(), b"y": File(b"stays")},
        {b"x": Link(b"y"), b"y": File(b"stays")},
        {b"x": File(b"another"), b"y": File(b"stays")},
    ]
    for n, tree in enumerate(trees):
        assert anywhere.snapshot(write(tmp_path / "staging", tree), "odd") == f"v{n}"
    for n, tree in enumerate(trees):
        anywhere.run("download", f"odd:v{n}")
        assert read(anywhere.folder / f"artifacts/odd:v{n}") == tree
    anywhere.run("verify")


names = st.sampled_from([b"a", b"b", b"a-b", b"a.b", b"\x01", b"\xff", b"z" * 255])
leaves = st.one_of(
    st.builds(File, st.binary(max_size=3) | st.just(b"much" * 300_000), st.booleans()),
    st.builds(Link, st.binary(min_size=1, max_size=3).filter(lambda target: b"\0" not in target)),
    st.just(Folder()),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree whose parents are all there."""
    tree: Tree = {}
    for parts, leaf in draw(st.lists(st.tuples(st.lists(names, min_size=1, max_size=4), leaves), max_size=10)):
        parents = {b"/".join(parts[:depth]): Folder() for depth in range(1, len(parts))}
        if all(isinstance(tree.get(path, Folder()), Folder) for path in parents) and b"/".join(parts) not in tree:
            tree |= parents | {b"/".join(parts): leaf}
    return tree


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trees(), min_size=3, max_size=3))
def test_any_three_trees(sequence: list[Tree]) -> None:
    """One after the other in the same staging folder; each version comes back, into nothing and over the one before it."""
    with tempfile.TemporaryDirectory() as home:
        program = Program(Path(home))
        versions: list[str] = []
        for tree in sequence:
            ran = program.inside("snapshot", write(Path(home) / "staging", tree), "any", "--json")
            assert ran.code == 0, ran.err
            versions.append(ran.json["version"])
            assert (versions[-1] in versions[:-1]) == (not ran.json["changed"])
        for tree, version in zip(sequence, versions, strict=True):
            assert program.inside("download", f"any:{version}").code == 0
            assert read(program.folder / f"artifacts/any:{version}") == tree
        assert program.inside("verify").code == 0
