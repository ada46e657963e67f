"""`snapshot --part`, `--finish`, `--drop`: one version from many processes, as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program, in_bucket, in_folder
from tests.store.servers import Server

_WRITERS = 8
#: A process for each folder, all at once; what takes a second to be imported is imported once for all.
_FORK = """
import os, sys
import boto3, artifactmount.cli.snapshot
from artifactmount.cli import main

children = []
for folder in sys.argv[1:]:
    if not (child := os.fork()):
        code = main(["snapshot", "--part", "night", folder, "animals"])
        sys.stdout.flush()
        os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture(params=["folder", "s3"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    if request.param == "folder":
        return in_folder(tmp_path)
    server: Server = request.getfixturevalue("s3_server")
    return in_bucket(tmp_path, server)


def rank(program: Program, number: int, **more: str) -> str:
    """The folder of one writer: files of its own, and one that all have."""
    folder = program.folder / f"rank{number}"
    for name, content in {f"{number}/a": f"a of {number}", f"{number}/b": "same", "readme": "of all", **more}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder.name


def test_eight_processes_make_one_version(program: Program) -> None:
    """All at once; nothing is seen of them before, and nothing but the version is left of them."""
    folders = [rank(program, number) for number in range(_WRITERS)]
    program.quick = True
    program.run("snapshot", folders[0], "animals")  # so that one of them has nothing to store
    forked = subprocess.run(
        [sys.executable, "-c", _FORK, *folders], cwd=program.folder, env=program.environment, check=False, timeout=100, capture_output=True
    )
    assert (forked.returncode, forked.stderr) == (0, b"") and forked.stdout.count(b"animals: part ") == _WRITERS
    assert set(program.run("ls", "animals:latest").lines) == {"0", "readme"}
    assert "waiting: 8 parts of night, " in program.run("du", "animals").out
    done = program.run("snapshot", "--finish", "night", "animals", "--alias", "best", "--note", "all of them", "--json").json
    assert (done["version"], done["changed"], done["added"], done["aliases"]) == ("v1", True, 3 * 7, ["best", "latest"])
    assert set(program.run("ls", "animals:best").lines) == {"readme", *map(str, range(_WRITERS))}
    assert program.run("snapshot", "--finish", "night", "animals", "--parts", "8").out == "animals:v1  unchanged\n"
    assert "8 parts of night became v1, not 7" in program.run("snapshot", "--finish", "night", "animals", "--parts", "7", code=4).err
    assert (
        program.run("snapshot", "--part", "night", folders[3], "animals").out == "animals: 3 files  is in v1 already, which night became\n"
    )
    log = program.run("log", "animals").out
    assert log.count(" of night  3 files  adds ") == _WRITERS and "8 parts of night made animals:v1" in log and '"all of them"' in log
    program.run("verify")
    assert program.run("gc", "--grace", "0s").out == "nothing to delete\n"


def test_what_it_says(tmp_path: Path) -> None:
    program = in_folder(tmp_path)
    program.quick = True
    one, two = rank(program, 1), rank(program, 2, readme="another")
    said = program.run("snapshot", "--part", "night", one, "animals").out
    assert said == "animals: part 0 of night  3 files  adds 16 B  tracks 16 B  (1 part)\n"
    assert (
        program.run("snapshot", "--part", "night", one, "animals").out == "animals: part 0 of night  3 files  is there already  (1 part)\n"
    )
    program.run("snapshot", "--part", "night", two, "animals")
    found = program.run("verify")
    assert "all good" in found.out
    assert "2 parts of night wait, not 3" in program.run("snapshot", "--finish", "night", "animals", "--parts", "3", code=4).err
    refused = program.run("snapshot", "--finish", "night", "animals", code=4).err
    assert "readme differs between part 0 (by tester@" in refused
    (number,) = {word for word in refused.split() if word.startswith("night:")}
    assert program.run("snapshot", "--drop", number, "animals").out == "animals: 1 part of night given up\n"
    assert program.run("snapshot", "--drop", number, "animals", code=3).err
    program.run("gc", "--grace", "0s")
    assert "part 0 (by tester@" in program.run("snapshot", "--finish", "night", "animals", code=4).err
    assert program.run("snapshot", "--drop", "night", "animals", "--json").json == {"artifact": "animals", "id": "night", "dropped": [0]}
    assert "were given up" in program.run("snapshot", "--finish", "night", "animals", code=3).err
    assert "has no parts of day" in program.run("snapshot", "--finish", "day", "animals", code=3).err
    assert "1 part of night given up" in program.run("log", "animals").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--part", "a b", "rank1", "animals"),
        ("--part", "x", "rank1"),
        ("--part", "x", "rank1", "animals", "--note", "n"),
        ("--part", "x", "--finish", "x", "animals"),
        ("--finish", "x", "rank1", "animals"),
        ("--drop", "x", "animals", "--alias", "best"),
        ("--part", "x", "rank1", "animals", "--parts", "2"),
        ("--drop", "x:y", "animals"),
        ("rank1",),
    ],
)
def test_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    program = in_folder(tmp_path)
    program.quick = True
    rank(program, 1)
    program.run("snapshot", *arguments, code=2)
