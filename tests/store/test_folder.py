"""What a folder store promises beyond the contract: crashes, several processes, full disks, permissions, symlinks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from artifactmount.errors import DeniedError, KeyMissingError, NotSentError, StoreError, StoreFullError
from artifactmount.store.folder import FolderStore
from tests.store.creator import content

REPOSITORY = Path(__file__).parent.parent.parent
SIZE = 300_000


def start(stack: ExitStack, *arguments: object) -> subprocess.Popen[str]:
    """A creator process, ready and waiting for its line."""
    command = [sys.executable, "-m", "tests.store.creator", *map(str, arguments)]
    process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY))
    stack.callback(process.kill)  # whatever happens: before the pipes are closed and it is waited for
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_four_processes_one_creates_each_key(tmp_path: Path) -> None:
    store, count = FolderStore(str(tmp_path / "store")), 60
    with ExitStack() as stack:
        processes = {f"writer{i}": start(stack, store.path, f"writer{i}", count, 5000) for i in range(4)}
        for process in processes.values():
            go(process)
        won = {writer: process.communicate()[0].split() for writer, process in processes.items()}
        assert all(process.returncode == 0 for process in processes.values())
    assert sorted(key for keys in won.values() for key in keys) == [f"raced/{i:04d}" for i in range(count)]
    for writer, keys in won.items():
        for key in keys:
            assert store.get(key) == content(writer, key, 5000)


def test_of_two_creators_that_both_saw_no_file_one_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before the writing spares the writing; what decides is the link."""
    store = FolderStore(str(tmp_path))
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    assert store.create("key", b"first") is True
    assert store.create("key", b"second") is False
    assert store.get("key") == b"first"


def test_a_killed_process_leaves_no_torn_file(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "store"))
    for turn in range(8):
        session = f"turn{turn}"
        with ExitStack() as stack:
            process = start(stack, store.path, "victim", 10_000, SIZE, session)
            go(process)
            assert process.stdout is not None
            # Killed at another place each time: right behind an answer, or while some later key is on its way.
            acknowledged = [process.stdout.readline().strip() for _ in range(turn + 1)]
            process.kill()
            acknowledged += process.stdout.read().split()
        there = [item.key for item in store.list_keys(session + "/", limit=20_000)]
        assert set(acknowledged) <= set(there)
        assert len(there) - len(acknowledged) <= 1  # made, but killed before it could say so
        for key in there:
            assert store.get(key) == content("victim", key, SIZE)
        # The next writer is not stopped by what the dead one left.
        assert store.create(f"{session}/{len(there):04d}", b"next")


@pytest.mark.parametrize("change", ["create", "delete"])
def test_what_killed_writers_left_goes_with_the_next_change_and_what_is_being_written_stays(tmp_path: Path, change: str) -> None:
    """Content that is in no key: `gc` and `delete` must not leave it there to be read."""
    FolderStore(str(tmp_path)).create("a", b"")
    torn, second, written = (tmp_path / ".tmp" / name for name in ("1-torn", "1-second", "2-written"))
    torn.write_bytes(b"torn")
    os.link(tmp_path / "a", second)  # killed behind the link
    written.write_bytes(b"half")
    store = FolderStore(str(tmp_path))
    assert [item.key for item in store.list_keys("")] == ["a"] and store.list_prefixes("") == []
    assert torn.exists()  # reading changes nothing
    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if change == "create":
            store.create("b", b"")
        else:
            store.delete(["none"])
        assert os.listdir(tmp_path / ".tmp") == ["2-written"]


def test_a_killed_writer_keeps_no_lock(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "store"))
    left = 0
    for turn in range(6):
        with ExitStack() as stack:
            process = start(stack, store.path, "victim", 10_000, 4 << 20, f"turn{turn}")
            go(process)
            assert process.stdout is not None
            process.stdout.readline()
            while not os.listdir(tmp_path / "store/.tmp"):
                assert process.poll() is None
            process.kill()
            process.wait()
        left += len(os.listdir(tmp_path / "store/.tmp"))
        FolderStore(store.path).delete(["none"])
        assert os.listdir(tmp_path / "store/.tmp") == []
    assert left > 0


def test_no_temporary_file_stays_behind(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    store.create("a/b", b"1")
    store.create("a/b", b"2")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        store.create("file/below", b"3")
    assert os.listdir(tmp_path / ".tmp") == []


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "not" / "there"))
    assert store.list_keys("") == []
    assert store.list_prefixes("") == []
    with pytest.raises(KeyMissingError):
        store.get("a")
    store.delete(["a/b"])
    assert os.listdir(tmp_path) == []


def test_folders_that_become_empty_go_but_not_the_store(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "store"))
    store.create("a/b/c", b"")
    store.create("a/d", b"")
    store.delete(["a/b/c"])
    assert not (tmp_path / "store/a/b").exists()
    store.delete(["a/d"])
    assert os.listdir(tmp_path / "store") == [".tmp"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"root may not mount here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.needs_root
def test_a_full_disk_is_its_own_error_and_leaves_nothing(small_disk: Path) -> None:
    store = FolderStore(str(small_disk / "store"))
    assert store.create("a/small", b"x" * 1000)
    with pytest.raises(StoreFullError, match="No space left") as caught:
        store.create("a/large", bytes(2 << 20))
    assert "free some space" in str(caught.value)
    assert os.listdir(small_disk / "store" / ".tmp") == []
    assert [item.key for item in store.list_keys("")] == ["a/small"]
    assert store.get("a/small") == b"x" * 1000
    assert store.create("a/fits", bytes(500_000))


_DENIED = """
import os, sys
from artifactmount.errors import DeniedError
from artifactmount.store.folder import FolderStore
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)  # root is denied nothing: be nobody
store = FolderStore(sys.argv[1])
for call in (
    lambda: store.create("new", b""), lambda: store.create("folder/new", b""), lambda: store.get("secret"),
    lambda: store.delete(["folder/key"]), lambda: store.list_keys("closed/"), lambda: store.list_prefixes("closed/"),
):
    try:
        print(call())
    except DeniedError as error:
        print("denied" if sys.argv[1] in str(error) else error)
print(store.get("folder/key"))
"""


def test_what_permissions_forbid_is_denied() -> None:
    # Not below tmp_path: nobody could not even get there.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = FolderStore(name)
        for key in ("secret", "folder/key", "closed/key"):
            store.create(key, b"bytes")
        modes = {"secret": 0, "folder": 0o555, "closed": 0, ".tmp": 0o555, ".": 0o555}
        try:
            for below, mode in modes.items():
                (folder / below).chmod(mode)
            command = [sys.executable, "-c", _DENIED, name]
            run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        finally:
            for below in reversed(modes):
                (folder / below).chmod(0o755)
    assert run.stdout.split("\n") == ["denied"] * 6 + ["b'bytes'", ""], run.stderr


def test_a_symlink_is_no_key(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (outside / "folder" / "file").write_bytes(b"secret")
    store = FolderStore(str(tmp_path / "store"))
    store.create("a/key", b"")
    os.symlink(outside / "secret", tmp_path / "store/a/file")
    os.symlink(outside / "folder", tmp_path / "store/a/folder")
    os.symlink("nowhere", tmp_path / "store/a/dangling")
    os.symlink("loop", tmp_path / "store/a/loop")
    assert [item.key for item in store.list_keys("")] == ["a/key"]
    assert store.list_prefixes("a/") == []
    for key in ("a/file", "a/dangling", "a/loop", "a/folder"):
        with pytest.raises(StoreError):
            store.get(key)
        assert store.create(key, b"through") is False
    store.delete(["a/file"])
    assert (outside / "secret").read_bytes() == b"secret"
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "store/a/nowhere").exists()


def test_errors_name_the_file(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    store.create("a", b"")
    with pytest.raises(StoreError, match=f"{tmp_path}/a/b") as caught:
        store.create("a/b", b"")
    assert not isinstance(caught.value, DeniedError | StoreFullError)


@pytest.mark.parametrize("made", [False, True])
def test_a_link_that_fails_without_a_reason_may_have_been_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool) -> None:
    """As on NFS, where the answer may be lost, and the request still on its way: only two names are a proof, of success."""
    link = os.link

    def fail(source: str, target: str, **options: Any) -> None:
        if made:
            link(source, target, **options)
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    store = FolderStore(str(tmp_path))
    monkeypatch.setattr(os, "link", fail)
    if made:
        assert store.create("a/b", b"bytes")
        return
    with pytest.raises(StoreError, match="timed out") as caught:
        store.create("a/b", b"bytes")
    assert not isinstance(caught.value, NotSentError)


def test_the_store_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    FolderStore(str(tmp_path / "link")).create("a/b", b"bytes")
    assert FolderStore(str(tmp_path / "real")).get("a/b") == b"bytes"
