"""What `snapshot` makes of ignore files and of a part of a folder (`--from`), and checkouts that are copies: no mount, no root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from artifactmount.assembly import local_folder
from artifactmount.errors import RefusedError
from artifactmount.ignore import IgnoreRules
from artifactmount.rows import key_of, split_path
from tests import encryption
from tests.cli.program import Program
from tests.cli.trees import File, Folder, Link, Tree, read, write


@pytest.fixture(autouse=True)
def quick(program: Program) -> None:
    program.quick = True


def tree_of(program: Program, version: str) -> Tree:
    """What a version holds."""
    target = program.home / f"of {version}"
    program.run("download", version, target)
    return read(target)


# -- .artifactignore ---------------------------------------------------------------------------------------------------------------------
FILES: Tree = {
    b".artifactignore": File(b"\xef\xbb\xbf*.tmp\n!keep.tmp\nbuild/\n/top\n\n# a comment\nsub/*\n!sub/kept\ntrailing \r\n"),
    b"a.tmp": File(b"1"),
    b"keep.tmp": File(b"2"),
    b"build/x": File(b"3"),
    b"top": File(b"4"),
    b"trailing": File(b"5"),
    b"b/top": File(b"6"),
    b"b/build": File(b"7"),
    b"b/.artifactignore": File(b"!*.tmp\nonly-here\n"),
    b"b/x.tmp": File(b"8"),
    b"b/only-here": File(b"9"),
    b"only-here": File(b"10"),
    b"sub/lost": File(b"11"),
    b"sub/kept": File(b"12"),
    b"c/only.tmp": File(b"13"),
    b"link.tmp": Link(b"a.tmp"),
}
KEPT = {b".artifactignore", b"keep.tmp", b"b/top", b"b/build", b"b/.artifactignore", b"b/x.tmp", b"only-here", b"sub/kept"}


def with_folders(tree: Tree) -> Tree:
    folders = {path.rsplit(b"/", 1)[0] for path in tree if b"/" in path}
    return {path: Folder() for path in folders} | tree


def test_a_folder_without_what_its_ignore_files_name(program: Program) -> None:
    folder = write(program.folder / "staging", with_folders(FILES))
    ran = program.run("snapshot", folder, "animals", "--json")
    assert ran.json["ignored"] == 8 and "8 entries are left out" in ran.err
    expected = with_folders({path: leaf for path, leaf in FILES.items() if path in KEPT}) | {b"c": Folder()}
    assert tree_of(program, "animals:v0") == expected
    assert program.run("snapshot", folder, "animals").out.endswith("unchanged\n")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_leaves_out_the_same(program: Program) -> None:
    folder = program.folder / "repository"
    write(folder, with_folders({path.replace(b".artifactignore", b".gitignore"): leaf for path, leaf in FILES.items()}))
    environment = {"PATH": os.environ["PATH"], "HOME": str(program.home), "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (["init", "-q"], ["ls-files", "-z", "--others", "--exclude-standard"]):
        listed = subprocess.run(["git", *command], cwd=folder, env=environment, check=True, capture_output=True, timeout=60).stdout
    assert set(listed.replace(b".gitignore", b".artifactignore").split(b"\0")) - {b""} == KEPT


def test_what_the_version_has_is_not_ignored(program: Program) -> None:
    folder = write(program.folder / "staging", {b"out": Folder(), b"out/in": Folder(), b"out/in/a": File(b"1"), b"b.tmp": File(b"2")})
    program.snapshot(folder, "animals")
    write(folder, read(folder) | {b".artifactignore": File(b"out/\n*.tmp\n"), b"out/in/new": File(b"3"), b"out/in/a": File(b"changed")})
    ran = program.run("snapshot", folder, "animals", "--json")
    assert (ran.json["added"], ran.json["modified"], ran.json["removed"], ran.json["ignored"]) == (1, 1, 0, 1)
    (folder / "b.tmp").unlink()
    assert program.run("snapshot", folder, "animals", "--json").json["removed"] == 1
    (folder / "b.tmp").write_bytes(b"2")  # nobody has it any more
    assert program.run("snapshot", folder, "animals", "--json").json["ignored"] == 2


def test_what_is_no_pattern_is_refused(program: Program) -> None:
    folder = write(program.folder / "staging", {b"sub": Folder(), b"sub/.artifactignore": File(b"!\n"), b"a": File()})
    assert "sub/.artifactignore" in program.run("snapshot", folder, "animals", code=4).err
    (folder / "sub/.artifactignore").write_bytes(b"#" * (1 << 20) + b"\n")
    assert "larger than" in program.run("snapshot", folder, "animals", code=4).err
    (folder / "sub/.artifactignore").unlink()
    (folder / ".artifactignore").symlink_to("/dev/zero")  # not followed
    assert program.run("snapshot", folder, "animals", "--json").json["ignored"] == 0


def test_names_that_are_not_utf8_and_deeper_rules_win() -> None:
    rules = IgnoreRules()
    rules.add(b"", b"\xff*\nx\n")
    rules.add(b"a\0b", b"!x\n")

    def ignores(path: bytes) -> bool:
        key, name = split_path(path)
        return rules.ignores(key_of(key), name, folder=False)

    assert [ignores(path) for path in (b"\xff\xfe", b"a/\xffz", b"x", b"a/x", b"a/b/x", b"a/b/c/x", b"y")] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip


# -- --from ------------------------------------------------------------------------------------------------------------------------------
def test_a_part_is_laid_over_a_version(program: Program) -> None:
    whole = with_folders({b"a": File(b"a"), b"d/b": File(b"b"), b"d/e/c": File(b"c" * 3_000_000), b"l": Link(b"a")})
    program.snapshot(write(program.folder / "whole", whole), "animals")
    part = write(program.folder / "part", with_folders({b"d/b": File(b"new", executable=True), b"f/g": File(b"g")}))
    ran = program.run("snapshot", part, "animals", "--from", "animals:v0", "--json").json
    assert (ran["version"], ran["added"], ran["modified"], ran["removed"]) == ("v1", 2, 1, 0)
    expected = whole | read(part)
    assert tree_of(program, "animals:v1") == expected
    more = write(program.folder / "more", {b"l": File(b"no link any more")})
    program.run("snapshot", more, "animals", "--from", "animals")  # the newest
    assert tree_of(program, "animals:v2") == expected | read(more)
    program.run("snapshot", more, "animals", "--from", "animals:v0")  # an older one
    assert tree_of(program, "animals:v3") == whole | read(more)
    assert program.run("snapshot", more, "animals", "--from", "animals:v3").out.endswith("unchanged\n")


def test_a_part_that_would_remove_something_is_refused(program: Program) -> None:
    program.snapshot(write(program.folder / "whole", with_folders({b"a": File(b"a"), b"d/b": File(b"b")})), "animals")
    parts: list[Tree] = [{b"d": File(b"a file")}, with_folders({b"a/x": File(b"a folder")}), {b"d": Link(b"a")}]
    for tree in parts:
        part = write(program.folder / "part", tree)
        assert "--from adds and replaces" in program.run("snapshot", part, "animals", "--from", "animals", code=4).err
    assert len(program.run("ls", "animals", "--json").json) == 1
    assert program.run("snapshot", "part", "plants", "--from", "animals", code=2).err
    assert program.run("snapshot", "part", "plants", "--from", "plants", code=3).err


# -- copies ------------------------------------------------------------------------------------------------------------------------------
def test_a_copy_that_was_cut_off_goes_on(program: Program) -> None:
    tree = with_folders({b"d/%d" % number: File(b"%d" % number) for number in range(20)})
    program.snapshot(write(program.folder / "whole", tree), "animals")
    program.run("checkout", "--copy", "animals", "work")
    record = program.folder / ".work.artifactmount" / "checkout.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"whole": False}))
    for number in range(10):
        (program.folder / "work" / "d" / str(number)).unlink()
    assert "goes on" in program.run("snapshot", "work", code=4).err
    for words in ("work animals", "work/d animals", "work plants", "--part 1 work plants", "--from animals work animals"):
        assert "goes on" in program.run("snapshot", *words.split(), code=4).err
    with pytest.raises(RefusedError, match="goes on"):
        list(local_folder(str(program.folder / "work")))
    program.run("checkout", "work")
    assert read(program.folder / "work") == tree and program.run("status", "work").out == ""
    record.write_text("{")
    assert "damaged" in program.run("status", "work", code=6).err


def test_a_copy_is_not_read_again(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifactmount.staging.RACY_WINDOW", -(1 << 40))  # as if made long ago: its stats are trusted at once
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a"), b"b": File(b"b"), b"l": Link(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    before = (program.folder / "work" / "a").stat()
    os.truncate(program.folder / "work" / "b", 0)
    opened: list[bytes] = []
    true_open = os.open

    def watched(path: str | bytes, *rest: int, **more: int) -> int:
        opened.append(os.fsencode(path))
        return true_open(path, *rest, **more)

    monkeypatch.setattr("artifactmount.staging.os.open", watched)
    assert program.run("status", "work").out == "M b\n"
    assert b"b" in opened and b"a" not in opened
    assert (program.folder / "work" / "a").stat().st_mtime_ns == before.st_mtime_ns


def test_a_base_that_was_deleted(program: Program) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    program.snapshot(write(program.folder / "whole", {b"a": File(b"b")}), "animals")
    program.run("delete", "animals:v0", "--yes")
    assert "animals:v0, the base of" in program.run("status", "work", code=3).err
    assert "animals:v1" in program.run("snapshot", "work", code=4).err
    assert program.run("snapshot", "work", "--force", "--json").json["version"] == "v2"
    assert tree_of(program, "animals:v2") == {b"a": File(b"a")}


def test_a_copy_of_an_old_version_goes_out_from_it(program: Program) -> None:
    """What the old version has is not ignored, whatever the latest has: `status` and `snapshot` speak of one version."""
    rules = File(b"*.tmp\n")
    first: Tree = {b"a.tmp": File(b"a"), b"b": File(b"b")}
    program.snapshot(write(program.folder / "whole", first), "animals")
    program.snapshot(write(program.folder / "whole", first | {b".artifactignore": rules}), "animals")
    program.snapshot(write(program.folder / "whole", {b".artifactignore": rules, b"b": File(b"b")}), "animals")
    program.run("checkout", "--copy", "animals:v1", "work")
    write(program.folder / "work", first | {b".artifactignore": rules, b"y": File(b"y"), b"new.tmp": File(b"")})
    assert program.run("status", "work").out == "A y\n"
    assert program.run("snapshot", "work", "--json").json["version"] == "v3"
    assert tree_of(program, "animals:v3") == first | {b".artifactignore": rules, b"y": File(b"y")}
    assert program.run("status", "work").out == ""
    (program.folder / "work" / "a.tmp").unlink()
    assert program.run("status", "work").out == "D a.tmp\n"


def test_a_snapshot_that_could_not_write_down_that_it_was_made(program: Program) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    record = program.folder / ".work.artifactmount" / "checkout.json"
    before = record.read_text()
    (program.folder / "work" / "a").write_bytes(b"changed")
    program.run("snapshot", "work")
    record.write_text(before)
    assert program.run("snapshot", "work").out == "animals:v1  unchanged\n"
    assert program.run("status", "work").out == ""
    for what in (("animals",), ("animals:v0",), ("animals:v1",), ()):  # the command that made it, too
        assert program.run("checkout", *what, "work").out == "animals:v1  copy  work\n"


def test_what_an_earlier_checkout_left_is_neither_taken_over_nor_deleted(program: Program) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    upper = program.folder / ".work.artifactmount" / "upper"
    upper.mkdir(parents=True)
    upper.parent.chmod(0o700)
    (upper / "b").write_bytes(b"changed")
    assert f"{upper} holds what was changed" in program.run("checkout", "--copy", "animals", "work", code=4).err
    assert (upper / "b").read_bytes() == b"changed" and os.listdir(upper.parent) == ["upper"]


def test_a_removal_that_was_cut_off_leaves_its_record(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = with_folders({b"a": File(b"a"), b"d/b": File(b"b")})
    program.snapshot(write(program.folder / "whole", tree), "animals")
    program.run("checkout", "--copy", "animals", "work")

    def cut_off(path: str, **_: object) -> None:
        os.unlink(f"{path}/a")
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr("artifactmount.workspace.shutil.rmtree", cut_off)
        program.run("checkout", "--remove", "work", code=4)
    assert "goes on" in program.run("snapshot", "work", code=4).err
    program.run("checkout", "work")
    assert read(program.folder / "work") == tree
    program.run("checkout", "--remove", "work")
    assert not list(program.folder.glob("*work*"))


@pytest.mark.needs_fuse
@pytest.mark.needs_root
@pytest.mark.parametrize("where", ["work", "work/sub"])
def test_a_checkout_is_not_ended_while_something_else_is_mounted_in_it(program: Program, where: str) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    (program.folder / "work" / "sub").mkdir()
    elsewhere = write(program.folder / "elsewhere", {b"precious": File(b"mine")})
    at = program.folder / where
    subprocess.run(["mount", "--bind", elsewhere, at], check=True, timeout=60)
    try:
        assert f"something is mounted at {at}" in program.run("checkout", "--remove", "--force", "work", code=4).err
        assert (elsewhere / "precious").read_bytes() == b"mine"
    finally:
        subprocess.run(["umount", "-l", "--", at], check=True, timeout=60)
    program.run("checkout", "--remove", "--force", "work")


@pytest.mark.needs_root
def test_a_checkout_that_somebody_planted_is_refused(program: Program) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    os.chown(program.folder / ".work.artifactmount", 1001, 1001)
    (program.folder / "work" / "sub").mkdir()
    for command in (
        ("snapshot", "work"),
        ("snapshot", "work/sub"),
        ("snapshot", "work", "animals"),
        ("status", "work"),
        ("checkout", "work"),
    ):
        assert "belongs to user 1001: refused" in program.run(*command, code=4).err
    assert len(program.run("ls", "animals", "--json").json) == 1


@pytest.mark.parametrize("name", ["upper", "work", "lower"])
def test_a_link_in_a_hidden_folder_is_not_mounted(program: Program, name: str) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    hidden, elsewhere = program.folder / ".work.artifactmount", program.folder / "elsewhere"
    record = hidden / "checkout.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"method": "overlay"}))
    shutil.rmtree(program.folder / "work")
    elsewhere.mkdir(0o750)
    (hidden / name).symlink_to(elsewhere)
    assert f"{name} is no folder, but a link" in program.run("checkout", "work", code=4).err
    assert elsewhere.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("checkout", "animals", "full"), 4),
        (("checkout", "animals:v9", "new"), 3),
        (("checkout", "animals", "full/file"), 2),
        (("checkout", "whole"), 3),
        (("checkout", "--remove", "animals", "work"), 2),
        (("checkout", "--force", "work"), 2),
        (("checkout", "animals:v1", "work"), 4),
        (("status", "whole"), 3),
        (("snapshot", "whole"), 2),
        (("snapshot", "--force", "whole", "animals"), 2),
        (("--project", "elsewhere", "snapshot", "work"), 4),
        pytest.param(("--project", "other", "checkout", "animals:v0", "work"), 4, marks=encryption.plain_only),
    ],
)
def test_what_is_refused(program: Program, arguments: tuple[str, ...], code: int) -> None:
    program.snapshot(write(program.folder / "whole", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    program.snapshot(write(program.folder / "whole", {b"a": File(b"b")}), "animals")
    write(program.folder / "full", {b"file": File(b"mine")})
    if "other" in arguments:
        program.run("--project", "other", "snapshot", "whole", "animals")
    program.run(*arguments, code=code)
    assert not list(program.folder.glob(".[!w]*.artifactmount"))


# -- what cannot be written down -------------------------------------------------------------------------------------------------------
def test_a_version_that_is_made_is_no_refusal_where_the_record_cannot_be_written(program: Program) -> None:
    program.quick = False
    program.run("snapshot", write(program.folder / "animals", {b"a": File(b"a")}), "animals")
    program.run("checkout", "--copy", "animals", "work")
    (program.folder / "work/new").write_bytes(b"new")
    (program.folder / ".work.artifactmount/checkout.json.new").mkdir()
    ran = program.run("snapshot", "work")
    assert ran.out.startswith("animals:v1 ") and "animals:v1 is made, but that cannot be written down" in ran.err
    (program.folder / ".work.artifactmount/checkout.json.new").rmdir()
    assert program.run("snapshot", "work").out == "animals:v1  unchanged\n"
    assert program.run("status", "work").out == ""
