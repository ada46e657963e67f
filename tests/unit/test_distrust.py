"""What lies beside a project proves nothing: a damaged cache, strangers' folders, a state directory that takes nothing in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.download import download
from artifactmount.errors import CorruptError, RefusedError, UsageError
from artifactmount.names import parse
from artifactmount.project import Project, open_store
from artifactmount.snapshot import Options, take
from artifactmount.verify import verify


class Machine:
    """A folder project and all that is beside it. Each `open` is as a new process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.staging = folder, folder / "staging"
        self.staging.mkdir()

    @contextmanager
    def open(self) -> Iterator[Project]:
        cache = Cache(str(self.folder / "cache"))
        try:
            yield Project(open_store(str(self.folder / "project")), cache, str(self.folder / "state"), create=True)
        finally:
            cache.close()

    def snapshot(self, options: Options | None = None, **files: bytes) -> int:
        for name, content in files.items():
            (self.staging / name).write_bytes(content)
        with self.open() as project:
            return take(project, str(self.staging), "pets", options or Options()).version


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_run_in_the_cache_is_neither_believed_nor_stored_again(machine: Machine) -> None:
    machine.snapshot(cat=b"cat", dog=b"dog")
    with machine.open() as project:
        project.catalog("pets").run(project.existing("pets").versions[0])
    (run,) = (machine.folder / "cache" / "runs").iterdir()
    whole = run.read_bytes()
    for at in range(0, len(whole), 5):
        run.write_bytes(whole)
        flip(run, at)
        with machine.open() as project:
            state = project.existing("pets")
            assert bytes(project.catalog("pets").run(state.versions[0]).buffer) == whole
    flip(run, 100)
    assert machine.snapshot(Options(note="stores the run again, beside another card")) == 0
    shutil.rmtree(machine.folder / "cache")
    with machine.open() as project:
        assert bytes(project.catalog("pets").run(project.existing("pets").versions[0]).buffer) == whole
        assert verify(project, None).problems == []


def test_the_run_of_another_version_is_not_believed(machine: Machine) -> None:
    """A metadata pack that is right by itself, and as long, in the place of another's."""
    machine.snapshot(cat=b"cat")
    machine.snapshot(cat=b"dog")
    with machine.open() as project:
        zero, one = project.existing("pets").versions.values()
        assert zero.metadata.run_length == one.metadata.run_length
        keys = [project.artifact("pets").pack_key(pack) for version in (zero, one) for pack in version.metadata.packs]
        theirs, place = (machine.folder / "project" / key for key in keys)
        place.write_bytes(theirs.read_bytes())
        with pytest.raises(CorruptError, match="not what its log says"):
            project.catalog("pets").read_stored(one)


def test_a_damaged_place_in_the_cache_is_none(machine: Machine) -> None:
    machine.snapshot(cat=b"cat", dog=b"dog" * 5000)
    with machine.open() as project:
        project.catalog("pets").places(project.existing("pets"))
        places = project.cache.index.items("places", b"")
        assert places
        for bit in (0, 64, 130, 190, 300):
            damaged = [(key, bytes(b ^ (1 << bit % 8) if i == bit // 8 else b for i, b in enumerate(value))) for key, value in places]
            project.cache.index.put_many("places", damaged)
            index = project.catalog("pets").places(project.existing("pets"))
            assert all(index.find(key[16:]) is None for key, _ in damaged)
    assert machine.snapshot(new=b"dog" * 5000) == 1  # uploaded again rather than named where it may not be
    with machine.open() as project:
        assert verify(project, None).problems == []


def test_a_hundred_versions_hold_no_hundred_descriptors(machine: Machine) -> None:
    for number in range(20):
        machine.snapshot(file=b"%d" % number)
    with machine.open() as project:
        state = project.existing("pets")
        before = len(os.listdir("/proc/self/fd"))
        tables = [project.catalog("pets").table(state, n) for n in state.versions]
        assert len(tables) == 20 and len(os.listdir("/proc/self/fd")) <= before + 1


def test_folders_of_strangers_are_no_artifacts(machine: Machine) -> None:
    machine.snapshot(cat=b"cat")
    (machine.folder / "project" / "artifacts" / "@eaDir" / "log").mkdir(parents=True)
    with machine.open() as project:
        assert project.names() == ["pets"]
        assert verify(project, None).problems == []


def test_a_commit_stands_where_it_cannot_be_remembered(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.snapshot(cat=b"cat")
    shutil.rmtree(machine.folder / "state")
    (machine.folder / "state").write_bytes(b"a file where the folder should be")
    assert machine.snapshot(dog=b"dog") == 1
    assert "cannot be remembered" in caplog.text


@pytest.mark.parametrize("where", ["project", "project/artifacts/pets", "cache", "cache/new"])
def test_nothing_is_downloaded_into_the_project_or_the_cache(machine: Machine, where: str) -> None:
    (machine.staging / "project.json").write_bytes(b"evil")
    machine.snapshot()
    with machine.open() as project:
        with pytest.raises(RefusedError, match="lies in the"):
            download(project, parse("pets"), str(machine.folder / where), overwrite=True)
        assert verify(project, None).problems == []


def test_a_place_that_holds_something_else_is_no_empty_place(machine: Machine) -> None:
    (machine.folder / "project").mkdir()
    (machine.folder / "project" / "thesis.tex").write_bytes(b"precious")
    with pytest.raises(RefusedError, match="not empty"), machine.open():
        pass
    assert os.listdir(machine.folder / "project") == ["thesis.tex"]


@pytest.mark.parametrize("metadata", [{"k": float("inf")}, {"k": "\ud800"}, {"k": {1, 2}}])
def test_metadata_that_is_no_json_is_refused_before_anything_is_stored(machine: Machine, metadata: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="JSON"):
        machine.snapshot(Options(metadata=metadata), cat=b"cat")
    with machine.open() as project:
        assert project.refresh("pets").seq == -1
