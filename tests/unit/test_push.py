"""Which files are given to the kernel while they are opened; without a kernel, which would wait for us where that is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
from pyfuse3 import InodeT

from artifactmount.fuse import Operations
from tests.fuse.test_tree import Eyes, World, seeing

_CAT, _LARGE = b"cat" * 1000, os.urandom(100_000)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Two versions of a file that does not change, and others."""
    made = World(tmp_path)
    files = {"cat": _CAT, "large": _LARGE, "empty": b""}
    for added in ({}, {"dog": b"dog"}):
        made.snapshot("animals", files | added)
    yield made
    for cache in made.caches:
        cache.close()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bytes]]:
    """What the kernel was given: inode, offset, content."""
    said: list[tuple[int, int, bytes]] = []
    monkeypatch.setattr(pyfuse3, "notify_store", lambda *what: said.append(what))
    return said


class Opening:
    """Opens files as the kernel does."""

    def __init__(self, world: World, eyes: Eyes) -> None:
        self.eyes, self.operations = eyes, Operations(eyes.tree, eyes.namespace, eyes.reader, eyes.hopper, world.reader.cache)

    async def open(self, version: str, name: str) -> int:
        """Its inode."""
        inode = (await self.eyes.look("animals", version, name)).inode
        context: Any = None
        assert (await self.operations.open(InodeT(inode), os.O_RDONLY, context)).keep_cache
        return inode

    async def fetch(self, *names: str) -> None:
        """Have the content of these at hand."""
        for name in names:
            await self.eyes.reader.read(await self.eyes.file("animals", "v0", name), 0, 1 << 20)


def test_a_small_file_at_hand_is_given_once_for_all_versions(world: World, given: list[tuple[int, int, bytes]]) -> None:
    async def act(eyes: Eyes) -> None:
        opening = Opening(world, eyes)
        await opening.fetch("cat")
        inode = await opening.open("v1", "cat")
        assert given == [(inode, 0, _CAT)]
        assert await opening.open("v0", "cat") == await opening.open("v1", "cat") == inode
        assert len(given) == 1

    seeing(world, act)


def test_who_opened_a_file_before_may_be_reading_it(world: World, given: list[tuple[int, int, bytes]]) -> None:
    """He holds its page until his answer comes: so nothing is given any more, also when the content has come meanwhile."""

    async def act(eyes: Eyes) -> None:
        opening = Opening(world, eyes)
        await opening.open("v0", "cat")
        await opening.fetch("cat")
        await opening.open("v0", "cat")
        assert given == []

    seeing(world, act)


def test_what_is_empty_or_large_is_asked_for(world: World, given: list[tuple[int, int, bytes]]) -> None:
    async def act(eyes: Eyes) -> None:
        opening = Opening(world, eyes)
        await opening.fetch("large", "empty")
        for name in ("large", "empty"):
            await opening.open("v0", name)
        assert given == []

    seeing(world, act)


def test_a_file_is_opened_also_where_the_kernel_takes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(pyfuse3, "notify_store", refuse)

    async def act(eyes: Eyes) -> None:
        opening = Opening(world, eyes)
        await opening.fetch("cat")
        await opening.open("v0", "cat")

    seeing(world, act)
