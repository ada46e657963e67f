"""Downloads: into nothing, over what is there, through what was planted, and again after an interruption."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests import encryption
from tests.cli.program import Program
from tests.cli.trees import File, Folder, Link, Tree, files_below, read, write

TREE: Tree = {
    b"a.txt": File(b"a"),
    b"run.sh": File(b"#!/bin/sh\n", executable=True),
    b"link": Link(b"a.txt"),
    b"empty": Folder(),
    b"sub": Folder(),
    b"sub/b.txt": File(b"bb"),
    b"sub/deeper": Folder(),
    b"sub/deeper/c.txt": File(b"ccc"),
}


@pytest.fixture
def logged(anywhere: Program, tmp_path: Path) -> Program:
    anywhere.run("snapshot", write(tmp_path / "pets", TREE), "pets")
    return anywhere


@pytest.fixture
def kept(program: Program, tmp_path: Path) -> Program:
    """The same in a folder, for what does not depend on the store."""
    program.quick = True
    program.run("snapshot", write(tmp_path / "pets", TREE), "pets")
    return program


def test_to_the_folder_it_names_itself(logged: Program) -> None:
    assert logged.run("download", "pets").out == "pets:v0  5 files (16 B) written, 0 kept  artifacts/pets:v0\n"
    assert read(logged.folder / "artifacts/pets:v0") == TREE
    assert logged.run("download", "pets:latest").out == "pets:v0  0 files (0 B) written, 5 kept  artifacts/pets:v0\n"
    facts = {"version": "v0", "path": str(logged.folder / "x"), "written": 5, "kept": 0, "bytes": 16}
    assert logged.run("download", "pets:v0", "x", "--json").json == facts


@pytest.mark.parametrize("path", ["sub", "sub/", "sub/deeper", "sub/deeper/c.txt", "link", "empty"])
def test_a_part_keeps_its_paths(kept: Program, path: str) -> None:
    kept.run("download", f"pets:v0/{path}", "part")
    named = os.fsencode(path.rstrip("/"))
    parents = {named[:at]: Folder() for at in range(len(named)) if named[at : at + 1] == b"/"}
    assert read(kept.folder / "part") == parents | {p: leaf for p, leaf in TREE.items() if p == named or p.startswith(named + b"/")}


def test_times_are_those_of_the_first_log(kept: Program, tmp_path: Path) -> None:
    kept.run("download", "pets", "out")
    for path in files_below(tmp_path / "pets"):
        assert (kept.folder / "out" / path.relative_to(tmp_path / "pets")).stat().st_mtime_ns == path.stat().st_mtime_ns


def test_what_is_right_is_not_touched(kept: Program) -> None:
    """Neither its inode nor its time; and what is not of the version stays."""
    kept.run("download", "pets", "out")
    out = kept.folder / "out"
    (out / "mine.txt").write_bytes(b"mine")
    (out / "sub/b.txt").unlink()
    before = {path: path.stat() for path in files_below(out)}
    assert kept.run("download", "pets", "out").out.startswith("pets:v0  1 file (2 B) written, 4 kept")
    assert read(out) == TREE | {b"mine.txt": File(b"mine")}
    assert {path: path.stat().st_ino for path in before} == {path: status.st_ino for path, status in before.items()}


@pytest.mark.parametrize(
    "difference",
    [
        {b"sub/b.txt": File(b"BB")},
        {b"sub/b.txt": File(b"bbb")},
        {b"a.txt": File(b"a", executable=True)},
        {b"run.sh": File(b"#!/bin/sh\n")},
        {b"link": Link(b"b.txt")},
        {b"link": File(b"a.txt")},
        {b"a.txt": Link(b"sub/b.txt")},
    ],
    ids=repr,
)
def test_what_differs_is_refused_and_nothing_is_written(kept: Program, difference: Tree) -> None:
    """Unless --overwrite: then it is replaced."""
    there: Tree = {b"mine": File(b"mine"), b"sub": Folder(), **difference}
    write(kept.folder / "out", there)
    refused = kept.run("download", "pets", "out", code=4)
    assert "--overwrite" in refused.err and next(iter(difference)).decode() in refused.err
    assert read(kept.folder / "out") == there
    kept.run("download", "pets", "out", "--overwrite")
    assert read(kept.folder / "out") == TREE | {b"mine": File(b"mine")}


@pytest.mark.parametrize(
    "planted", [{b"sub": File(b"x")}, {b"a.txt": Folder()}, {b"a.txt": Folder(), b"a.txt/mine": File(b"mine")}], ids=repr
)
def test_a_file_is_never_replaced_by_a_folder_nor_a_folder_by_a_file(kept: Program, planted: Tree) -> None:
    write(kept.folder / "out", planted)
    for option in ((), ("--overwrite",)):
        kept.run("download", "pets", "out", *option, code=4)
        assert read(kept.folder / "out") == planted


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["plain", "overwrite"])
def test_nothing_is_written_through_a_planted_link(kept: Program, tmp_path: Path, options: tuple[str, ...]) -> None:
    """A link in the place of a folder is refused. One in the place of a file is refused, or replaced, never followed."""
    outside = write(tmp_path / "outside", {b"b.txt": File(b"precious"), b"deeper": Folder()})
    write(kept.folder / "folder", {b"sub": Link(os.fsencode(outside))})
    kept.run("download", "pets", "folder", *options, code=4)
    kept.run("download", "pets/sub/b.txt", "folder", *options, code=4)
    write(kept.folder / "file", {b"a.txt": Link(os.fsencode(outside / "b.txt")), b"run.sh": Link(os.fsencode(outside / "new"))})
    kept.run("download", "pets", "file", *options, code=0 if options else 4)
    assert read(outside) == {b"b.txt": File(b"precious"), b"deeper": Folder()}
    if options:
        assert read(kept.folder / "file") == TREE


def test_a_hard_link_of_the_users_keeps_its_content(kept: Program, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (kept.folder / "out").mkdir()
    os.link(tmp_path / "precious", kept.folder / "out/a.txt")
    kept.run("download", "pets", "out", "--overwrite")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_an_interrupted_download_goes_on(anywhere: Program, tmp_path: Path) -> None:
    """Killed when the first files have their names: they are not read again, and no half file has a name."""
    tree: Tree = {b"%02d" % n: File(Random(n).randbytes(8_000_000)) for n in range(16)}
    anywhere.run("snapshot", write(tmp_path / "big", tree), "big")
    out = anywhere.folder / "out"
    with anywhere.start("download", "big", "out") as process:
        deadline = time.monotonic() + 60
        while not any(out.glob("[0-9]*")) and process.poll() is None:
            assert time.monotonic() < deadline
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    present = {os.fsencode(path.name): File(path.read_bytes()) for path in out.glob("[0-9]*")}
    assert present.items() <= tree.items()
    done = anywhere.run("download", "big", "out", "--json").json
    assert (done["kept"], done["written"]) == (len(present), len(tree) - len(present))
    assert read(out) == tree  # and nothing that the killed one left


@encryption.plain_only
def test_a_damaged_store_is_6_and_gives_no_wrong_file(kept: Program) -> None:
    for path in files_below(Path(kept.project) / "artifacts/pets/data"):
        path.write_bytes(path.read_bytes().replace(b"ccc", b"ccd"))
    kept.run("download", "pets", "out", code=6)
    assert not (kept.folder / "out/sub/deeper/c.txt").exists()


def test_a_store_that_lost_a_pack_is_6(kept: Program) -> None:
    data = files_below(Path(kept.project) / "artifacts/pets/data")
    data[0].unlink()
    kept.run("download", "pets", "out", code=6)


def test_into_a_file_or_where_nothing_can_be_made(kept: Program) -> None:
    (kept.folder / "file").write_bytes(b"")
    kept.run("download", "pets", "file", code=4)
    kept.run("download", "pets", "file/below", code=4)
