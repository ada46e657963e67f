"""What verify counts as accounted for: each key of an artifact, also those that are written while it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.project import Project
from artifactmount.snapshot import Options, take
from artifactmount.store import Listed
from artifactmount.store.memory import MemoryStore
from artifactmount.verify import verify

PREFIX = "artifacts/animals/"


class BusyStore(MemoryStore):
    """Others write while it is listed: `meanwhile` runs before each listing of an artifact."""

    meanwhile: Callable[[], None] | None = None

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        work, self.meanwhile = self.meanwhile, None
        if work is not None and prefix == PREFIX:
            work()
        self.meanwhile = work
        return super().list_keys(prefix, after, limit)


@pytest.fixture
def store() -> BusyStore:
    return BusyStore()


@pytest.fixture
def project(store: BusyStore, tmp_path: Path) -> Iterator[Project]:
    cache = Cache(str(tmp_path / "cache"))
    project = Project(store, cache, str(tmp_path / "state"), create=True)
    yield project
    cache.close()


def log(project: Project, staging: Path, count: int) -> None:
    staging.mkdir(exist_ok=True)
    for _ in range(count):
        (staging / "file").write_bytes(b"%d" % project.refresh("animals").seq)
        take(project, str(staging), "animals", Options())


STRANGE = [
    "log/0000000000000002.bak",
    "log/2",
    "log/zzz",
    "log/sub/0000000000000000",
    "state/0000000000000063",
    "state/0000000000000001",
    "state/63",
    "data/0000000000000002/00000000",
    "data/0000000000000000/0",
    "data/file",
    "note",
    "other/0000000000000000",
]


@pytest.mark.parametrize("key", STRANGE)
def test_a_key_that_no_entry_accounts_for_is_reported(project: Project, store: BusyStore, tmp_path: Path, key: str) -> None:
    """A checkpoint beyond the head, or where none is due, a foreign key in the log, or beside all of it: only packs were looked at."""
    log(project, tmp_path / "staging", 1)
    assert project.refresh("animals").seq == 1 and verify(project, None).problems == []
    store.create(PREFIX + key, b"strange")
    assert verify(project, None).problems == [f"{PREFIX}{key}: no entry of the log accounts for it"]


def test_an_entry_behind_a_hole_is_reported(project: Project, store: BusyStore, tmp_path: Path) -> None:
    log(project, tmp_path / "staging", 1)
    store.create(project.artifact("animals").log_key(7), b"beyond")
    assert verify(project, None).problems == ["animals: the log has a hole at entry 2"]


def test_what_is_written_while_it_looks_is_not_reported(project: Project, store: BusyStore, tmp_path: Path) -> None:
    """Entries, packs and a checkpoint, each time it looks again: a writer that is never done."""
    log(project, tmp_path / "staging", 28)

    def write() -> None:
        log(project, tmp_path / "staging", 6)

    store.meanwhile = write
    assert verify(project, None).problems == []
    store.meanwhile = None
    state = project.refresh("animals")
    assert state.seq > 63 and store.get(project.artifact("animals").checkpoint_key(63))
    assert verify(project, None).problems == []
