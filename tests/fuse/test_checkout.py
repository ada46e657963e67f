"""`checkout`, `status` and snapshots of checkouts, as typed: overlays where root may mount them, copies everywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import Program, Ran
from tests.fuse.mounts import Mount, Project, is_mounted, tree_of, wait_until, write

overlay = [pytest.mark.needs_fuse, pytest.mark.needs_root]
FILES = {"cat.png": b"cat", "dogs/dog.png": b"dog", "dogs/old/1": b"1", "tool": b"#!/bin/sh\n"}


class Quick(Project):
    """Commands stay in this process, but for those that start a daemon."""

    def do(self, *arguments: str | Path, code: int = 0) -> str:
        if arguments[0] == "checkout" and "--copy" not in arguments and "--remove" not in arguments:
            return super().do(*arguments, code=code)
        ran = self.ran(*arguments)
        assert ran.code == code, f"{arguments}: exit code {ran.code}: {ran.out}{ran.err}"
        return ran.err if code else ran.out

    def ran(self, *arguments: str | Path) -> Ran:
        """What a command printed."""
        program = Program(self.root)
        program.environment = self.environment
        return program.inside(*arguments)


@pytest.fixture
def animals(tmp_path: Path) -> Quick:
    """A project with `animals:v0`."""
    project = Quick(tmp_path)
    folder = write(tmp_path / "animals", FILES)
    (folder / "tool").chmod(0o755)
    project.snapshot(folder, "animals")
    return project


@contextmanager
def checked_out(project: Project, name: str = "a, b:c") -> Iterator[tuple[Path, Mount]]:
    """An overlay, its name one that mount options would take apart; and the mount beneath. Both are gone in the end, whatever happens."""
    path = project.root / name
    beneath = Mount(project, project.root / f".{name}.artifactmount" / "lower")
    try:
        try:
            assert project.do("checkout", "animals", path).split("  ")[:2] == ["animals:v0", "overlay"]
        finally:
            if is_mounted(beneath.path):
                beneath.adopt()
        yield path, beneath
    finally:
        while is_mounted(path):
            subprocess.run(["umount", "-l", "--", path], check=True, timeout=60)
        beneath.take_away()


def change(path: Path) -> None:
    """One of each kind."""
    write(path, {"cat.png": b"a cat", "new/rat.png": b"rat"})
    shutil.rmtree(path / "dogs" / "old")
    (path / "tool").chmod(0o644)
    write(path, {".artifactignore": b"*.tmp\n", "x.tmp": b"?"})


CHANGED = "A .artifactignore\nM cat.png\nA new/\nM tool\nD dogs/old/\nD dogs/old/1\nA new/rat.png\n"


@pytest.mark.parametrize("method", [pytest.param("overlay", marks=overlay), "copy"])
def test_from_checkout_to_snapshot(animals: Quick, method: str) -> None:
    if method == "copy":
        path = animals.root / "copied"
        assert animals.do("checkout", "--copy", "animals:v0", path).startswith("animals:v0  copy  ")
        follow(animals, path)
    else:
        with checked_out(animals) as (path, beneath):
            assert (path / "cat.png").stat().st_mode & 0o200
            follow(animals, path)
            assert beneath.ended()


def follow(project: Quick, path: Path) -> None:
    """What users do with a checkout, to its end."""
    assert {name: content for name, (_, content) in tree_of(path).items() if content} == {k.encode(): v for k, v in FILES.items()}
    assert project.do("status", path) == ""
    change(path)
    assert project.do("status", path / "new") == CHANGED
    assert "7 changes" in project.do("checkout", "--remove", path, code=4)
    ran = project.ran("snapshot", path, "--json")
    made = ran.json
    assert (made["version"], made["added"], made["modified"], made["removed"], made["ignored"]) == ("v1", 3, 2, 2, 1)
    assert ran.err == "artifactmount: 1 entry is left out, as .artifactignore says\n"
    found = json.loads(project.do("status", path, "--json"))
    assert (found["base"], found["latest"], found["behind"], found["changes"], found["ignored"]) == ("v1", "v1", False, [], 1)
    assert project.snapshot(path, "animals").endswith("animals:v1  unchanged\n")
    elsewhere = write(project.root / "elsewhere", {"other": b"other"})
    project.do("snapshot", "--from", "animals", elsewhere, "animals")
    (path / "new" / "rat.png").write_bytes(b"a rat")
    refused = project.do("snapshot", path, code=4)
    assert "animals:v1" in refused and "animals:v2" in refused and "--force" in refused
    assert project.do("snapshot", path, "--force").startswith("animals:v3  +0 ~1 -1")
    (path / "new" / "rat.png").unlink()
    project.do("checkout", "--remove", "--force", path)
    assert sorted(entry.name for entry in project.root.iterdir() if "artifactmount" in entry.name) == [] and not path.exists()


@pytest.mark.needs_fuse
@pytest.mark.needs_root
def test_an_overlay_is_put_back_with_what_was_changed(animals: Quick) -> None:
    with checked_out(animals) as (path, beneath):
        write(path, {"cat.png": b"a cat"})
        (path / "tool").unlink()
        seen = tree_of(path)
        beneath.signal(signal.SIGKILL)
        assert beneath.ended()
        animals.do("checkout", path)  # the overlay stood still, and had nothing under it
        assert tree_of(path) == seen
        beneath.adopt()
        subprocess.run(["umount", "--", path], check=True, timeout=60)
        assert "puts it back" in animals.do("snapshot", path, "animals", code=4)
        assert "puts it back" in animals.do("status", path, code=4)
        write(path, {"stray": b"stray"})
        assert "not mounted" in animals.do("checkout", "animals", path, code=4)
        (path / "stray").unlink()
        animals.do("checkout", "animals", path)
        assert tree_of(path) == seen
        with subprocess.Popen(["sleep", "60"], cwd=path) as sleeper:
            try:
                wait_until(lambda: os.readlink(f"/proc/{sleeper.pid}/cwd") == str(path))
                assert "in use" in animals.do("checkout", "--remove", "--force", path, code=4)
            finally:
                sleeper.kill()
        assert animals.do("snapshot", path).startswith("animals:v1  +0 ~1 -1")
        animals.do("delete", "animals:v0", "--yes")
        assert ".artifactmount/upper" in animals.do("status", path, code=4)
        animals.do("checkout", "--remove", "--force", path)


@pytest.mark.needs_fuse
@pytest.mark.needs_root
def test_references_stay_what_they_are_in_an_overlay(animals: Quick) -> None:
    source = write(animals.root / "source", {"far": b"far", "gone": b"gone", "mine": b"mine"})
    config = animals.root / "config" / "artifactmount"
    write(config, {"config.toml": f"[references]\nallow = ['file://{source}']\n".encode()})
    (config / "config.toml").chmod(0o600)
    animals.do("add-reference", "animals", f"file://{source}", "--name", "refs")
    path = animals.root / "copy"
    assert "overlay" not in animals.do("checkout", "--copy", "animals", path)
    assert not (path / "refs" / "far").exists() and animals.do("status", path) == ""
    animals.do("checkout", "--remove", path)
    overlaid = animals.root / "overlaid"
    beneath = Mount(animals, animals.root / ".overlaid.artifactmount" / "lower")
    try:
        animals.do("checkout", "animals", overlaid)
        beneath.adopt()
        (overlaid / "refs" / "gone").unlink()
        (overlaid / "refs" / "mine").write_bytes(b"my own")
        assert animals.do("status", overlaid) == "D refs/gone\nM refs/mine\n"
        animals.do("snapshot", overlaid)
        listed = {entry["name"]: entry["kind"] for entry in json.loads(animals.do("ls", "animals/refs", "--json"))}
        assert listed == {"far": "reference", "mine": "file"}
        animals.do("checkout", "--remove", overlaid)
    finally:
        while is_mounted(overlaid):
            subprocess.run(["umount", "-l", "--", overlaid], check=True, timeout=60)
        beneath.take_away()
