"""Many at once, counted: writers of one artifact that all want the same slot, and readers of a mount."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from artifactmount.acts import Act, Open
from artifactmount.artifact import Artifact, Writer, append, head
from artifactmount.cache.stats import StatCache
from artifactmount.errors import ArtifactError
from artifactmount.namespace import Namespace
from artifactmount.progress import Silent
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.snapshot import Options, Snapshot
from artifactmount.staging import Staging
from artifactmount.state import State
from artifactmount.steps import Join, Spawn, Steps, drive, perform
from artifactmount.tree import Directory, File, Tree, as_directory
from tests.scale import formulas
from tests.scale.counted import CountedStore, Machine, Requests
from tests.scale.test_requests import NAME, fill, snapshot


class _Turns:
    """Steps that are done one at a time, in turns with those of others."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps, self._answer, self._error = steps, None, None
        self._spawned: list[Any] = []
        self.over = False

    _answer: Any
    _error: BaseException | None

    def go_on(self, store: CountedStore) -> None:
        """Do one step; what is spawned is done at once."""
        try:
            step = self._steps.send(self._answer) if self._error is None else self._steps.throw(self._error)
        except StopIteration:
            self.over = True
            return
        self._answer = self._error = None
        try:
            if isinstance(step, Spawn):
                self._spawned.append(drive(store, step.steps))
            elif isinstance(step, Join):
                self._answer, self._spawned = self._spawned, []
            else:
                self._answer = perform(store, step)
        except ArtifactError as error:  # it is raised where the steps wait
            self._error = error


def in_turns(store: CountedStore, all_steps: list[Generator[Any, Any, Any]]) -> None:
    """Run them side by side, a step each in turn: who wants the same slot meets there, every time."""
    under_way = [_Turns(steps) for steps in all_steps]
    while under_way:
        for one in under_way:
            one.go_on(store)
        under_way = [one for one in under_way if not one.over]


@pytest.mark.parametrize("writers", [1, 2, 20, 66])
def test_entries_that_are_wanted_at_once(writers: int) -> None:
    """One writer wins each round; who loses has sent one entry, and read that slot and whether there is another behind it."""
    store, artifact = CountedStore(), Artifact("project", NAME)

    def begin(number: int) -> Steps[Any]:
        def make(_: State) -> Steps[Act | None]:
            yield from ()
            return Open(b"%16d" % number)

        return append(artifact, artifact.empty(), make, Writer("a", "t"))

    in_turns(store, [begin(number) for number in range(writers)])
    asked = store.take().without_bytes()
    assert len(drive(store, head(artifact)).open) == writers
    assert asked == formulas.contended(writers)


@pytest.mark.parametrize("writers", [2, 8])
def test_snapshots_that_are_taken_at_once(tmp_path: Path, writers: int) -> None:
    """Nobody loses a slot twice to one entry of another, so it ends; and every one of them becomes a version."""
    store = CountedStore()
    machines = [Machine(tmp_path / f"machine {number}", store) for number in range(writers)]
    for number, machine in enumerate(machines):
        fill(tmp_path / f"staging {number}", 10, 100)
        snapshot(machine, tmp_path / f"staging {number}")
    with ExitStack() as stack:
        under_way = []
        for number, machine in enumerate(machines):
            folder = tmp_path / f"staging {number}"
            (folder / "mine").write_bytes(b"%d" % number)
            project = stack.enter_context(machine.command())
            staging, stats = stack.enter_context(Staging(str(folder))), stack.enter_context(StatCache(project.cache.path))
            work = Snapshot(project.artifact(NAME), project.catalog(NAME), staging, stats, Options(), project.writer, Silent())
            stack.callback(work.close)
            under_way.append(work.steps(project.refresh(NAME)))
        store.take()
        in_turns(store, under_way)
        asked, most = store.take(), formulas.snapshots_at_once(writers)
        assert len(project.refresh(NAME).versions) == 1 + writers
    assert most.put // 2 < asked.put <= most.put and asked.get <= most.get and asked.delete <= most.delete and asked.list == most.list


# -- readers ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["as they lie", "shuffled"])
def test_files_that_are_read_through_a_mount(tmp_path: Path, order: str) -> None:
    """One chunk of a pack by itself, and at the second all of it; then a look for news is one request, and none within a second."""
    files, size = 600, 30_000
    store = CountedStore()
    fill(tmp_path / "staging", files, size)
    snapshot(Machine(tmp_path / "writer", store), tmp_path / "staging")
    numbers = list(range(files))
    if order == "shuffled":
        random.Random(1).shuffle(numbers)

    async def read(project: Project) -> None:
        async with trio.open_nursery() as nursery:
            hopper, tree = Hopper(nursery), Tree(1)
            namespace, reader = Namespace(project, tree, hopper), Reader(project, hopper)
            assert await namespace.in_root(NAME) is not None
            root = await namespace.in_artifact(NAME, "v0")
            assert root is not None
            top = as_directory(tree.place(root.inode))
            assert isinstance(top, Directory)
            await namespace.load(top.slot)
            assert store.take().without_bytes() == formulas.open_version(2, 1)
            for number in numbers:
                folder = tree.find(top, b"%05d" % (number // 100))
                assert folder is not None
                place = as_directory(tree.place(folder.inode))
                assert isinstance(place, Directory)
                found = tree.find(place, b"%07d" % number)
                assert found is not None
                file = tree.place(found.inode)
                assert isinstance(file, File)
                assert len(await reader.read(file, 0, size)) == size
            await trio.testing.wait_all_tasks_blocked()
            packs = formulas.content_packs(files, size)
            assert store.take().without_bytes() == Requests(get=formulas.read_through_mount([files // packs] * packs))
            nursery.cancel_scope.cancel()
        assert len(project.refresh(NAME).versions) == 1
        assert store.take().without_bytes() == formulas.POLL
        (tmp_path / "staging/more").write_bytes(b"more")
        snapshot(Machine(tmp_path / "writer", store), tmp_path / "staging")
        project.catalog(NAME).newest(project.refresh(NAME))
        assert store.take().without_bytes() == Requests(get=formulas.look(2) + 1)

    with Machine(tmp_path / "reader", store).command() as project:
        trio.run(read, project)
