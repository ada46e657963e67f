"""What other processes do to a project shows up in a mount that stands, within a time a person does not notice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Project, mounted, wait_until, write

pytestmark = pytest.mark.needs_fuse

#: The kernel remembers a name for a second, the daemon a state for one; a look between the two may cost a third. Two are usual.
NEWS_SECONDS = 3.2
AT_ONCE_SECONDS = 0.6


@pytest.fixture
def live(project: Project) -> Iterator[Mount]:
    """A mount of `animals:v0`, looked at, so that all it shows is remembered as far as it ever is."""
    project.snapshot(write(project.root / "staging", {"cat.png": b"cat"}), "animals", "--alias", "best")
    with mounted(project) as mount:
        assert os.listdir(mount.path) == ["animals"]
        assert sorted(os.listdir(mount / "animals")) == ["best", "latest", "v0"]
        assert os.readlink(mount / "animals/latest") == os.readlink(mount / "animals/best") == "v0"
        yield mount


def snapshot_again(project: Project, name: str, content: bytes) -> None:
    """The next version, by another process."""
    project.snapshot(write(project.root / "staging", {name: content}), "animals")


@contextmanager
def looked_at(path: Path) -> Iterator[None]:
    """Meanwhile somebody looks at this link all the time, so that what is remembered of it is always new."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            os.lstat(path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def appears(condition: Callable[[], bool]) -> None:
    """It is true within the time that is promised."""
    wait_until(condition, NEWS_SECONDS)


def is_found(path: Path) -> None:
    """A name nobody knew is asked for, so there is nothing to wait for, unless the daemon asked less than a tenth of a second ago."""
    wait_until(lambda: os.path.lexists(path), AT_ONCE_SECONDS)


def test_a_new_version_is_listed_and_read(project: Project, live: Mount) -> None:
    snapshot_again(project, "dog.png", b"dog")
    appears(lambda: "v1" in os.listdir(live / "animals"))
    assert (live / "animals/v1/dog.png").read_bytes() == b"dog"
    assert os.listdir(live / "animals/v0") == ["cat.png"]


def test_latest_follows_while_nobody_lists(project: Project, live: Mount) -> None:
    with looked_at(live / "animals/latest"):
        snapshot_again(project, "dog.png", b"dog")
        appears(lambda: os.readlink(live / "animals/latest") == "v1")
    assert (live / "animals/latest/dog.png").read_bytes() == b"dog"


def test_an_open_file_stays_what_it_was_while_latest_follows(project: Project, live: Mount) -> None:
    before = os.stat(live / "animals/v0/cat.png")
    with (live / "animals:latest/cat.png").open("rb") as file:
        snapshot_again(project, "cat.png", b"another cat")
        appears(lambda: (live / "animals:latest/cat.png").read_bytes() == b"another cat")
        assert file.read() == b"cat"
        assert os.fstat(file.fileno()) == os.stat(live / "animals/v0/cat.png") == before


def test_a_version_is_found_by_its_name_at_once(project: Project, live: Mount) -> None:
    with pytest.raises(FileNotFoundError):
        os.stat(live / "animals/v1")
    snapshot_again(project, "dog.png", b"dog")
    is_found(live / "animals/v1")
    assert (live / "animals/v1/dog.png").read_bytes() == b"dog"
    snapshot_again(project, "rat.png", b"rat")
    is_found(live / "animals:v2")
    assert (live / "animals:v2/rat.png").read_bytes() == b"rat"


def test_an_alias_that_moves_and_one_that_is_removed(project: Project, live: Mount) -> None:
    project.do("alias", "animals:v0", "old")
    is_found(live / "animals/old")
    assert os.readlink(live / "animals/old") == "v0"
    snapshot_again(project, "dog.png", b"dog")
    project.do("alias", "animals:v1", "best", "newest")
    project.do("alias", "--remove", "animals", "old")
    appears(lambda: os.readlink(live / "animals/best") == "v1" and not os.path.lexists(live / "animals/old"))
    is_found(live / "animals/newest")
    assert os.readlink(live / "animals/newest") == "v1"
    appears(lambda: sorted(os.listdir(live / "animals")) == ["best", "latest", "newest", "v0", "v1"])


def test_a_new_artifact_is_found_at_once_and_listed_soon(project: Project, live: Mount) -> None:
    with pytest.raises(FileNotFoundError):
        os.stat(live / "plants")
    project.snapshot(write(project.root / "other", {"rose": b"red"}), "plants")
    is_found(live / "plants")
    assert (live / "plants/latest/rose").read_bytes() == b"red"
    appears(lambda: os.listdir(live.path) == ["animals", "plants"])


def test_a_project_that_is_empty_at_first(project: Project) -> None:
    project.do("init")
    with mounted(project) as mount:
        assert os.listdir(mount.path) == []
        project.snapshot(write(project.root / "staging", {"cat.png": b"cat"}), "animals")
        appears(lambda: os.listdir(mount.path) == ["animals"])
        assert (mount / "animals:latest/cat.png").read_bytes() == b"cat"
