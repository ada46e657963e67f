"""Power cuts: the disk that tests/disk.py imagines, what it found, and the short form of scripts/check_powerloss.py."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.pins import Pins
from tests.disk import Disk, Loss, Recorder, Sync, Tree, restore

ROOT = Path(__file__).parent.parent
CHECK = ROOT / "scripts/check_powerloss.py"
LOSSES = [(content, names) for content in Loss for names in Loss]


def recorded(top: Path, code: str) -> Recorder:
    """What a program does below the empty folder `top`, which is `sys.argv[1]` to it."""
    top.mkdir()
    recorder = Recorder(top)
    recorder.run([sys.executable, "-c", f"import os, sys\n{code}", top], os.environ | {"PYTHONPATH": str(ROOT)}, top.with_name("trace"))
    return recorder


def cuts(recorder: Recorder) -> Iterator[Tree]:
    """What there may be at any time, each once."""
    disk, numbers, seen = Disk(), random.Random(1), list[Tree]()
    for event in recorder.events:
        disk.advance(event)
        for content, names in 20 * LOSSES:
            left = disk.crash(content, names, numbers)
            if left not in seen:
                seen.append(left)
                yield left


def last(recorder: Recorder, content: Loss, names: Loss) -> Tree:
    """What there may be at the end."""
    disk = Disk()
    for event in recorder.events:
        disk.advance(event)
    return disk.crash(content, names, random.Random(1))


def test_what_is_recorded_is_what_is_there(tmp_path: Path) -> None:
    """Threads, offsets, appending, vectors, copies of descriptors, files that are cut, grown, renamed over and removed."""
    top = tmp_path / "top"
    recorder = recorded(
        top,
        """
import threading
top = os.path.realpath(sys.argv[1])
os.makedirs(top + "/a/b")
def work(number):
    for round in range(20):
        with open(f"{top}/a/{number}", "ab") as file:
            file.write(b"%d %d\\n" % (number, round) * 50)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = os.open(top + "/odd", os.O_RDWR | os.O_CREAT, 0o600)
os.write(file, b"0123456789")
os.lseek(file, 3, os.SEEK_SET)
os.write(os.dup(file), b"abc")
os.write(file, b"d")
os.pwrite(file, b"far", 5000)
os.pwritev(file, [b"x", b"yz"], 20)
os.ftruncate(file, 6000)
os.posix_fallocate(file, 0, 7000)
folder = os.open(top + "/a", os.O_RDONLY)
os.rename("1", "b/new", src_dir_fd=folder, dst_dir_fd=folder)
os.replace(top + "/a/2", top + "/a/3")
os.link(top + "/odd", top + "/same", follow_symlinks=False)
os.unlink("0", dir_fd=folder)
os.mkdir(top + "/gone")
os.rmdir(top + "/gone")
""",
    )
    found = {os.fsencode(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}
    assert len(found) == 6
    assert last(recorder, Loss.NOTHING, Loss.NOTHING) == found
    assert last(recorder, Loss.ALL, Loss.ALL) == {}


def test_what_a_cut_may_take(tmp_path: Path) -> None:
    recorder = recorded(
        tmp_path / "top",
        """
folder = os.open(sys.argv[1], os.O_RDONLY)
for name, sync in (("neither", ()), ("content", ("file",)), ("name", ("folder",)), ("both", ("file", "folder"))):
    file = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    os.write(file, b"x" * 1024)
    [os.fsync({"file": file, "folder": folder}[what]) for what in sync]
os.unlink("both", dir_fd=folder)
""",
    )
    assert last(recorder, Loss.ALL, Loss.ALL) == {b"neither": b"", b"content": b"x" * 1024, b"name": b"", b"both": b"x" * 1024}
    assert last(recorder, Loss.ALL, Loss.NOTHING).keys() == {b"neither", b"content", b"name"}
    assert last(recorder, Loss.NOTHING, Loss.ALL)[b"name"] == b"x" * 1024
    x, zero, blocks = b"x" * 512, bytes(512), set[bytes | None]()
    for left in cuts(recorder):
        blocks.add(left.get(b"name"))
        assert left.get(b"both", b"") in (b"", x, x + x, x + zero, zero + x, zero + zero)
    assert blocks == {None, b"", x, x + x, x + zero, zero + x, zero + zero}


def test_a_pin_that_a_power_cut_left_is_whole_or_was_never_written(tmp_path: Path) -> None:
    """It was renamed before it was durable: zeros were left for the project's id, and all of the project refused."""
    code = "from artifactmount.pins import Pins\npins = Pins('/project', sys.argv[1])\npins.check_project('0' * 32)\n"
    recorder = recorded(tmp_path / "state", code + "[pins.advance('animals', seq, b'%032d' % seq) for seq in (7, 11)]")
    pinned = {None, *((seq, b"%032d" % seq) for seq in (7, 11))}
    found = set[tuple[int, bytes] | None]()
    for left in cuts(recorder):
        restore(tmp_path / "state", left)
        pins = Pins("/project", str(tmp_path / "state"))
        found.add(pins.get("animals"))
        pins.check_project("0" * 32)
    assert found == pinned


def test_what_was_created_survives_a_power_cut(tmp_path: Path) -> None:
    """The bytes, their name, and the names of the folders above; and at no time there is a part of it."""
    code = "from artifactmount.store.folder import FolderStore\nassert FolderStore(sys.argv[1]).create('data/session/first', b'first')\n"
    recorder = recorded(tmp_path / "store", code)
    made = {b".tmp": None, b"data": None, b"data/session": None, b"data/session/first": b"first"}
    for content in (Loss.ALL, Loss.NOTHING):
        assert last(recorder, content, Loss.ALL) == made
    assert {left.get(b"data/session/first") for left in cuts(recorder)} == {None, b"first"}


def test_a_key_that_exists_is_as_durable_as_one_that_was_created(tmp_path: Path) -> None:
    """Whoever made it was killed before he synced its name, or could not; who finds it there takes it for stored."""
    recorder = recorded(
        tmp_path / "store",
        """
from artifactmount.store.folder import FolderStore
store = FolderStore(sys.argv[1])
store.create("data/first", b"first")
with open(os.path.join(sys.argv[1], "data", "second"), "wb") as file:
    file.write(b"second")
    file.flush()
    os.fsync(file.fileno())
assert not store.create("data/second", b"second")
""",
    )
    assert last(recorder, Loss.ALL, Loss.ALL) == {b".tmp": None, b"data": None, b"data/first": b"first", b"data/second": b"second"}


@pytest.mark.parametrize("found", ["log", "log/0"])
def test_a_key_survives_in_a_folder_that_another_process_had_just_made(tmp_path: Path, found: str) -> None:
    """The other was killed before it synced the folder above: an acknowledged entry went with its folder."""
    recorder = recorded(
        tmp_path / "store",
        f"""
from artifactmount.store.folder import FolderStore
store = FolderStore(sys.argv[1])
store.create("project.json", b"project")
os.makedirs(os.path.join(sys.argv[1], "artifacts/pets/log"))
if {found!r} == "log/0":
    with open(os.path.join(sys.argv[1], "artifacts/pets/log/0"), "wb") as file:
        file.write(b"entry")
        file.flush()
        os.fsync(file.fileno())
store.create("artifacts/pets/log/0", b"entry")
""",
    )
    assert last(recorder, Loss.ALL, Loss.ALL).get(b"artifacts/pets/log/0") == b"entry"


def test_a_folder_that_was_removed_is_made_durable_again(tmp_path: Path) -> None:
    recorder = recorded(
        tmp_path / "store",
        """
from artifactmount.store.folder import FolderStore
store = FolderStore(sys.argv[1])
store.create("data/first", b"first")
store.delete(["data/first"])
os.mkdir(os.path.join(sys.argv[1], "data"))  # by another process
store.create("data/second", b"second")
""",
    )
    assert last(recorder, Loss.ALL, Loss.ALL).get(b"data/second") == b"second"


def test_the_folders_above_are_synced_once(tmp_path: Path) -> None:
    """The first key of a folder syncs those above it; each one after that itself and the folder it lies in."""
    recorder = recorded(
        tmp_path / "store",
        """
from artifactmount.store.folder import FolderStore
store = FolderStore(sys.argv[1])
[store.create(f"data/session/{number}", b"") for number in range(5)]
""",
    )
    assert sum(isinstance(event, Sync) for event in recorder.events) == 2 * 5 + 2


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, "--seed", "1", *arguments], capture_output=True, text=True, check=False, timeout=100)


def test_after_power_cuts_all_is_right_and_goes_on() -> None:
    """The short form: a cut after every eightieth call."""
    done = check("--every", "80", "--mixed", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["project", "cache"]
    for line in lines:
        assert re.fullmatch(r"\w+: \d+ moments, \d+ states in \d+ s, seed 1: all good", line)


@pytest.mark.parametrize("what", ["files", "folders"])
def test_a_program_that_does_not_sync_is_found_out(what: str) -> None:
    done = check("--every", "10", "--mixed", "0", "--ignore", what)
    assert done.returncode == 1 and done.stdout.startswith("project: ") and "in snapshot: " in done.stdout
