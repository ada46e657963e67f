"""What reading notes and runs costs: each metadata pack is read once, and `log` reads several at once and survives those that are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest

from artifactmount.cache import Cache
from artifactmount.cli.log import _with_notes
from artifactmount.project import Project
from artifactmount.snapshot import Options, take
from artifactmount.store.memory import MemoryStore

COUNT = 8


class WatchedStore(MemoryStore):
    """Counts what is read. With `together`, metadata packs are given out only to so many readers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Counter[str]()
        self.metadata: set[str] = set()
        self.together: Barrier | None = None

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if key in self.metadata:
            self.read[key] += 1
            if self.together is not None:
                self.together.wait(30)
        return super().get(key, start, stop)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    """Eight versions, each with a note."""
    store, cache = WatchedStore(), Cache(str(tmp_path / "writer"))
    project = Project(store, cache, str(tmp_path / "writer's state"), create=True)
    (tmp_path / "staging").mkdir()
    for n in range(COUNT):
        (tmp_path / "staging" / "file").write_bytes(b"%d" % n)
        take(project, str(tmp_path / "staging"), "pets", Options(note=f"note {n}"))
    for version in project.existing("pets").versions.values():
        store.metadata |= {project.artifact("pets").pack_key(pack) for pack in version.metadata.packs}
    cache.close()
    return store


@pytest.fixture
def project(store: WatchedStore, tmp_path: Path) -> Iterator[Project]:
    """On a machine that knows nothing yet."""
    cache = Cache(str(tmp_path / "cache"))
    yield Project(store, cache, str(tmp_path / "state"))
    cache.close()


def test_what_came_with_a_card_is_not_read_again(project: Project, store: WatchedStore) -> None:
    versions, catalog = project.existing("pets").versions.values(), project.catalog("pets")
    for version in versions:
        assert catalog.card(version).note == f"note {version.n}" and catalog.run(version).count == 1
    assert store.read == dict.fromkeys(store.metadata, 1)


def test_what_came_with_a_run_is_not_read_again(project: Project, store: WatchedStore) -> None:
    versions, catalog = project.existing("pets").versions.values(), project.catalog("pets")
    for version in versions:
        assert catalog.run(version).count == 1 and catalog.card(version).note == f"note {version.n}"
    assert store.read == dict.fromkeys(store.metadata, 1)


def test_log_reads_the_notes_of_several_versions_at_once(project: Project, store: WatchedStore) -> None:
    store.together = Barrier(COUNT)
    found = [noted for _, noted in _with_notes(project, "pets", project.existing("pets"), True, 16) if noted is not None]
    assert [noted.note for noted in found] == [f"note {n}" for n in reversed(range(COUNT))]
    assert all(noted.run is not None for noted in found) and store.read == dict.fromkeys(store.metadata, 1)


def test_log_goes_on_behind_a_version_whose_metadata_is_lost(project: Project, store: WatchedStore) -> None:
    state = project.existing("pets")
    store.delete([project.artifact("pets").pack_key(pack) for pack in state.versions[3].metadata.packs])
    found = [noted for _, noted in _with_notes(project, "pets", state, False, 16) if noted is not None]
    assert [noted.note for noted in found if noted.readable] == [f"note {n}" for n in (7, 6, 5, 4, 2, 1, 0)]
    assert [noted.readable for noted in found].index(False) == 4
