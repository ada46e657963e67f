"""What leaves the cache when a machine learns that a version was deleted: its content, its names, its note."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from artifactmount.acts import Act, Commit, DeleteArtifact
from artifactmount.artifact import append
from artifactmount.cache import Cache
from artifactmount.delete import delete_artifact, delete_versions
from artifactmount.fetch import Fetcher
from artifactmount.garbage import collect
from artifactmount.history import events
from artifactmount.log import decode_checkpoint
from artifactmount.names import parse, resolve
from artifactmount.project import Project
from artifactmount.ranges import PackRanges
from artifactmount.snapshot import Options, take
from artifactmount.steps import Steps, drive
from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.store.memory import MemoryStore

SECRET, SHARED, OTHER = (Random(seed).randbytes(5000) for seed in range(3))


@contextmanager
def machine(store: Store, home: Path) -> Iterator[Project]:
    """One more machine that uses the project."""
    cache = Cache(str(home / "cache"), 32 << 20)
    try:
        yield Project(store, cache, str(home / "state"), create=True)
    finally:
        cache.close()


def log(project: Project, folder: Path, files: dict[str, bytes], note: str) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    take(project, str(folder), "animals", Options(note=note))


def read_all(project: Project, version: str) -> None:
    """Read a version's note and files, as a mount or `ls` and `download` do: into the cache."""
    state, catalog = project.refresh("animals"), project.catalog("animals")
    found = resolve(state, parse(f"animals:{version}"))
    catalog.card(found)
    for run in catalog.runs(state, catalog.table(state, found.n)):
        for chunk in run.all_chunks():
            Fetcher(project, "animals").chunk(chunk, state, run.digest)


def held(project: Project) -> bytes:
    """All that the cache has: segments, files, and what its index holds. (What it knows of a staging folder is that folder's.)"""
    parts = [
        path.read_bytes() for path in Path(project.cache.path).rglob("*") if path.is_file() and path.parent.name not in ("index", "stat")
    ]
    tables = ("chunks", "members", "states", "places", "runs")
    return b"".join([*parts, *(key + value for table in tables for key, value in project.cache.index.items(table, b""))])


@pytest.mark.parametrize("everything", [False, True], ids=["a version", "the artifact"])
def test_what_was_deleted_leaves_the_caches_that_learn_of_it(tmp_path: Path, everything: bool) -> None:
    store = MemoryStore()
    with machine(store, tmp_path / "writer") as writer, machine(store, tmp_path / "reader") as reader:
        log(writer, tmp_path / "staging", {"secret name": SECRET, "shared": SHARED}, "a secret note")
        log(writer, tmp_path / "staging", {"shared": SHARED, "other": OTHER}, "another")
        for version in ("v0", "v1"):
            read_all(reader, version)
        assert all(part in held(reader) for part in (SECRET, SHARED, OTHER, b"secret name", b"a secret note"))
        if everything:
            delete_artifact(writer, "animals")
        else:
            delete_versions(writer, "animals", [0])
        for project in (writer, reader):
            project.refresh("animals")
            assert not any(part in held(project) for part in (SECRET, b"secret name", b"a secret note"))
            assert everything or b"other" in held(project)
        assert (SHARED in held(reader), OTHER in held(reader)) == (not everything, not everything)


def test_nothing_is_forgotten_of_what_lives_on(tmp_path: Path) -> None:
    """Chunks that the version above took over, and those of other versions, are read without the store afterwards."""
    store = MemoryStore()
    with machine(store, tmp_path / "writer") as writer, machine(store, tmp_path / "reader") as reader:
        for number in range(4):
            files = {f"{n}": Random(n).randbytes(3000) for n in range(number, number + 3)}
            log(writer, tmp_path / "staging", files, "")
            read_all(reader, f"v{number}")
        delete_versions(writer, "animals", [1, 2])
        state = reader.refresh("animals")
        live = {chunk.digest for n in (0, 3) for chunk in reader.catalog("animals").run(state.versions[n]).all_chunks()}
        assert len(live) == 6 and all(reader.cache.get_chunk(digest) is not None for digest in live)


def test_a_folder_project_forgets_names(tmp_path: Path) -> None:
    """Its content is read in place and is in no cache; runs and manifests are."""
    with machine(FolderStore(str(tmp_path / "store")), tmp_path / "home") as project:
        log(project, tmp_path / "staging", {"secret name": SECRET}, "")
        log(project, tmp_path / "staging", {"other": OTHER}, "")
        read_all(project, "v0")
        read_all(project, "v1")
        assert b"secret name" in held(project) and SECRET not in held(project)
        delete_versions(project, "animals", [0])
        assert b"secret name" not in held(project) and b"other" in held(project)


def test_a_flipped_bit_in_the_index_erases_nothing_else(tmp_path: Path) -> None:
    """What the index says of a chunk may be wrong: no file grows, and no other file is written."""
    cache = Cache(str(tmp_path / "cache"), 32 << 20)
    cache.put_chunks([(b"a" * 32, b"content")])
    (segment,) = (tmp_path / "cache" / "segments").iterdir()
    where = cache.index.get("chunks", b"a" * 32)
    assert where is not None
    for wrong in (where[:8] + b"\x3f" * 8 + where[16:], b"\0" * 8 + where[8:], where[:16] + b"\xff" * 4, b"short"):
        cache.index.put_many("chunks", [(b"a" * 32, wrong)])
        cache.forget_chunks([b"a" * 32])
        assert segment.read_bytes() == b"content" and cache.index.get("chunks", b"a" * 32) is None
    cache.close()


def test_of_a_deleted_artifact_nothing_but_its_log_is_left(tmp_path: Path) -> None:
    """Not its checkpoints either, which hold aliases and digests of all versions; and it goes on, for who knows nothing, with v40."""
    store = Counting()
    with machine(store, tmp_path / "home") as project:
        for number in range(40):
            log(project, tmp_path / "staging", {"name": b"%d" % number}, "")
        delete_artifact(project, "animals")
        only_the_log_is_left(store)
        before = project.refresh("animals").seq
        delete_artifact(project, "animals")  # again: there is nothing to do, and nothing is said
        assert project.refresh("animals").seq == before
    with machine(store, tmp_path / "another") as project:
        store.gets = 0
        assert list(events(store, project.artifact("animals"), project.refresh("animals")))
        assert store.gets < 2 * before  # each entry once for its block, and what finds the head
        log(project, tmp_path / "staging", {"name": b"new"}, "")
        assert list(project.refresh("animals").versions) == [40]


def test_gc_takes_the_checkpoints_that_a_killed_deletion_left(tmp_path: Path) -> None:
    store = MemoryStore()
    with machine(store, tmp_path / "home") as project:
        for number in range(40):
            log(project, tmp_path / "staging", {"name": b"%d" % number}, "")
        state = project.refresh("animals")
        everything = Commit(None, PackRanges(), (DeleteArtifact(),))
        drive(store, append(project.artifact("animals"), state, lambda _: _say(everything), project.writer))
        collect(project, "animals", 0)
        only_the_log_is_left(store)


def _say(act: Act) -> Steps[Act | None]:
    yield from ()
    return act


def only_the_log_is_left(store: Store) -> None:
    """And one checkpoint, of what is left."""
    others = [item.key for item in store.list_keys("artifacts/animals/") if not item.key.startswith("artifacts/animals/log/")]
    assert [key.split("/")[2] for key in others] == ["state"]
    state = decode_checkpoint(store.get(others[0]))
    assert not state.versions and not state.aliases and not state.packs


class Counting(MemoryStore):
    """Counts what is read of it."""

    gets = 0

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        self.gets += 1
        return super().get(key, start, stop)
