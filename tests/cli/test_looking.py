"""Looking at what there is: ls, log, diff, show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import encryption
from tests.cli.program import Program, in_bucket, in_folder
from tests.cli.trees import File, Folder, Link, Tree, write

FIRST: Tree = {
    b"README": File(b"hello\n"),
    b"cats": Folder(),
    b"cats/1.png": File(b"one"),
    b"cats/2.png": File(b"two"),
    b"run.sh": File(b"#!/bin/sh\n", executable=True),
    b"newest": Link(b"cats/2.png"),
}
SECOND: Tree = FIRST | {b"cats/2.png": File(b"TWO!"), b"cats/3.png": File(b"three"), b"empty": Folder()}
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture(scope="module", params=["folder", "s3"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """pets:v0 and v1 (alias best), and a second artifact. Nothing here changes it."""
    home = tmp_path_factory.mktemp("logged")
    program = in_folder(home) if request.param == "folder" else in_bucket(home, request.getfixturevalue("s3_server"))
    program.quick = True
    folder = write(home / "pets", FIRST)
    os.utime(folder / "README", ns=(0, 1_000_000_000_000_000_001))
    program.run("snapshot", folder, "pets", "--note", "the first")
    write(folder, {path: leaf for path, leaf in SECOND.items() if path != b"README"})
    program.run("snapshot", folder, "pets", "--alias", "best")
    program.run("snapshot", write(home / "other", {b"x": File(b"x")}), "other")
    return program


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """pets:v0 in a folder. Nothing here changes it."""
    home = tmp_path_factory.mktemp("pets")
    program = in_folder(home)
    program.quick = True
    program.run("snapshot", write(home / "pets", FIRST), "pets")
    return program


def test_ls(logged: Program) -> None:
    assert logged.run("ls").lines == ["other", "pets"]
    assert logged.run("ls", "pets").lines == ["v0", "v1  best  latest"]
    assert logged.run("ls", "pets:v0").lines == ["README", "cats", "newest", "run.sh"]
    assert logged.run("ls", "pets:best").lines == ["cats", "empty", "newest", "run.sh"]
    assert logged.run("ls", "pets/cats").lines == logged.run("ls", "pets:latest/cats/").lines == ["1.png", "2.png", "3.png"]
    assert logged.run("ls", "pets/").lines == logged.run("ls", "pets:v1").lines
    assert logged.run("ls", "pets:v0/cats/1.png").lines == ["1.png"]
    assert logged.run("ls", "pets:v1/empty").lines == []


def test_ls_long(logged: Program) -> None:
    line = re.fullmatch(rf"other  v0  1  1 B  {TIME}\npets   v1  2  22 B  {TIME}\n", logged.run("ls", "-l").out.replace("   1 B", "  1 B"))
    assert line is not None
    v0, v1 = logged.run("ls", "pets", "-l").lines
    assert re.fullmatch(rf"v0  {TIME}  4  22 B  tester@\S+", v0) and re.fullmatch(rf"v1  {TIME}  4  22 B  tester@\S+  best latest", v1)
    readme, cats, newest, run = logged.run("ls", "pets:v0", "-l").lines
    assert readme == "-r--   6  2001-09-09 01:46  README"
    assert re.fullmatch(rf"dr-x   0  {TIME}  cats", cats)
    assert re.fullmatch(rf"lr--  10  {TIME}  newest -> cats/2\.png", newest)
    assert re.fullmatch(rf"-r-x  10  {TIME}  run\.sh", run)


def test_ls_as_json(logged: Program) -> None:
    assert [(a["artifact"], a["latest"], a["versions"], a["tracks"], a["type"]) for a in logged.run("ls", "--json").json] == [
        ("other", "v0", 1, 1, "dataset"),
        ("pets", "v1", 2, 22, "dataset"),
    ]
    v0, v1 = logged.run("ls", "pets", "--json").json
    assert (v0["version"], v0["aliases"], v0["added"], v0["directories"], v0["symlinks"]) == ("v0", [], 6, 1, 1)
    assert (v1["version"], v1["aliases"], v1["added"], v1["modified"], v1["removed"]) == ("v1", ["best", "latest"], 2, 1, 1)
    assert v0["digest"] != v1["digest"] and re.fullmatch("[0-9a-f]{64}", v0["digest"])
    readme, cats, newest, run = logged.run("ls", "pets:v0", "--json").json
    assert (readme["name"], readme["kind"], readme["size"], readme["mtime"]) == ("README", "file", 6, "2001-09-09T01:46:40Z")
    assert (cats["kind"], newest["kind"], newest["target"]) == ("directory", "symlink", "cats/2.png")
    assert (run["executable"], readme["executable"]) == (True, False)


def test_log(logged: Program) -> None:
    v1, v0 = logged.run("log", "pets").lines
    assert re.fullmatch(rf'{TIME}  tester@\S+  pets:v0  \+6 ~0 -0  adds 22 B  tracks 22 B  "the first"', v0)
    assert re.fullmatch(rf"{TIME}  tester@\S+  pets:v1  \+2 ~1 -1  adds 9 B  tracks 22 B, pets:best -> v1", v1)
    assert logged.run("log", "pets", "-n", "1").lines == [v1]
    assert logged.run("log").lines == [*logged.run("log", "other").lines, v1, v0]
    assert len(logged.run("log", "-n", "1").lines) == 2


def test_log_with_files(logged: Program) -> None:
    shown = [line.split(maxsplit=3) for line in logged.run("log", "pets", "--files", "-n", "1").lines[1:]]
    assert shown == [["D", "6", "B", "README"], ["A", "0", "B", "empty/"], ["M", "4", "B", "cats/2.png"], ["A", "5", "B", "cats/3.png"]]
    newest = logged.run("log", "pets", "--files", "--json").json[0]
    assert newest["files"] == [
        {"change": "D", "path": "README", "size": 6},
        {"change": "A", "path": "empty/", "size": 0},
        {"change": "M", "path": "cats/2.png", "size": 4},
        {"change": "A", "path": "cats/3.png", "size": 5},
    ]


@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "damaged"])
def test_log_shows_every_entry_where_the_metadata_of_a_version_is_lost(program: Program, tmp_path: Path, damaged: bool) -> None:
    """It stopped at the first one, and showed nothing that came before it."""
    for number in range(3):
        program.run("snapshot", write(tmp_path / "pets", {b"a": File(b"%d" % number)}), "pets", "--note", f"note {number}")
    card = Path(program.project) / "artifacts/pets/data/0000000000000002/00000001"
    content = card.read_bytes()
    card.unlink()
    if damaged:
        card.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other = program.elsewhere(tmp_path / "elsewhere")
    lines = other.run("log", "pets").lines
    assert [line.rpartition("  ")[2] for line in lines] == ['"note 2"', "(note unreadable)", '"note 0"']
    assert len(other.run("log", "pets", "--files").lines) == 3 + 2
    assert [entry["note"] for entry in other.run("log", "pets", "--json").json if "note" in entry] == ["note 2", None, "note 0"]


def test_log_shows_the_notes_of_versions_that_are_there(program: Program, tmp_path: Path) -> None:
    for number in range(2):
        folder = write(tmp_path / "pets", {b"a": File(b"%d" % number)})
        program.run("snapshot", folder, "pets", "--note", f"note {number}\nof two lines")
    assert [line.split('"')[1] for line in program.run("log", "pets").lines] == ["note 1?of two lines", "note 0?of two lines"]
    assert program.run("log", "pets", "--json").json[0]["note"] == "note 1\nof two lines"
    program.run("delete", "pets:v0", "--yes")
    assert "note 0" not in program.run("log", "pets").out + program.run("log", "pets", "--json").out


def test_log_of_one_file(logged: Program) -> None:
    changed, added = logged.run("log", "pets/cats/2.png").lines
    assert re.fullmatch(rf"{TIME}  tester@\S+  M pets:v1/cats/2\.png", changed)
    assert re.fullmatch(rf"{TIME}  tester@\S+  A pets:v0/cats/2\.png", added)
    gone = logged.run("log", "pets/README", "--json").json
    assert [(e["version"], e["change"], e["size"]) for e in gone] == [("v1", "D", 6), ("v0", "A", 6)]
    assert [(e["version"], e["change"]) for e in logged.run("log", "pets/cats/1.png", "--json").json] == [("v0", "A")]
    assert len(logged.run("log", "pets/cats/2.png", "-n", "1").lines) == 1
    assert "never" not in logged.run("log", "pets/nothing", code=3).out


def test_log_as_json_is_the_log_as_it_is_stored(logged: Program) -> None:
    entries = logged.run("log", "pets", "--json").json
    assert [entry["seq"] for entry in entries] == list(reversed(range(len(entries))))
    assert {entry["tool"] for entry in entries} == {f"artifactmount/{logged.run('--version').out.split()[1]}"}
    assert [next(iter(entry["act"])) for entry in entries] == ["commit", "open", "commit", "open"]
    assert len(logged.run("log", "pets", "--json", "-n", "3").json) == 3


def test_diff(logged: Program) -> None:
    lines = ["D README", "A empty/", "M cats/2.png", "A cats/3.png"]
    assert sorted(logged.run("diff", "pets:v0", "pets:v1").lines) == sorted(lines)
    assert sorted(logged.run("diff", "pets:best", "pets:v0").lines) == sorted(["A README", "D empty/", "M cats/2.png", "D cats/3.png"])
    assert logged.run("diff", "pets:v0", "pets:v1", "--exit-code", code=1).lines == logged.run("diff", "pets:v0", "pets").lines
    assert logged.run("diff", "pets:v0", "pets:v1").err == "+2 ~1 -1  9 B in place of 9 B\n"
    equal = logged.run("diff", "pets:v1", "pets:latest", "--exit-code")
    assert equal.out == equal.err == ""
    listed = logged.run("diff", "pets:v0", "pets:v1", "--json", "--exit-code", code=1)
    assert listed.err == "+2 ~1 -1  9 B in place of 9 B\n"
    assert sorted(listed.json, key=lambda item: str(item["path"])) == [
        {"change": "D", "path": "README", "size": 6, "old_size": 6},
        {"change": "M", "path": "cats/2.png", "size": 4, "old_size": 3},
        {"change": "A", "path": "cats/3.png", "size": 5, "old_size": None},
        {"change": "A", "path": "empty/", "size": 0, "old_size": None},
    ]
    assert logged.run("diff", "pets:v1", "pets", "--json", "--exit-code").json == []
    assert "A x" in logged.run("diff", "pets:v0", "other").lines


def test_show(logged: Program) -> None:
    shown = logged.run("show", "pets:v0").lines
    assert shown[0] == "version   pets:v0 (dataset)" and "holds     4 files, 1 folder, 1 symlink" in shown
    assert "changed   +6 ~0 -0 against nothing" in shown and shown[-1] == "note      the first"
    facts = logged.run("show", "pets:best", "--json").json
    assert (facts["version"], facts["base"], facts["note"], facts["metadata"]) == ("v1", "v0", "", {})
    assert facts["aliases"] == ["best", "latest"] and facts["tracks"] == 22
    project = logged.run("show", "--json").json
    assert project["project"] == logged.project and (project["encryption"] is None) != encryption.ENCRYPTED
    assert logged.project in logged.run("show").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "cows"),
        ("ls", "pets:v2"),
        ("ls", "pets:worst"),
        ("ls", "pets:v0/dogs"),
        ("log", "cows"),
        ("diff", "pets:v0", "pets:v9"),
        ("show", "cows"),
        ("download", "cows"),
        ("download", "pets:v0/dogs"),
        ("verify", "cows"),
        ("verify", "pets:v7"),
        ("alias", "pets:v7", "good"),
        ("alias", "cows", "good"),
        ("alias", "--remove", "pets", "good"),
        ("umount", "."),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_3(pets: Program, arguments: tuple[str, ...]) -> None:
    pets.run(*arguments, code=3)
    assert list(pets.folder.iterdir()) == []


def test_a_project_that_is_not_there_is_3_and_is_not_made_by_looking(program: Program, tmp_path: Path) -> None:
    for arguments in (("ls",), ("log",), ("show",), ("verify",), ("download", "pets"), ("alias", "pets", "x")):
        assert "init" in program.run(*arguments, code=3).err
    assert not (tmp_path / "project").exists()


def test_names_that_are_no_utf8_come_out_as_they_went_in(program: Program, tmp_path: Path) -> None:
    name = b"caf\xe9\n\x1b[31m"
    program.run("snapshot", write(tmp_path / "pets", {name: File(b"x")}), "pets")
    with program.start("ls", "pets:v0") as process:
        assert process.communicate()[0] == name + b"\n"
    assert program.run("ls", "pets:v0", "--json").json[0]["name"].encode("utf-8", "surrogateescape") == name
    assert program.run("log", b"pets/" + name, "--json").json[0]["change"] == "A"
    assert program.run("download", b"pets/" + name, "out").code == 0
    assert os.listdir(os.fsencode(program.folder / "out")) == [name]


def test_a_reader_that_has_seen_enough_makes_no_noise(program: Program, tmp_path: Path) -> None:
    """Much output (the pipe breaks in the midst of the command) and little (it breaks at the end)."""
    program.run("snapshot", write(tmp_path / "many", {b"%05d" % n * 40: File(b"") for n in range(1500)}), "many")
    for arguments in (("ls", "many:v0"), ("ls", "many:v0", "--json"), ("ls",)):
        process = program.start(*arguments)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        with process.stderr:
            assert (process.stderr.read(), process.wait(60)) == (b"", 141)


def test_output_that_cannot_be_written_is_said_to_be_that(program: Program, tmp_path: Path) -> None:
    """One line, and its exit code: not also what Python says of it at its end."""
    program.run("snapshot", write(tmp_path / "many", {b"%05d" % n * 40: File(b"") for n in range(200)}), "many")
    for arguments in (("ls", "many:v0"), ("ls",)):  # in the midst of the command, and at its end
        ran = program.run(*arguments, code=4, prefix=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
        assert ran.err == "artifactmount: standard output: No space left on device\n"


def test_output_is_for_pipes(logged: Program) -> None:
    """What one types: sort, uniq and the like get lines, and nothing else."""
    done = subprocess.run(["sort", "-r"], input=logged.run("ls", "pets:v0").out, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["run.sh", "newest", "cats", "README"]


def test_an_artifact_that_vanished_is_missed(program: Program, tmp_path: Path) -> None:
    """The machine that saw it is told; one that comes new cannot know."""
    for name in ("pets", "plants"):
        program.run("snapshot", write(tmp_path / name, {b"a": File(b"content")}), name)
    shutil.rmtree(Path(program.project) / "artifacts/plants")
    listed = program.run("ls")
    assert listed.out == "pets\n" and "this machine saw an artifact plants" in listed.err
    assert "plants: this machine saw it" in program.run("verify", code=1).out
    other = program.elsewhere(tmp_path / "elsewhere")
    assert other.run("ls").err == "" and "all good" in other.run("verify").out


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_entry_is_no_end_of_the_log(program: Program, tmp_path: Path, lost: int) -> None:
    """To a machine that comes new it looks like one, until it is to write: in the slot of the lost entry nothing else may ever be."""
    for number in range(3):
        program.run("snapshot", write(tmp_path / "pets", {b"a": File(b"%d" % number)}), "pets")
    log = Path(program.project) / "artifacts/pets/log"
    entry = log / f"{lost:016d}"
    content = entry.read_bytes()
    entry.unlink()
    there, staging = sorted(os.listdir(log)), write(tmp_path / "pets", {b"a": File(b"new")})
    for number, arguments in enumerate((("log", "pets"), ("snapshot", staging, "pets"), ("delete", "pets", "--all", "--yes"))):
        said = program.elsewhere(tmp_path / f"machine {number}").run(*arguments, code=6).err
        assert f"entry {lost} is missing" in said and "put it back" in said
    assert sorted(os.listdir(log)) == there
    entry.write_bytes(content)
    assert program.elsewhere(tmp_path / "last").run("snapshot", staging, "pets").out.startswith("pets:v3")
