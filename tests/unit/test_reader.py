"""What the mount's reader remembers of reads that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

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
