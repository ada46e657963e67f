"""What the mount's reader remembers of reads that failed, and who waits for what."""

from __future__ import annotations

import threading
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from artifactmount.cache import Cache
from artifactmount.errors import ArtifactError, CorruptError, GoneError, SourceChangedError, UnreachableError
from artifactmount.namespace import Namespace
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.store.folder import FolderStore
from artifactmount.store.memory import MemoryStore
from artifactmount.tree import Directory, File, Tree
from tests.unit.test_forgetting import log, machine


@pytest.mark.parametrize(
    ("error", "remembered"),
    [
        (UnreachableError("no connection"), True),
        (SourceChangedError("it is another"), True),
        (GoneError("v0 was deleted"), False),
        (CorruptError("a wrong digest"), False),
    ],
)
def test_only_failures_that_hold_for_every_version_are_remembered(tmp_path: Path, error: ArtifactError, remembered: bool) -> None:
    """Two versions have the same chunk; that one of them is gone must not make the other's file one that is gone, too."""

    cache = Cache(str(tmp_path / "cache"))

    async def fail() -> bool:
        async with trio.open_nursery() as nursery:
            reader = Reader(Project(MemoryStore(), cache, str(tmp_path / "state"), create=True), Hopper(nursery))
            reader._remember_failure(b"digest", -60, error)
            return b"digest" in reader._failed

    assert trio.run(fail) is remembered
    cache.close()


def test_who_waits_for_one_of_several_gets_it_and_the_rest_is_taken_over_once() -> None:
    """What is read ahead in one go is under way for each of its pieces."""
    begun, go, taken = trio.Event(), threading.Event(), list[dict[str, int]]()

    def work() -> dict[str, int]:
        trio.from_thread.run_sync(begun.set)
        go.wait()
        return {"a": 1, "b": 2}

    def never() -> dict[str, int]:
        raise AssertionError("it is under way already")

    async def wait(hopper: Hopper, key: str, got: list[int]) -> None:
        got.append((await hopper.hop(key, never))[key])

    async def act() -> list[int]:
        got: list[int] = []
        async with trio.open_nursery() as nursery:
            hopper = Hopper(nursery)
            hopper.begin_ahead(["a", "b"], work, taken.append)
            await begun.wait()
            for key in ("a", "b", "b"):
                nursery.start_soon(wait, hopper, key, got)
            await trio.testing.wait_all_tasks_blocked()
            go.set()
        assert not hopper.is_under_way("a") and not hopper.is_under_way("b")
        return got

    assert sorted(trio.run(act)) == [1, 2, 2]
    assert taken == [{"a": 1, "b": 2}]


def test_a_file_with_the_same_bytes_again_and_again_is_read_ahead(tmp_path: Path) -> None:
    """Its chunks have one name, also those that are asked for ahead in one go."""
    zeros = bytes(16 << 20)
    content = Random(1).randbytes(5 << 20) + zeros + Random(2).randbytes(1 << 20) + zeros

    async def read(project: Project) -> bytes:
        async with trio.open_nursery() as nursery:
            hopper, tree = Hopper(nursery), Tree(1)
            namespace, reader = Namespace(project, tree, hopper), Reader(project, hopper)
            found = await namespace.in_artifact("animals", "v0")
            assert found is not None
            directory = tree.place(found.inode)
            assert isinstance(directory, Directory)
            await namespace.load(directory.slot)
            entry = tree.find(directory, b"file")
            assert entry is not None
            file = tree.place(entry.inode)
            assert isinstance(file, File)
            parts = [bytes(await reader.read(file, at, 1 << 20)) for at in range(0, len(content), 1 << 20)]
            return b"".join(parts)

    with machine(FolderStore(str(tmp_path / "store")), tmp_path / "home") as project:
        log(project, tmp_path / "staging", {"file": content}, "")
        assert trio.run(read, project) == content
