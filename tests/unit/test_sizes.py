"""What versions cost, said of real snapshots in a store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from random import Random
from shutil import rmtree
from types import SimpleNamespace
from typing import cast

import pytest

from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.delete import delete_artifact, delete_versions
from artifactmount.pack import decode
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.sizes import sizes
from artifactmount.snapshot import Options, take
from artifactmount.store.memory import MemoryStore

MB = 1_000_000
CAT, DOG, RAT = (Random(seed).randbytes(size) for seed, size in enumerate((2 * MB, 1 * MB, 3 * MB)))
Take = Callable[[dict[str, bytes]], None]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    cache = Cache(str(tmp_path / "cache"))
    yield Project(MemoryStore(), cache, str(tmp_path / "state"), create=True)
    cache.close()


@pytest.fixture
def snapshot(project: Project, tmp_path: Path) -> Take:
    def make(files: dict[str, bytes]) -> None:
        staging = tmp_path / "staging"
        rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for name, content in files.items():
            (staging / name).write_bytes(content)
        take(project, str(staging), "animals", Options())

    return make


def costs(project: Project) -> dict[int, tuple[int, int, int]]:
    """By version, what it tracks, adds and would free; asked twice, and on a machine that knows nothing."""
    state = project.refresh("animals")
    found = sizes(project.catalog("animals"), project.cache, state)
    assert sizes(project.catalog("animals"), project.cache, state) == found, "the second time, from the cache"
    assert sum(size.stored for size in found) == content_of(project)
    return {size.version: (size.tracks, size.adds, size.frees) for size in found}


def content_of(project: Project) -> int:
    """The bytes that all chunks of content take in the store."""
    state, artifact = project.refresh("animals"), project.artifact("animals")
    metadata = {pack for version in state.versions.values() for pack in version.metadata.packs}
    packs = [project.store.get(artifact.pack_key(pack)) for pack in state.packs if pack not in metadata]
    return sum(row.stored for pack in packs for row in decode(pack))


def test_the_example(project: Project, snapshot: Take) -> None:
    snapshot({"cat.png": CAT, "dog.png": DOG})
    snapshot({"cat.png": CAT, "dog.png": DOG, "rat.png": RAT})
    assert costs(project) == {0: (3 * MB, 3 * MB, 0), 1: (6 * MB, 3 * MB, 3 * MB)}
    done = delete_versions(project, "animals", [0])
    assert (done.freed, done.passed) == (0, {1: 3 * MB})
    assert costs(project) == {1: (6 * MB, 6 * MB, 6 * MB)}
    done = delete_versions(project, "animals", [1])
    assert (done.freed, done.passed) == (6 * MB, {})
    assert costs(project) == {} and content_of(project) == 0


def test_the_example_the_other_way(project: Project, snapshot: Take) -> None:
    snapshot({"cat.png": CAT, "dog.png": DOG})
    snapshot({"cat.png": CAT, "dog.png": DOG, "rat.png": RAT})
    before = content_of(project)
    assert delete_versions(project, "animals", [1]).freed == before - content_of(project) == 3 * MB
    assert costs(project) == {0: (3 * MB, 3 * MB, 3 * MB)}


def test_duplicates_count_once_within_a_version(project: Project, snapshot: Take) -> None:
    snapshot({"a": DOG, "b": DOG, "c": DOG})
    assert costs(project) == {0: (3 * MB, MB, MB)}
    snapshot({"a": DOG, "x": b""})
    assert costs(project) == {0: (3 * MB, MB, 0), 1: (MB, 0, 0)}
    assert delete_versions(project, "animals", [0]).passed == {1: MB}
    assert costs(project) == {1: (MB, MB, MB)}


def test_a_rename_costs_nothing(project: Project, snapshot: Take) -> None:
    snapshot({"cat.png": CAT})
    snapshot({"tiger.png": CAT})
    assert costs(project) == {0: (2 * MB, 2 * MB, 0), 1: (2 * MB, 0, 0)}
    assert delete_versions(project, "animals", [1]).freed == 0
    assert costs(project) == {0: (2 * MB, 2 * MB, 2 * MB)}


def test_content_that_came_back(project: Project, snapshot: Take) -> None:
    """Charged to the oldest that has it; it passes to the next one that has it, wherever that is."""
    snapshot({"cat.png": CAT, "n": b"0"})
    snapshot({"n": b"1"})
    snapshot({"n": b"2"})
    snapshot({"cat.png": CAT, "n": b"3"})
    assert costs(project) == {0: (2 * MB + 1, 2 * MB + 1, 1), 1: (1, 1, 1), 2: (1, 1, 1), 3: (2 * MB + 1, 1, 1)}
    told = delete_versions(project, "animals", [0], dry_run=True)
    assert (told.versions, told.freed, told.passed) == ([0], 1, {3: 2 * MB})
    assert delete_versions(project, "animals", [0]) == told
    assert costs(project) == {1: (1, 1, 1), 2: (1, 1, 1), 3: (2 * MB + 1, 2 * MB + 1, 2 * MB + 1)}
    assert delete_versions(project, "animals", [2]).passed == {}, "what passed before does not pass again"
    assert delete_versions(project, "animals", [3]).freed == 2 * MB + 1
    assert costs(project) == {1: (1, 1, 1)}


def test_a_file_that_stays_is_not_freed_with_the_version_that_brought_it(project: Project, snapshot: Take) -> None:
    """The same content under two names, of which the next version changes one."""
    snapshot({"a": DOG, "b": DOG, "c": CAT})
    snapshot({"a": DOG, "b": b"b", "c": b"c"})
    assert costs(project) == {0: (4 * MB, 3 * MB, 2 * MB), 1: (MB + 2, 2, 2)}
    assert delete_versions(project, "animals", [0]).freed == 2 * MB
    assert costs(project) == {1: (MB + 2, MB + 2, MB + 2)}


def test_what_is_stored_is_what_was_packed(project: Project, snapshot: Take) -> None:
    """Less than the plain bytes where they could be compressed."""
    snapshot({"text": b"the same words again and again\n" * 20_000, "dog.png": DOG})
    (size,) = sizes(project.catalog("animals"), project.cache, project.refresh("animals"))
    assert size.adds == size.tracks == 31 * 20_000 + MB and MB < size.stored < 1.01 * MB
    assert astuple(size)[4] == content_of(project)


def test_the_whole_artifact_frees_all_that_du_counts(project: Project, snapshot: Take) -> None:
    snapshot({"cat.png": CAT, "dog.png": DOG})
    snapshot({"cat.png": CAT, "rat.png": RAT})
    assert sum(adds for _, adds, _ in costs(project).values()) == 6 * MB
    done = delete_artifact(project, "animals")
    assert (done.versions, done.freed, done.passed, done.rewritten) == ([0, 1], 6 * MB, {}, 0)
    assert costs(project) == {} and not project.store.list_keys("artifacts/animals/data/")


def test_what_is_freed_as_stored_is_what_leaves_the_packs(project: Project, snapshot: Take) -> None:
    """Content that can be compressed, of a pack that dies in part; then of all that is left."""
    text = b"the same words again and again\n" * 20_000
    snapshot({"text": text, "small": b"s", "dog.png": DOG})
    snapshot({"small": b"s", "dog.png": DOG, "again": text[:-1]})
    before = content_of(project)
    done = delete_versions(project, "animals", [0])
    assert (done.freed, done.rewritten) == (len(text), 1)
    assert done.freed_stored == before - content_of(project) < 1000
    left = content_of(project)
    assert delete_artifact(project, "animals", dry_run=True).freed_stored == left > MB
    assert delete_artifact(project, "animals").freed_stored == left


def test_the_same_state_read_another_way_is_known(project: Project) -> None:
    """One from the log has the moved packs in the order of their deletions, one from a checkpoint sorted: it was worked out twice."""
    artifact = project.artifact("animals")
    moves = [(PackId(0, 0), PackId(9, 0)), (PackId(4, 0), PackId(5, 0))]
    state = replace(artifact.empty(), moved=dict(moves))
    assert sizes(project.catalog("animals"), project.cache, state) == []
    nothing = cast(Catalog, SimpleNamespace(artifact=artifact))  # can read nothing
    assert sizes(nothing, project.cache, replace(state, moved=dict(reversed(moves)))) == []
