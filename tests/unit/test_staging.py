"""The staging folder: what is read, what is trusted unread, and everything a live folder can do meanwhile."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.cache import Cache
from artifactmount.cache.stats import StatCache
from artifactmount.catalog import Catalog
from artifactmount.content import Content, ContentReader
from artifactmount.digest import SINGLE_LIMIT
from artifactmount.errors import NotFoundError, StagingError
from artifactmount.listing import stat_record
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.progress import Silent
from artifactmount.rows import Kind, is_executable, kind_of, path_of
from artifactmount.scan import scan
from artifactmount.snapshot import Options, Result, Snapshot
from artifactmount.staging import RACY_WINDOW, Listing, Staging
from artifactmount.state import State
from artifactmount.steps import drive
from artifactmount.store.memory import MemoryStore

LATER = 10_000_000_000
NOBODY = 65534
SECONDS = 120.0  # only ends what would wait for ever
EMPTY = Table(merge(None, []))


class Watched(Staging):
    """A staging folder that remembers what was opened, and for whose clock some time has passed (a ctime cannot be set back)."""

    def __init__(self, path: str, passed: int) -> None:
        super().__init__(path)
        self.passed, self.opened = passed, list[bytes]()

    def open(self, path: bytes) -> int:
        self.opened.append(path)
        return super().open(path)

    def clock(self) -> int:
        return super().clock() + self.passed


class Machine:
    """One artifact, and snapshots of one folder into it."""

    def __init__(self, folder: Path) -> None:
        self.staging, self.store, self.artifact = folder / "staging", MemoryStore(), Artifact("11" * 16, "animals")
        self.staging.mkdir()
        self.cache = Cache(str(folder / "cache"))
        self.catalog = Catalog(self.store, self.cache, self.artifact)
        self.state: State | None = None

    def take(self, passed: int = LATER) -> tuple[Result, list[bytes]]:
        """The result, and what was opened for it. Afterwards the clock of the file system has moved on."""
        staging = Watched(str(self.staging), passed)
        with staging, StatCache(self.cache.path) as stats:
            snapshot = Snapshot(self.artifact, self.catalog, staging, stats, Options(), Writer("me", "test"), Silent())
            try:
                self.state, result = drive(self.store, snapshot.steps(self.state))
            finally:
                snapshot.close()
                tick(self.staging.parent)
            return result, sorted(staging.opened)

    def tree(self) -> dict[bytes, tuple[Kind, bool, int]]:
        """The newest version's paths: kind, executable bit, size."""
        assert self.state is not None
        table = self.catalog.newest(self.state)
        return {path_of(key, name): (table.kind(row), is_executable(table.mode(row)), table.size(row)) for key, name, row in table.walk()}

    def content(self, path: bytes) -> bytes:
        """The content digest of a path in the newest version."""
        assert self.state is not None
        table = self.catalog.newest(self.state)
        return table.digest(table.lookup(path))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.cache.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline


def tick(folder: Path) -> None:
    """Wait until the file system stamps a later time than it did until now: its clock goes in steps of some ms."""
    path = folder / "tick"

    def stamp() -> int:
        path.touch()
        return path.stat().st_ctime_ns

    first = stamp()
    wait_for(lambda: stamp() > first)


def rewrite(path: Path, content: bytes) -> None:
    """Other bytes of the same length, and the old times: as `cp -p` or `rsync -t` leave them."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root."""
    before = os.geteuid()
    if not before:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def walk(staging: Staging) -> dict[bytes, int]:
    """path -> mode byte of everything that was listed."""
    return {path_of(listing.key, name): mode for listing in staging.walk() for name, mode in zip(listing.names, listing.modes, strict=True)}


# -- what is trusted unread --------------------------------------------------------------------------------------------------------------
def test_what_did_not_change_is_not_opened_again(machine: Machine) -> None:
    (machine.staging / "d").mkdir()
    (machine.staging / "d" / "old").write_bytes(b"old")
    (machine.staging / "d" / "large").write_bytes(bytes(SINGLE_LIMIT + 1))
    (machine.staging / "link").symlink_to("d/old")
    (machine.staging / "empty").touch()
    assert machine.take()[1] == [b"d/large", b"d/old", b"empty"]
    result, opened = machine.take()
    assert (result.changed, opened) == (False, [])
    (machine.staging / "d" / "new").write_bytes(b"new")  # its neighbours are still known
    result, opened = machine.take()
    assert (result.added, result.modified, opened) == (1, 0, [b"d/new"])
    (machine.staging / "d" / "old").unlink()
    result, opened = machine.take()
    assert (result.removed, opened) == (1, [])


def test_a_file_of_the_racy_window_is_read_again(machine: Machine) -> None:
    (machine.staging / "file").write_bytes(b"one")
    assert machine.take(passed=0)[1] == [b"file"]
    result, opened = machine.take(passed=0)
    assert (result.changed, opened) == (False, [b"file"])
    assert machine.take(passed=LATER)[1] == [b"file"]  # this reading is the first that can be trusted
    assert machine.take()[1] == []


def test_a_rewrite_within_the_tick_of_the_first_snapshot_is_found(machine: Machine) -> None:
    """Same inode, size and mtime; the ctime may be the same too, so all that helps is not to trust it."""
    path = machine.staging / "file"
    for content in (b"one", b"two", b"six", b"ten"):
        if path.exists():
            rewrite(path, content)
        else:
            path.write_bytes(content)
        result, opened = machine.take(passed=0)
        assert result.changed and opened == [b"file"]


def test_a_rewrite_of_an_old_file_is_found_by_its_ctime(machine: Machine) -> None:
    path = machine.staging / "file"
    path.write_bytes(b"one")
    os.utime(path, (0, 0))
    machine.take()
    rewrite(path, b"two")
    result, opened = machine.take()
    assert (result.modified, opened) == (1, [b"file"])


def test_another_file_of_the_same_size_and_times_is_found_by_its_inode(machine: Machine) -> None:
    path, other = machine.staging / "file", machine.staging.parent / "other"
    path.write_bytes(b"one")
    machine.take()
    before = path.stat()
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    result, opened = machine.take()
    assert (result.modified, opened) == (1, [b"file"])


def test_a_touched_file_is_read_and_is_no_new_version(machine: Machine) -> None:
    (machine.staging / "file").write_bytes(b"one")
    machine.take()
    os.utime(machine.staging / "file", (1, 1))
    result, opened = machine.take()
    assert (result.changed, opened) == (False, [b"file"])
    assert machine.take()[1] == []


def test_the_executable_bit(machine: Machine) -> None:
    path = machine.staging / "file"
    path.write_bytes(b"one")
    path.chmod(0o640)
    machine.take()
    content = machine.content(b"file")
    path.chmod(0o700)
    result, _ = machine.take()
    assert (result.modified, result.adds) == (1, 0)
    assert machine.tree() == {b"file": (Kind.FILE, True, 3)} and machine.content(b"file") == content
    path.chmod(0o711)  # of all bits only the owner's counts
    assert not machine.take()[0].changed


def test_a_renamed_folder_is_read_and_stores_nothing_new(machine: Machine) -> None:
    (machine.staging / "a" / "b").mkdir(parents=True)
    (machine.staging / "a" / "b" / "file").write_bytes(b"one")
    (machine.staging / "a" / "large").write_bytes(random.Random(0).randbytes(3 * SINGLE_LIMIT))
    machine.take()
    (machine.staging / "a").rename(machine.staging / "z")
    result, opened = machine.take()
    assert (result.added, result.removed, result.adds) == (4, 4, 0)
    assert opened == [b"z/b/file", b"z/large"]
    assert set(machine.tree()) == {b"z", b"z/b", b"z/b/file", b"z/large"}
    assert machine.take()[1] == []


def test_a_folder_renamed_to_the_name_of_another(machine: Machine) -> None:
    """What is remembered under a folder's name is believed file by file, and these are other files."""
    for name in ("a", "b"):
        (machine.staging / name).mkdir()
        (machine.staging / name / "file").write_bytes(name.encode())
        os.utime(machine.staging / name / "file", (7, 7))
    machine.take()
    (machine.staging / "a").rename(machine.staging / "c")
    (machine.staging / "b").rename(machine.staging / "a")
    (machine.staging / "c").rename(machine.staging / "b")
    result, opened = machine.take()
    assert (result.modified, opened) == (2, [b"a/file", b"b/file"])


def test_the_racy_window_to_the_nanosecond(tmp_path: Path) -> None:
    names = ["fresh", "old"]
    for name in names:
        (tmp_path / name).write_bytes(b"content")
    os.utime(tmp_path / "old", (1, 1))

    def listed() -> Listing:
        with Staging(str(tmp_path)) as staging:
            (listing,) = staging.walk()
            return listing

    listing = listed()
    for row in range(2):
        listing.learn(row, bytes([row + 1]) * 32)
    newest = max((tmp_path / name).stat().st_ctime_ns for name in names)
    fresh = (tmp_path / "fresh").stat().st_ctime_ns
    for clock, known in ((fresh, [None, None]), (fresh + RACY_WINDOW, [None, None]), (newest + RACY_WINDOW + 1, [b"\1" * 32, b"\2" * 32])):
        again = listed()
        again.trust(listing.encode(clock))
        assert [again.digest(row) for row in range(2)] == known
    # Beside others that came and went, each row still finds its own.
    value = listing.encode(newest + RACY_WINDOW + 1)
    (tmp_path / "a new one").touch()
    (tmp_path / "fresh").unlink()
    again = listed()
    again.trust(value)
    assert again.names == [b"a new one", b"old"] and [again.digest(row) for row in range(2)] == [None, b"\2" * 32]


def test_the_clock_leaves_no_trace(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    with Staging(str(tmp_path)) as staging:
        (tmp_path.parent / "stamp").touch()
        stamp = (tmp_path.parent / "stamp").stat().st_mtime_ns
        assert abs(staging.clock() - stamp) < 1_000_000_000 and staging.clock() >= stamp
    assert tmp_path.stat().st_mtime_ns == before and os.listdir(tmp_path) == []


# -- what cannot be versioned ------------------------------------------------------------------------------------------------------------
def test_what_is_neither_file_nor_folder_is_refused_by_name(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.staging / "file").write_bytes(b"kept out with the rest")
    (machine.staging / "d").mkdir()
    os.mkfifo(machine.staging / "d" / "pipe\n")
    monkeypatch.chdir(machine.staging)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("mysql.sock")
        with pytest.raises(StagingError) as caught:
            machine.take()
    todo = "remove them, or name them in .artifactignore; nothing was committed"
    assert str(caught.value) == rf"cannot be versioned: mysql.sock (socket), d/pipe\n (FIFO); {todo}"
    assert machine.store.list_keys("", limit=9) == []
    os.unlink("mysql.sock")
    os.unlink("d/pipe\n")
    assert machine.take()[0].added == 2


@pytest.mark.needs_root
def test_devices_are_refused_by_name(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with Staging(str(tmp_path)) as staging, pytest.raises(StagingError, match=r"disk \(block device\), null \(character device\);"):
        walk(staging)


def test_of_many_refused_some_are_named(tmp_path: Path) -> None:
    for i in range(7):
        os.mkfifo(tmp_path / f"p{i}")
    with Staging(str(tmp_path)) as staging, pytest.raises(StagingError, match=r": p0 .*, p4 \(FIFO\) and 2 more; remove"):
        walk(staging)


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    for name, error, text in (
        ("missing", NotFoundError, "no such folder"),
        ("nowhere", NotFoundError, "no such folder"),
        ("file", StagingError, "not a folder"),
        ("file/below", StagingError, "not a folder"),
        ("loop", StagingError, "cannot read .*loop: Too many levels of symbolic links"),
    ):
        with pytest.raises(error, match=text):
            Staging(str(tmp_path / name))


# -- names, links, depth -----------------------------------------------------------------------------------------------------------------
NAMES = [
    b"\xff\xfe",
    b"a\nb",
    b" ",
    b"-rf",
    b"~",
    b"*",
    b"\x01",
    b"a\\b",
    b"n" * 255,
    "é".encode(),
    "e\u0301".encode(),
    b"...",
    b"CON",
    b"\x7f",
]


def test_any_name_is_kept(machine: Machine) -> None:
    root = os.fsencode(machine.staging)
    for name in NAMES:
        os.mkdir(root + b"/" + name)
        os.symlink(name, root + b"/" + name + b"/link")
        with open(root + b"/" + name + b"/" + name, "wb") as file:
            file.write(name)
    assert machine.take()[0].added == 3 * len(NAMES)
    assert set(machine.tree()) == {path for name in NAMES for path in (name, name + b"/link", name + b"/" + name)}
    assert not machine.take()[0].changed


def test_links_are_kept_and_never_followed(machine: Machine) -> None:
    (machine.staging / "d").mkdir()
    (machine.staging / "self").symlink_to("self")
    (machine.staging / "d" / "up").symlink_to("..")
    (machine.staging / "d" / "out").symlink_to("/proc")
    (machine.staging / "nowhere").symlink_to("not/there")
    os.symlink(b"x" * 4095, machine.staging / "long")
    _, opened = machine.take()
    assert opened == []
    assert {path: kind for path, (kind, _, _) in machine.tree().items()} == {
        b"d": Kind.DIRECTORY,
        b"d/out": Kind.SYMLINK,
        b"d/up": Kind.SYMLINK,
        b"long": Kind.SYMLINK,
        b"nowhere": Kind.SYMLINK,
        b"self": Kind.SYMLINK,
    }
    (machine.staging / "nowhere").unlink()
    (machine.staging / "nowhere").symlink_to("elsewhere")
    assert machine.take()[0].modified == 1
    with Staging(str(machine.staging)) as staging:
        for path in (b"self", b"d/up"):
            with pytest.raises(StagingError, match="changed while"):
                os.close(staging.open(path))


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Callable[[list[bytes], bool], None]]:
    """Make folders one in the other below tmp_path/staging, with a file in the last. What is deeper than a path may be long is removed by
    rm: Python's own rmtree calls itself."""

    def make(names: list[bytes], with_file: bool) -> None:
        (tmp_path / "staging").mkdir(exist_ok=True)
        descriptor = os.open(tmp_path / "staging", os.O_RDONLY)
        for name in names:
            os.mkdir(name, dir_fd=descriptor)
            inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        if with_file:
            os.close(os.open("f", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=descriptor))
        os.close(descriptor)

    yield make
    subprocess.run(["rm", "-rf", tmp_path / "staging"], check=True)


LONG = [b"%04d" % i + b"x" * 96 for i in range(40)]  # 40 names of 100 bytes, 40 slashes


@pytest.mark.parametrize(
    ("names", "with_file"),
    [
        ([b"d"] * 1000, True),
        (LONG[:39], True),
        ([*LONG, b"y" * 53], True),  # a path of 4,095 bytes
        ([*LONG, b"y" * 55], False),  # an empty folder at 4,095 bytes
        ([b"d"] * 2047, True),  # 2,048 levels
        ([b"d"] * 2048, False),
    ],
    ids=["1,000 deep", "4,000 bytes", "longest file", "longest folder", "deepest file", "deepest folder"],
)
def test_long_and_deep_paths(tmp_path: Path, deep: Callable[[list[bytes], bool], None], names: list[bytes], with_file: bool) -> None:
    deep(names, with_file)
    path = b"/".join(names) + (b"/f" if with_file else b"")
    assert len(path) <= 4095
    with Staging(str(tmp_path / "staging")) as staging:
        found = walk(staging)
        assert len(found) == len(names) + with_file and path in found
        if with_file:
            assert staging.read(path, 10) is not None
        assert len(list(scan(staging, EMPTY, lambda _: None).found())) == len(found)


def test_a_deep_folder_becomes_a_version(tmp_path: Path, deep: Callable[[list[bytes], bool], None]) -> None:
    machine = Machine(tmp_path)
    deep([b"d"] * 1000, True)
    assert machine.take()[0].added == 1001
    result, opened = machine.take()
    assert (result.changed, opened) == (False, [])
    machine.cache.close()


@pytest.mark.parametrize("names", [[*LONG, b"y" * 54], [b"d"] * 2048, [*LONG, *LONG]], ids=["too long", "too deep", "far too long"])
def test_paths_beyond_the_limits_are_refused(tmp_path: Path, deep: Callable[[list[bytes], bool], None], names: list[bytes]) -> None:
    deep(names, True)
    with Staging(str(tmp_path / "staging")) as staging, pytest.raises(StagingError, match=r"too long or too deep below .*4095 bytes"):
        walk(staging)


# -- a folder that changes while it is read ----------------------------------------------------------------------------------------------
@contextmanager
def written_all_the_time(path: Path, *, grows: bool) -> Iterator[None]:
    """A thread that writes to the file until the end, and has written before the beginning."""
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY | (os.O_APPEND if grows else 0))
        while not stop.is_set():
            os.write(descriptor, b"x") if grows else os.pwrite(descriptor, b"x", 0)
            begun.set()
        os.close(descriptor)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(SECONDS)
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("grows", [False, True])
def test_a_large_file_that_is_written_all_the_time(machine: Machine, grows: bool) -> None:
    """Reading 24 MiB takes many ticks of the clock, so each try sees a change."""
    path = machine.staging / "log"
    path.write_bytes(bytes(24 << 20))
    with written_all_the_time(path, grows=grows):
        with pytest.raises(StagingError, match="log is being written: it changed three times while it was read; nothing was committed"):
            machine.take()
        assert drive(machine.store, head(machine.artifact)).versions == {}
    assert machine.take()[0].added == 1  # and when it is quiet again


def test_a_small_file_that_is_written_all_the_time(tmp_path: Path) -> None:
    """Between two writes there may be time enough to read it, so it is read until it was not."""
    errors: list[str] = []
    (tmp_path / "log").write_bytes(b"x" * 1000)
    with Staging(str(tmp_path)) as staging, written_all_the_time(tmp_path / "log", grows=True):

        def restless() -> bool:
            try:
                read = staging.read(b"log", 1 << 30)
            except StagingError as error:
                errors.append(str(error))
                return True
            assert read is not None and len(read[0]) == read[1].st_size
            return False

        wait_for(restless)
    assert errors == ["log is being written: it changed three times while it was read; nothing was committed"]


Replace = Callable[[Path], object]


@pytest.mark.parametrize(
    "replace",
    [lambda path: None, os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd")],
    ids=["nothing", "a FIFO", "a folder", "a link"],
)
def test_a_file_that_something_took_the_place_of(tmp_path: Path, replace: Replace) -> None:
    """Between the scan and the reading. A FIFO must not be waited for."""
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "file"
    path.write_bytes(b"content")
    with Staging(str(tmp_path)) as staging:
        (found,) = [found for found in scan(staging, EMPTY, lambda _: None).found() if found.name == b"file"]
        reader = ContentReader(staging, lambda _: False)
        try:
            path.unlink()
            replace(path)
            with pytest.raises(StagingError, match="d/file changed while the snapshot was taken; nothing was committed, run it again"):
                reader.one(found.path)
            with pytest.raises(StagingError, match="d/file changed while"):
                list(reader.large(found.path))
        finally:
            reader.close()


def test_a_folder_that_vanishes_during_the_walk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Staging(str(tmp_path)) as staging:
        walking = staging.walk()
        assert next(walking).names == [b"a", b"b"]
        (tmp_path / "a").rmdir()
        with pytest.raises(StagingError, match=r"^a changed while"):
            next(walking)
        (tmp_path / "b").rmdir()
        (tmp_path / "b").symlink_to("/")  # it must not lead elsewhere
        with pytest.raises(StagingError, match=r"^b changed while"):
            staging._entries(b"b")


def test_a_file_that_grew_or_shrank_since_it_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            path.write_bytes(bytes(SINGLE_LIMIT + 1))
            assert reader.one(b"file") is None  # to be read as a large one
            path.write_bytes(b"small again")
            *windows, content = reader.large(b"file")
            read = reader.one(b"file")
            assert read is not None and isinstance(content, Content)
            assert (read.digest, read.record) == (content.digest, stat_record(content.status))
            assert [len(window) for window in windows if isinstance(window, list)] == [1]
        finally:
            reader.close()


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    tmp_path.chmod(0o755)
    with Staging(str(tmp_path)) as staging:
        with unprivileged():
            with pytest.raises(StagingError, match="cannot read secret: Permission denied; nothing was committed"):
                staging.read(b"secret", 100)
            with pytest.raises(StagingError, match="cannot read closed: Permission denied"):
                walk(staging)
        tmp_path.chmod(0)
        with unprivileged(), pytest.raises(StagingError, match=f"cannot read {tmp_path}: Permission denied"):
            walk(staging)
        with unprivileged(), pytest.raises(StagingError, match=f"cannot read {tmp_path}: Permission denied"):
            Staging(str(tmp_path))
        tmp_path.chmod(0o700)


def test_a_file_that_cannot_be_read_to_its_end() -> None:
    """The memory of a process begins with what is not mapped: an I/O error at the first byte."""
    with Staging("/proc/self") as staging, pytest.raises(StagingError, match="cannot read mem: Input/output error"):
        staging.read(b"mem", 100)


def test_kinds_and_bits(tmp_path: Path) -> None:
    (tmp_path / "plain").touch(0o666)
    (tmp_path / "program").touch(0o755)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("program")
    with Staging(str(tmp_path)) as staging:
        found = {path: (kind_of(mode), is_executable(mode)) for path, mode in walk(staging).items()}
    assert found == {
        b"plain": (Kind.FILE, False),
        b"program": (Kind.FILE, True),
        b"d": (Kind.DIRECTORY, False),
        b"link": (Kind.SYMLINK, False),
    }
