"""Files that are kept open: they answer from the page cache or not at all, and never hold on to what was deleted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import pytest
import trio
import trio.testing

from artifactmount.delete import delete_versions
from artifactmount.digest import chunk_digest
from artifactmount.errors import CorruptError
from artifactmount.fetch import Fetcher
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.run import ChunkRef
from artifactmount.state import State
from artifactmount.store.folder import FolderStore
from artifactmount.store.kept import KeptFiles
from tests.unit.test_forgetting import OTHER, SECRET, log, machine

_CONTENT = bytes(range(256)) * 100


def failing(number: int) -> Callable[..., Never]:
    """A system call that ends with this error."""

    def fail(*_: object) -> Never:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(str(tmp_path))
    store.create("packs/a", _CONTENT)
    store.create("packs/b", _CONTENT)
    return store


def open_files(folder: Path) -> int:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and os.readlink(link).startswith(str(folder)) for link in links)


@pytest.mark.usefixtures("answering")
def test_only_what_is_kept_is_answered_from(store: FolderStore) -> None:
    kept = KeptFiles(store)
    assert kept.peek("packs/a", 0, 10) is None
    for _ in range(2):  # the second time reads ahead
        kept.keep("packs/a", 0)
        assert kept.peek("packs/a", 100, 300) == _CONTENT[100:400]
    assert kept.peek("packs/a", len(_CONTENT) - 10, 11) is None  # cut short: whoever fetches it says so
    assert kept.peek("packs/b", 0, 10) is None


def test_a_deleted_file_is_not_answered_from(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    kept.keep("packs/a", 0)
    store.delete(["packs/a"])
    assert kept.peek("packs/a", 0, 10) is None
    assert open_files(tmp_path) == 0


@pytest.mark.usefixtures("answering")
def test_what_is_unused_or_deleted_is_let_go_of(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    kept.keep("packs/a", 0)
    kept.keep("packs/b", 0)
    kept.let_go()
    assert open_files(tmp_path) == 2  # used since they were opened
    assert kept.peek("packs/b", 0, 10) == _CONTENT[:10]  # so it is used; but it is deleted
    store.delete(["packs/b"])
    kept.let_go()
    assert open_files(tmp_path) == 0


def test_what_is_no_file_is_not_kept(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    os.mkfifo(tmp_path / "packs/fifo")
    (tmp_path / "packs/link").symlink_to("a")
    for key in ("packs/fifo", "packs/link", "packs/none"):
        kept.keep(key, 0)
        assert kept.peek(key, 0, 10) is None
    assert open_files(tmp_path) == 0


@pytest.mark.usefixtures("answering")
def test_few_are_kept(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    for number in range(70):
        store.create(f"many/{number}", b"x")
        kept.keep(f"many/{number}", 0)
    assert open_files(tmp_path) == 64
    kept.let_go(everything=True)
    assert open_files(tmp_path) == 0


# -- what the system refuses -------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("answering")
def test_a_file_that_fails_is_let_go_of(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptFiles(store)

    def let_go() -> None:
        kept.let_go()

    def peek() -> None:
        assert kept.peek("packs/a", 0, 10) is None

    for call, ask in (("fstat", let_go), ("fstat", peek), ("preadv", peek)):
        kept.keep("packs/a", 0)
        assert open_files(tmp_path) == 1
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(errno.ESTALE))
            ask()
        assert open_files(tmp_path) == 0
    kept.keep("packs/b", 0)
    assert kept.peek("packs/b", 0, 10) == _CONTENT[:10]  # one bad file says nothing of others


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_nothing_is_kept_where_a_read_may_wait(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kept = KeptFiles(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing(number))
        kept.keep("packs/a", 0)
        assert open_files(tmp_path) == 0
    kept.keep("packs/a", 0)  # it is not tried again
    assert kept.peek("packs/a", 0, 10) is None
    assert open_files(tmp_path) == 0


@pytest.mark.usefixtures("answering")
def test_what_is_not_in_memory_is_kept_all_the_same(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptFiles(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing(errno.EAGAIN))
        kept.keep("packs/a", 0)
        assert kept.peek("packs/a", 0, 10) is None
    assert kept.peek("packs/a", 0, 10) == _CONTENT[:10]


@pytest.mark.usefixtures("answering")
def test_keeping_never_fails_and_leaks_nothing(store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptFiles(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing(errno.ESTALE))
        kept.keep("packs/a", 0)
    assert open_files(tmp_path) == 0
    kept.keep("packs/a", 0)
    for call, number in (("dup", errno.EMFILE), ("posix_fadvise", errno.EINVAL), ("open", errno.EMFILE)):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            kept.keep("packs/a", 0)
            if call == "open":
                kept.keep("packs/b", 0)
        assert open_files(tmp_path) == 1


def test_an_error_does_not_end_the_tending(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It runs beside the mount: what it raised would take the mount down."""
    scope = trio.CancelScope()

    class Failing(KeptFiles):
        times = 0

        def let_go(self, *, everything: bool = False) -> None:
            self.times += 1
            if self.times == 3:
                trio.from_thread.run_sync(scope.cancel)
            raise OSError(errno.ENOTCONN, "the first" if self.times == 1 else "another")

    async def tend(project: Project, kept: KeptFiles) -> None:
        async with trio.open_nursery() as nursery:
            reader = Reader(project, Hopper(nursery))
            reader._kept = kept
            with scope:
                await reader.tend()

    store = FolderStore(str(tmp_path / "project"))
    with machine(store, tmp_path / "home") as project:
        kept = Failing(store)
        trio.run(tend, project, kept, clock=trio.testing.MockClock(autojump_threshold=0))
    assert kept.times == 3
    assert [record.getMessage() for record in caplog.records] == ["[Errno 107] the first", "[Errno 107] another"]


# -- small chunks of packs ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Place:
    """A folder project on one machine, with SECRET in v0 and OTHER in v1."""

    project: Project
    fetcher: Fetcher
    ref: ChunkRef
    state: State
    run: bytes

    @property
    def pack(self) -> Path:
        """The file with SECRET."""
        return Path(self.project.store.place, self.project.artifact("animals").pack_key(self.ref.place.pack))

    def read(self) -> bytes:
        """SECRET, from where it lies."""
        return self.fetcher.chunk(self.ref, self.state, self.run)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store = FolderStore(str(tmp_path / "project"))
    with machine(store, tmp_path / "home") as project:
        log(project, tmp_path / "staging", {"secret": SECRET}, "")
        log(project, tmp_path / "staging", {"other": OTHER}, "")
        state = project.refresh("animals")
        run = project.catalog("animals").run(state.versions[0])
        ref = next(chunk for chunk in run.all_chunks() if chunk.digest == chunk_digest(SECRET))
        yield Place(project, Fetcher(project, "animals", KeptFiles(store)), ref, state, run.digest)


@pytest.mark.usefixtures("answering")
def test_a_flipped_byte_of_a_kept_pack_is_never_served(place: Place) -> None:
    assert place.fetcher.at_hand(place.ref) is None
    assert place.read() == SECRET and place.fetcher.at_hand(place.ref) == SECRET
    at = place.ref.place.offset + place.ref.place.stored // 2
    with place.pack.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    assert place.fetcher.at_hand(place.ref) is None
    with pytest.raises(CorruptError):
        place.read()


@pytest.mark.usefixtures("answering")
def test_a_deleted_pack_is_not_answered_from_where_a_copy_has_its_file(place: Place, tmp_path: Path) -> None:
    """As one by `cp -al`: its file has a name still, so only the state says that it is gone."""
    os.link(place.pack, tmp_path / "copy")
    assert place.read() == SECRET and place.fetcher.at_hand(place.ref) == SECRET
    delete_versions(place.project, "animals", [0])
    assert not place.pack.exists() and (tmp_path / "copy").stat().st_nlink == 1
    assert place.ref.place.pack not in place.project.refresh("animals").packs
    assert place.fetcher.at_hand(place.ref) is None


@pytest.mark.usefixtures("answering")
def test_a_read_does_not_fail_for_want_of_descriptors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.read() == SECRET
    monkeypatch.setattr(os, "dup", failing(errno.EMFILE))
    assert place.read() == SECRET and place.fetcher.at_hand(place.ref) == SECRET
