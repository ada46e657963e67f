"""What dead writers leave, and who may delete it when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.garbage import Swept, collect
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.session import Session
from artifactmount.snapshot import Options, take
from artifactmount.steps import drive
from artifactmount.store.memory import MemoryStore
from artifactmount.verify import verify


class LaterStore(MemoryStore):
    """Its clock can be moved on."""

    later = 0.0

    def clock(self) -> float:
        return super().clock() + self.later


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    cache = Cache(str(tmp_path / "cache"))
    project = Project(LaterStore(), cache, str(tmp_path / "state"), create=True)
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "file").write_bytes(b"content")
    take(project, str(staging), "animals", Options())
    yield project
    cache.close()


def leave_a_session(project: Project, packs: int) -> int:
    """As a writer that was killed while it uploaded."""
    artifact = project.artifact("animals")
    session = Session(artifact, project.writer, project.refresh("animals"))
    number = drive(project.store, session.open())
    for n in range(packs):
        assert project.store.create(artifact.pack_key(PackId(number, n)), b"half a snapshot")
    return number


def keys(project: Project) -> set[str]:
    return {item.key for item in project.store.list_keys("artifacts/animals/data/", limit=10_000)}


def live(project: Project) -> set[str]:
    return {project.artifact("animals").pack_key(pack) for pack in project.refresh("animals").packs}


def test_a_dead_session_is_closed_and_swept_after_the_grace(project: Project) -> None:
    number = leave_a_session(project, 1100)  # more than a page of a listing
    assert collect(project, "animals", 3600) == Swept()
    assert len(keys(project)) == 1100 + len(live(project))
    assert isinstance(project.store, LaterStore)
    project.store.later = 3601
    told = collect(project, "animals", 3600, dry_run=True)
    assert len(keys(project)) == 1100 + len(live(project)) and number in project.refresh("animals").open
    assert told == Swept([number], 1100, 1100 * len(b"half a snapshot"))
    assert collect(project, "animals", 3600) == told
    assert keys(project) == live(project) and not project.refresh("animals").open
    assert collect(project, "animals", 0) == Swept()
    assert verify(project, None).problems == []


def test_an_upload_that_lands_late_is_swept_the_next_time(project: Project) -> None:
    number = leave_a_session(project, 1)
    collect(project, "animals", 0)
    project.store.create(project.artifact("animals").pack_key(PackId(number, 1)), b"late")
    assert collect(project, "animals", 0) == Swept([], 1, 4)
    assert keys(project) == live(project)


def test_what_is_no_pack_and_what_an_open_session_has_stays(project: Project) -> None:
    leave_a_session(project, 2)
    project.store.create("artifacts/animals/data/readme.txt", b"not ours")
    before = keys(project)
    assert collect(project, "animals", 3600) == Swept()
    assert keys(project) == before
    collect(project, "animals", 0)
    assert keys(project) == live(project) | {"artifacts/animals/data/readme.txt"}


def test_an_artifact_that_never_was(project: Project) -> None:
    assert collect(project, "plants", 0) == Swept()
