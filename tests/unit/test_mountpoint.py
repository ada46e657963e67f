"""What is mounted where, the daemon's record, and the pins: what this machine knows beside the store and the cache."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.document import PROJECT_KEY
from artifactmount.errors import KeyMissingError, NotFoundError, ProjectMismatchError, RefusedError, UsageError
from artifactmount.mountpoint import KIND, Record, check_allow_other, check_apart, locate, mount_at, mounted, prepare, within
from artifactmount.pins import Pins
from artifactmount.project import Project
from artifactmount.snapshot import Options, take
from artifactmount.store.memory import MemoryStore

REPOSITORY = Path(__file__).parent.parent.parent
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mount(kind: str, path: Path, options: str = "") -> Iterator[None]:
    """Mount by the system call: mount(8) would refuse some of these names."""
    if _libc.mount(b"artifactmount", os.fsencode(path), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    try:
        yield
    finally:
        _libc.umount2(os.fsencode(path), _DETACH)


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """A mount of our kind whose daemon has died: whoever touches it gets ENOTCONN, and nobody waits."""
    with ExitStack() as stack:
        fuse = os.open("/dev/fuse", os.O_RDWR)
        try:
            stack.enter_context(mount(KIND, path, f"fd={fuse},rootmode=40000,user_id=0,group_id=0"))
        finally:
            os.close(fuse)
        yield


# -- what is mounted -------------------------------------------------------------------------------------------------------------------
def test_proc_is_mounted() -> None:
    found = {mount.path: mount.kind for mount in mounted()}
    assert found["/proc"] == "proc"  # of the root, in a chroot, nothing is said
    assert mount_at("/proc") is not None and mount_at("/proc/self") is None


@pytest.mark.needs_root
@pytest.mark.parametrize("name", [b"a b", b"a\tb\nc", b"back\\slash\\040", b"\r\x0b\x0c", b"#-", b"-", b"\xff\xc3\xa4"])
def test_a_mountpoint_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    """The kernel escapes blank, tab, newline and backslash; what else Python takes for white space stands there as it is."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.mkdir()
    with mount("tmpfs", path):
        found = mount_at(str(path))
        assert found is not None and found.kind == "tmpfs" and not found.ours
        assert found.device == f"{os.major(os.stat(path).st_dev)}:{os.minor(os.stat(path).st_dev)}"
    assert mount_at(str(path)) is None


def test_within() -> None:
    assert within("/a/b", "/a/b") and within("/a/b/c", "/a/b") and within("/a", "/") and within("/", "/")
    assert not within("/a/bc", "/a/b") and not within("/a", "/a/b") and not within("/", "/a")


def test_locating_a_mountpoint_resolves_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "direct").symlink_to("real/m")
    wanted = str(tmp_path / "real" / "m")
    monkeypatch.chdir(tmp_path)
    for path in ("link/m", "direct", "./real/../link/m/", str(tmp_path / "link" / "m"), "real//m/."):
        assert locate(path) == wanted
    assert locate("real/missing/x") == str(tmp_path / "real" / "missing" / "x")
    assert locate("/") == "/" and locate("/proc") == "/proc"


@pytest.mark.needs_root
@pytest.mark.needs_fuse
def test_a_dead_mount_is_found_and_cleared(tmp_path: Path) -> None:
    (tmp_path / "real" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    path = tmp_path / "real" / "m"
    with ours(path):
        assert locate(str(tmp_path / "link" / "m")) == str(path)  # realpath would ask the mount
        found = mount_at(str(path))
        assert found is not None and found.ours
        prepare(str(path))
        assert mount_at(str(path)) is None
    prepare(str(path))
    with pytest.raises(NotFoundError, match="make it first"):
        prepare(str(tmp_path / "missing"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not a folder"):
        prepare(str(tmp_path / "file"))


@pytest.mark.needs_root
@pytest.mark.needs_fuse
def test_a_folder_may_not_lie_in_a_mount_nor_hold_one(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.mkdir()
    check_apart(str(path))
    with ours(path):
        for folder in (path, path / "v0" / "deep"):
            with pytest.raises(RefusedError, match="lies in the mount"):
                check_apart(str(folder))
        with pytest.raises(RefusedError, match="holds the mount"):
            check_apart(str(tmp_path))
        check_apart(str(tmp_path / "mm"))
    check_apart(str(tmp_path))


@pytest.mark.needs_root
@pytest.mark.needs_fuse
def test_of_mounts_on_one_folder_the_uppermost_counts(tmp_path: Path) -> None:
    """A folder that is a mountpoint already, such as a container's volume, may be mounted on."""
    path = tmp_path / "m"
    path.mkdir()
    with mount("tmpfs", path):
        check_apart(str(path / "folder"))
        with ours(path):
            found = mount_at(str(path))
            assert found is not None and found.ours
            with pytest.raises(RefusedError, match="lies in the mount"):
                check_apart(str(path / "folder"))


# -- the record of a daemon ------------------------------------------------------------------------------------------------------------
HOLDS = """
import os, sys
from artifactmount.mountpoint import Record
with Record(sys.argv[1], sys.argv[2]).held("memory:"):
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def test_a_record_tells_whether_its_daemon_lives(tmp_path: Path) -> None:
    record = Record("/mnt/a", str(tmp_path))
    assert record.pid() is None
    for how in (signal.SIGKILL, None):
        command = [sys.executable, "-c", HOLDS, "/mnt/a", str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            try:
                assert process.stdout is not None and process.stdin is not None
                assert int(process.stdout.readline()) == process.pid
                assert record.pid() == process.pid
                assert Record("/mnt/b", str(tmp_path)).pid() is None
                with pytest.raises(RefusedError, match="mounted already"), record.held("memory:"):
                    pass
                assert record.pid() == process.pid  # who was refused changed nothing
                if how is not None:
                    process.send_signal(how)
                else:
                    process.stdin.write("\n")
                    process.stdin.flush()
                process.wait()
            finally:
                process.kill()
        assert record.pid() is None


def test_a_record_says_what_is_mounted(tmp_path: Path) -> None:
    name = os.fsdecode(b"/mnt/\xff")
    record = Record(name, str(tmp_path))
    with record.held("s3://bucket/prefix"):
        written = json.loads(Path(record.path).read_bytes().decode("utf-8", "surrogateescape"))
        assert written == {"pid": os.getpid(), "mountpoint": name, "project": "s3://bucket/prefix", "log": record.log}
        assert os.stat(record.path).st_mode & 0o777 == 0o600
        # Half a record, as it is for a moment while a daemon starts: somebody lives, nobody knows who.
        for content in (b"", b'{"pid": ', b"[]", b"{}", b'{"pid": null}', b"\xff"):
            Path(record.path).write_bytes(content)
            assert record.pid() is None
    assert record.pid() is None


# -- pins ------------------------------------------------------------------------------------------------------------------------------
def test_a_pin_never_goes_back(tmp_path: Path) -> None:
    pins, same = Pins("s3://b/p", str(tmp_path)), Pins("s3://b/p", str(tmp_path))
    assert pins.get("animals") is None and not pins.known()
    for seq, expected in ((5, 5), (3, 5), (5, 5), (9, 9), (8, 9)):
        pins.advance("animals", seq, bytes([seq]) * 32)
        assert same.get("animals") == (expected, bytes([expected]) * 32)
    pins.advance("animals", 9, bytes(32))  # another entry of the same number does not replace the one seen
    assert same.get("animals") == (9, bytes([9]) * 32)
    assert same.get("plants") is None and Pins("s3://b/other", str(tmp_path)).get("animals") is None


@pytest.mark.parametrize("content", [b"", b"5", b"5 zz", b"five " + b"00" * 32, b"\xff\xfe"])
def test_a_damaged_pin_is_none(tmp_path: Path, content: bytes) -> None:
    pins = Pins("s3://b/p", str(tmp_path))
    pins.advance("animals", 5, bytes(32))
    Path(pins.path, "a-animals").write_bytes(content)
    assert pins.get("animals") is None
    pins.advance("animals", 2, bytes(32))
    assert pins.get("animals") == (2, bytes(32))


def test_another_project_in_the_same_place_is_refused(tmp_path: Path) -> None:
    pins = Pins("s3://b/p", str(tmp_path))
    pins.check_project("one")
    pins.check_project("one")
    assert pins.known()
    with pytest.raises(ProjectMismatchError, match="another project than before"):
        pins.check_project("two")
    Pins("s3://b/q", str(tmp_path)).check_project("two")
    # After a power cut the file may be there and empty: that says nothing of the place.
    Path(pins.path, "project").write_bytes(b"")
    assert not pins.known()
    pins.check_project("one")
    with pytest.raises(ProjectMismatchError):
        pins.check_project("two")


class Machine:
    """One user's state directory; a new cache for every project it opens, as after `rm -r ~/.cache`, or a warm one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack, self._opened = folder, ExitStack(), 0

    def open(self, store: MemoryStore, *, create: bool = False, warm: bool = False) -> Project:
        self._opened += not warm
        cache = Cache(str(self._folder / f"cache-{self._opened}"))
        self._stack.callback(cache.close)
        return Project(store, cache, str(self._folder / "state"), create=create)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_a_place_made_anew_or_emptied_is_refused(machine: Machine) -> None:
    machine.open(MemoryStore(), create=True)
    with pytest.raises(ProjectMismatchError, match="is empty now"):
        machine.open(MemoryStore(), create=True)
    other = MemoryStore("memory:other")
    machine.open(other, create=True)
    moved = MemoryStore()
    moved.create(PROJECT_KEY, other.get(PROJECT_KEY))
    with pytest.raises(ProjectMismatchError, match="another project"):
        machine.open(moved)


def test_a_history_that_went_back_is_refused(machine: Machine, tmp_path: Path) -> None:
    store, staging = MemoryStore(), tmp_path / "staging"
    staging.mkdir()
    project = machine.open(store, create=True)
    heads: list[int] = []
    for turn in range(2):
        (staging / "file").write_bytes(b"turn %d" % turn)
        take(project, str(staging), "animals", Options())
        heads.append(project.refresh("animals").seq)
    assert machine.open(store).refresh("animals").seq == heads[1]
    artifact = project.artifact("animals")
    values = {item.key: store.get(item.key) for item in store.list_keys("", limit=1000)}

    def without(*seqs: int) -> MemoryStore:
        older = MemoryStore()
        for key, data in values.items():
            if key not in {artifact.log_key(seq) for seq in seqs}:
                older.create(key, data)
        return older

    for gone in ([heads[1]], list(range(heads[0] + 1, heads[1] + 1)), list(range(heads[1] + 1))):
        with pytest.raises(ProjectMismatchError, match="does not continue what this machine saw"):
            machine.open(without(*gone)).refresh("animals")
    # Another history of the same length, and a longer one, that somebody else wrote over the old place.
    forked = without(*range(heads[0] + 1, heads[1] + 1))
    elsewhere = Machine(tmp_path / "elsewhere")
    try:
        for turn in range(2):
            (staging / "file").write_bytes(b"another %d" % turn)
            take(elsewhere.open(forked), str(staging), "animals", Options())
            with pytest.raises(ProjectMismatchError, match="does not continue"):
                machine.open(forked).refresh("animals")
    finally:
        elsewhere.close()
    assert machine.open(store).refresh("animals").seq == heads[1]


def test_a_log_that_was_cut_is_refused_also_behind_a_warm_cache(machine: Machine, tmp_path: Path) -> None:
    """Or the next entry would be written behind the hole, and be read by nobody."""
    store, staging = MemoryStore(), tmp_path / "staging"
    staging.mkdir()
    project = machine.open(store, create=True)
    for turn in range(2):
        (staging / "file").write_bytes(b"turn %d" % turn)
        take(project, str(staging), "animals", Options())
    artifact, last = project.artifact("animals"), project.refresh("animals").seq
    store.delete([artifact.log_key(last)])
    (staging / "file").write_bytes(b"behind the hole")
    with pytest.raises(ProjectMismatchError, match=f"entry {last}"):
        take(machine.open(store, warm=True), str(staging), "animals", Options())
    with pytest.raises(ProjectMismatchError, match=f"entry {last}"):
        take(machine.open(store), str(staging), "animals", Options())
    assert [item.key for item in store.list_keys(artifact.log_key(0)[:-16])] == [artifact.log_key(seq) for seq in range(last)]


class MeanwhileStore(MemoryStore):
    """Something happens elsewhere just after an entry was found missing."""

    meanwhile: Callable[[], object] | None = None

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            return super().get(key, start, stop)
        except KeyMissingError:
            if "/log/" in key and self.meanwhile is not None:
                work, self.meanwhile = self.meanwhile, None
                work()
            raise


def test_a_commit_while_the_head_is_read_is_no_history_that_went_back(machine: Machine, tmp_path: Path) -> None:
    """Another process of this machine commits, and pins it, between two looks of this one."""
    store, staging = MeanwhileStore(), tmp_path / "staging"
    staging.mkdir()
    (staging / "file").write_bytes(b"zero")
    other = machine.open(store, create=True)
    take(other, str(staging), "animals", Options())
    (staging / "file").write_bytes(b"one")
    store.meanwhile = lambda: take(other, str(staging), "animals", Options())
    project = machine.open(store)
    before = project.refresh("animals")
    assert other.refresh("animals").seq > before.seq
    assert project.refresh("animals") == other.refresh("animals")


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("text", "refused"),
    [(None, True), ("", True), ("#user_allow_other\n", True), ("mount_max = 9\n  user_allow_other \n", False)],
)
def test_showing_files_to_others_is_for_root_to_allow(tmp_path: Path, text: str | None, refused: bool) -> None:
    config = Path(tempfile.mkdtemp()) / "fuse.conf"
    config.parent.chmod(0o755)
    try:
        if text is not None:
            config.write_text(text)
            config.chmod(0o644)
        check_allow_other(str(config))  # of root nobody asks
        said = as_nobody(partial(check_allow_other, str(config)))
        assert said == (f"--allow-other is for root, unless {config} has the line user_allow_other; ask root to add it" if refused else "")
        config.write_text("")
        config.chmod(0o600)
        assert as_nobody(partial(check_allow_other, str(config))) == ""  # fusermount3, which may read it, decides
    finally:
        shutil.rmtree(config.parent)


def as_nobody(call: Callable[[], None]) -> str:
    """What a call says when it is refused to another user; nothing when it is not."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        try:
            call()
        except RefusedError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
