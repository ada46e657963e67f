"""An interrupted snapshot run again goes on with what it had stored, and never with what it had not."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.errors import StoreFullError
from artifactmount.garbage import collect
from artifactmount.journal import Journal
from artifactmount.pack import TableRow
from artifactmount.project import Project
from artifactmount.sealed import FORMAT, seal
from artifactmount.snapshot import Options, take
from artifactmount.store.memory import MemoryStore
from artifactmount.verify import verify

_ROWS = [TableRow(b"a" * 32, 158, 10, 20), TableRow(b"b" * 32, 168, 5, 5)]


# -- the file --------------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "journal")


def test_it_remembers_while_the_session_is_open(path: str) -> None:
    with Journal(path) as journal:
        assert (journal.session, journal.next, journal.packs) == (None, 0, {})
        journal.begin(7)
        journal.reserve(0)
        journal.stored(0, _ROWS)
        journal.reserve(1)
    with Journal(path) as journal:
        assert (journal.session, journal.next, journal.packs) == (7, 2, {0: _ROWS})
        journal.forget()
    assert not Path(path).exists()


def test_who_finds_it_locked_does_without(path: str) -> None:
    with Journal(path) as first:
        first.begin(7)
        with Journal(path) as second:
            assert second.session is None
            second.begin(8)
            second.stored(0, _ROWS)
    with Journal(path) as journal:
        assert (journal.session, journal.packs) == (7, {})


def test_a_torn_or_damaged_line_ends_it(path: str) -> None:
    with Journal(path) as journal:
        journal.begin(7)
        for number in range(3):
            journal.reserve(number)
            journal.stored(number, _ROWS)
    whole = Path(path).read_bytes()
    for cut in range(len(whole)):
        Path(path).write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert journal.session in (None, 7) and all(rows == _ROWS for rows in journal.packs.values())
            assert all(number < journal.next for number in journal.packs)
            begun = journal.session == 7
            journal.reserve(9)
            journal.session = journal.session or 0  # so that it is not removed
        with Journal(path) as journal:
            assert not begun or (journal.session, journal.next) == (7, 10)  # what is written behind it is found
    for at in range(0, len(whole), 7):
        Path(path).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with Journal(path) as journal:
            assert journal.session in (None, 7) and all(rows == _ROWS for rows in journal.packs.values())


def test_a_line_that_another_program_wrote_is_passed_over(path: str) -> None:
    """As the first program wrote its tables: what it stored is stored again, and its numbers are not used again."""
    with Journal(path) as journal:
        journal.begin(7)
        journal.reserve(0)
    with Path(path).open("ab") as file:
        file.write(seal({"format": FORMAT, "stored": 0, "rows": [["61" * 32, 158, 10, 20]]}) + b"\n")
        file.write(seal({"format": FORMAT, "reserved": 1}) + b"\n")
    with Journal(path) as journal:
        assert (journal.session, journal.next, journal.packs) == (7, 2, {})


def test_where_nothing_can_be_written_nothing_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for journal in (Journal(str(tmp_path / "file" / "journal")), Journal.nowhere()):
        with journal:
            journal.begin(7)
            journal.reserve(0)
            journal.stored(0, _ROWS)
            journal.forget()


# -- a snapshot ------------------------------------------------------------------------------------------------------------------------
class InterruptedStore(MemoryStore):
    """^C comes with the n-th pack, before or after it was stored; or from then on there is no room, until something is deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt_at, self.after, self.created = -1, False, list[str]()
        self.full_at, self.full = -1, False
        self._counting = threading.Lock()

    def delete(self, keys: Sequence[str]) -> None:
        super().delete(keys)
        self.full = False

    def create(self, key: str, data: bytes) -> bool:
        self.full = self.full or ("/data/" in key and len(self.created) == self.full_at)
        if self.full:
            raise StoreFullError("no room")
        if "/data/" not in key:
            return super().create(key, data)
        with self._counting:
            self.created.append(key)
            number = len(self.created)
        if number == self.interrupt_at and not self.after:
            raise KeyboardInterrupt
        done = super().create(key, data)
        if number == self.interrupt_at:
            raise KeyboardInterrupt
        return done


class Machine:
    def __init__(self, folder: Path) -> None:
        self.store, self.folder, self.staging = InterruptedStore(), folder, folder / "staging"
        self.cache = Cache(str(folder / "cache"))
        self.staging.mkdir()
        for number in range(6):  # each has a pack of its own, and there is one of small files
            (self.staging / f"large-{number}").write_bytes(random.Random(number).randbytes(8 << 20))
            (self.staging / f"small-{number}").write_bytes(b"small %d" % number)

    def project(self) -> Project:
        return Project(self.store, self.cache, str(self.folder / "state"), create=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.cache.close()


def data_keys(project: Project) -> set[str]:
    return {item.key for item in project.store.list_keys("artifacts/animals/data/")}


def live_keys(project: Project) -> set[str]:
    return {project.artifact("animals").pack_key(pack) for pack in project.refresh("animals").packs}


@pytest.mark.parametrize("after", [False, True])
def test_only_what_is_missing_is_uploaded(machine: Machine, after: bool) -> None:
    machine.store.interrupt_at, machine.store.after = 5, after
    with pytest.raises(KeyboardInterrupt):
        take(machine.project(), str(machine.staging), "animals", Options())
    stored = len(data_keys(machine.project()))
    assert stored >= 3
    machine.store.created.clear()
    machine.store.interrupt_at = -1
    project = machine.project()
    assert take(project, str(machine.staging), "animals", Options()).version == 0
    # Six large files, the small ones, and the version's run; what was stored and not yet written down comes twice.
    assert len(machine.store.created) <= 8 - stored + 1
    assert data_keys(project) == live_keys(project) and verify(project, None).problems == []
    assert not list((machine.folder / "state" / "journals").iterdir())


def test_what_changed_meanwhile_is_uploaded_anew_and_nothing_is_left(machine: Machine) -> None:
    machine.store.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        take(machine.project(), str(machine.staging), "animals", Options())
    machine.store.interrupt_at = -1
    (machine.staging / "large-0").write_bytes(b"no longer large")
    (machine.staging / "small-0").unlink()
    project = machine.project()
    take(project, str(machine.staging), "animals", Options())
    assert data_keys(project) == live_keys(project) and verify(project, None).problems == []


def test_a_closed_session_is_not_gone_on_with(machine: Machine) -> None:
    machine.store.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        take(machine.project(), str(machine.staging), "animals", Options())
    machine.store.interrupt_at = -1
    assert collect(machine.project(), "animals", 0).keys >= 3
    machine.store.created.clear()
    project = machine.project()
    take(project, str(machine.staging), "animals", Options())
    assert len(machine.store.created) == 8
    assert data_keys(project) == live_keys(project) and verify(project, None).problems == []


def test_a_full_store_gets_its_room_back_where_no_commit_can_be_on_its_way(machine: Machine) -> None:
    machine.store.full_at = 4
    with pytest.raises(StoreFullError):
        take(machine.project(), str(machine.staging), "animals", Options())
    project = machine.project()
    assert data_keys(project) == set() and not project.refresh("animals").open


def test_a_full_store_keeps_what_an_interrupted_command_may_still_commit(machine: Machine) -> None:
    """The commit of the first one may be late: what it would name is not deleted before its session is closed."""
    machine.store.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        take(machine.project(), str(machine.staging), "animals", Options())
    stored = data_keys(machine.project())
    machine.store.interrupt_at, machine.store.full_at = -1, len(machine.store.created)
    with pytest.raises(StoreFullError):
        take(machine.project(), str(machine.staging), "animals", Options())
    assert data_keys(machine.project()) == stored
    machine.store.full_at, machine.store.full = -1, False
    project = machine.project()
    take(project, str(machine.staging), "animals", Options())
    assert data_keys(project) == live_keys(project) and verify(project, None).problems == []
