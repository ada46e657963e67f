"""What the mount's reader remembers of reads that failed, and who waits for what."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from artifactmount.cache import Cache
from artifactmount.errors import ArtifactError, CorruptError, GoneError, SourceChangedError, UnreachableError
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.store.memory import MemoryStore


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
