"""Random schedules, each from its seed: 2 to 6 clients on their own machines work at the same time, and whatever may go wrong does.

The seed decides everything: the same one gives the same schedule again. After every step `watch.py` checks what must hold at any time, and
compares what was committed with a model of it (`reference.py`); readers check what they read, and that the history goes on from what
their machine has pinned (`reading.py`); the rest is checked when all is over (`repository.py`). Clocks jump, the store's and the writers',
so all of it is checked under arbitrary clocks (I12). The table of which invariant is checked where is in `watch.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest

from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.project import Project
from artifactmount.rows import Kind
from artifactmount.snapshot import Options
from tests import encryption
from tests.model.reading import read
from tests.model.repository import NAME, PROJECT, Client, Leaf, Repository, Tree, expected, without_conflicts
from tests.model.simulator import Fault, Process
from tests.model.test_repository import knobs, repository
from tests.model.watch import Watch

_PATHS = ("a", "b", "c", "d/a", "d/e/b", "f")
_LETTERS = "abcdefgh"
#: Three chunks, two of them shared with the other one.
_LARGE = tuple(Random(7).randbytes(900_000) + Random(seed).randbytes(400_000) for seed in (8, 9))


class Seeded:
    """Chance from a seed."""

    def __init__(self, numbers: Random) -> None:
        self._numbers = numbers

    def below(self, n: int) -> int:
        """See Chance."""
        return self._numbers.randrange(n)


#: The project of all schedules.
DOCUMENTS = encryption.documents(PROJECT)


class Inline(Executor):
    """Does what it is given at once: in the same order each time, and there are no threads to wait for."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - the future has it
            future.set_exception(error)
        return future


@contextmanager
def inline() -> Iterator[None]:
    """No threads."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("content", "catalog"):
            patch.setattr(f"artifactmount.{module}.ThreadPoolExecutor", Inline)
        yield


@dataclass(slots=True)
class Played:
    """What came of a schedule: log entries, versions ever made, steps, looks at everything, versions read, faults by kind."""

    entries: int = 0
    versions: int = 0
    steps: int = 0
    looks: int = 0
    reads: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)

    def add(self, other: Played) -> None:
        """Become the sum of both."""
        self.entries, self.versions, self.steps = self.entries + other.entries, self.versions + other.versions, self.steps + other.steps
        self.looks, self.reads = self.looks + other.looks, self.reads + other.reads
        self.faults += other.faults


def play(seed: int) -> Played:
    """Play one schedule and check it. Raises AssertionError, whose notes have the faults that happened, in order."""
    numbers = Random(seed)
    with ExitStack() as stack:
        stack.enter_context(knobs(small_packs=numbers.random() < 0.3, look_always=numbers.random() < 0.3))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if numbers.random() < 0.5:  # many checkpoints; 64 entries are rare in a schedule
            patch.setattr("artifactmount.log.CHECKPOINT_EVERY", 4)
            patch.setattr("artifactmount.artifact.CHECKPOINT_EVERY", 4)
        if numbers.random() < 0.3:  # logs and listings are long
            patch.setattr("artifactmount.artifact._AHEAD", 2)
            patch.setattr("artifactmount.garbage._PAGE", 2)
        stack.enter_context(inline())
        if numbers.random() < 0.3:  # each pack that dies in part is written anew by itself
            patch.setattr("artifactmount.delete.PACK_LIMIT", 1)
            patch.setattr("artifactmount.delete._AT_ONCE", 1)
        repo = stack.enter_context(repository(Seeded(numbers)))
        try:
            return _play(repo, numbers)
        except BaseException as error:
            error.add_note(f"seed {seed}: " + "; ".join(repo.world.happened))
            raise


def _play(repo: Repository, numbers: Random) -> Played:
    for key, document in DOCUMENTS.items():
        repo.store.create(key, document)
    clients = [repo.client()]
    with Watch(repo) as watch:
        repo.world.after_step, repo.world.changed = watch.look, watch.look
        repo.clock = lambda: f"{1970 + numbers.randrange(130)}-01-01T00:00:00.000000Z"
        crew = _Crew(repo, numbers, watch)
        trees: list[Tree] = []
        for _ in range(numbers.randrange(6)):
            crew.start(clients[0], _snapshot(numbers, trees))
            repo.world.run()
        faults = repo.world.faults = numbers.choice((0, 0, 1, 2, 4, 8))
        repo.faithful, repo.world.local_faults = not faults, True
        one_machine, resumes = numbers.random() < 0.2, numbers.random() < 0.5
        for _ in range(numbers.randint(2, 6)):
            client = repo.client(cache="all" if one_machine else None)
            client.journal = str(repo.folder / ("journal" if one_machine else f"journal-{client.name}")) if resumes else None
            crew.work(client, [_job(numbers, trees) for _ in range(numbers.randint(1, 3))])
        repo.world.run()
        repo.world.faults = 0
        for asked in repo.asked.values():
            assert expected(asked, closed=True, faulty=faults > 0), repr(asked.error)
        for part in repo.contributed.values():
            assert part.error is None or isinstance(part.error, RefusedError) or (faults and isinstance(part.error, StoreError))
        for removal in repo.removals:
            allowed = (NotFoundError, RefusedError, StoreError) if faults else (NotFoundError, RefusedError)
            assert removal.error is None or isinstance(removal.error, allowed), repr(removal.error)
        watch.at_the_end()
        state = repo.history.read()
        if not faults:
            assert not state.trash
        repo.check_quiet()  # and with it all the rest
        watch.look()
        return Played(state.seq + 1, state.next, repo.world.steps, watch.looks, crew.reads, repo.world.counts)


_Job = tuple[Tree, Options] | str


def _job(numbers: Random, trees: list[Tree]) -> _Job:
    kind = numbers.random()
    if kind < 0.38:
        return _snapshot(numbers, trees)
    if kind < 0.55:
        return f"{'finish' if numbers.random() < 0.3 else 'part'} {numbers.choice(('one', 'one', 'one', 'two'))}"
    if kind < 0.83:
        return "delete"
    return numbers.choice(("close", "gc", "gc", "everything", "drop", "read", "read", "read"))


def _snapshot(numbers: Random, trees: list[Tree]) -> tuple[Tree, Options]:
    """Mostly a tree that differs in little from one there was: so packs are shared, and die in part when versions go."""
    tree: Tree = dict(numbers.choice(trees[-2:])) if trees and numbers.random() < 0.85 else {}
    for path in numbers.sample(_PATHS, numbers.randint(0, 2) if tree else numbers.randint(0, 6)):
        if path in tree and numbers.random() < 0.6:
            del tree[path]
        else:
            tree[path] = Leaf(Kind.FILE, b"content of %s" % numbers.choice(_LETTERS).encode(), numbers.random() < 0.1)
    if numbers.random() < 0.08:
        tree["large"] = Leaf(Kind.FILE, numbers.choice(_LARGE))
    if numbers.random() < 0.1:
        tree["link"] = Leaf(Kind.SYMLINK, numbers.choice((b"a", b"b")))
    trees.append(without_conflicts(tree))
    note = numbers.choice((None, None, "first", "second"))
    return trees[-1], Options(aliases=numbers.choice(((), (), ("best",))), note=note)


def _part(numbers: Random) -> Tree:
    """Mostly a tree that fits others: what is at a path follows from the path."""
    tree: Tree = {}
    for path in numbers.sample(_PATHS, numbers.randint(0, 3)):
        letter = path[-1] if numbers.random() < 0.95 else "z"
        tree[path] = Leaf(Kind.FILE, b"content of %s" % letter.encode())
    if numbers.random() < 0.1:
        tree["large"] = Leaf(Kind.FILE, _LARGE[0])
    return without_conflicts(tree)


class _Crew:
    """Who does the jobs."""

    def __init__(self, repo: Repository, numbers: Random, watch: Watch) -> None:
        self._repo, self._numbers, self._watch = repo, numbers, watch
        self.reads = 0

    def work(self, client: Client, jobs: list[_Job], process: Process | None = None) -> None:
        """Let a client do its jobs, one process after the other. One that crashed is run again, or not."""
        if process is not None:
            self._watch.ended(client, process)
            if not (process.crashed and self._numbers.random() < 0.7):
                jobs = jobs[1:]
        if jobs:
            self.start(client, jobs[0], partial(self.work, client, jobs))

    def start(self, client: Client, job: _Job, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Begin one job."""
        repo = self._repo
        match job:
            case "delete":
                count = self._watch.reference.next  # of numbers that there are or were; now and then one that never was
                chosen = self._numbers.sample(range(count + (self._numbers.random() < 0.1 or not count)), 1)
                chosen += [n for n in range(count) if self._numbers.random() < 0.2]
                return client.delete(chosen, then, delete_aliases=self._numbers.random() < 0.7)
            case "close":
                return client.close_sessions(then)
            case "gc":
                return client.collect(0.0 if repo.world.faults % 2 else 3600.0, then)
            case "everything":
                return client.delete_everything(then)
            case "read":
                return self._read(client, then)
            case "drop":
                return client.drop("one", then)
            case "part one" | "part two":
                return client.part(_part(self._numbers), job[5:], then)
            case "finish one" | "finish two":
                return client.finish(job[7:], then=then)
            case (tree, options):
                return client.snapshot(tree, options, then)
        raise ValueError(job)

    def _read(self, client: Client, then: Callable[[Process], None]) -> Process:
        repo = self._repo
        project = Project(repo.store, client.cache, str(repo.folder / f"state-{client.name}"), keyring=encryption.keyring(repo.folder))

        def ended(process: Process) -> None:
            assert process.error is None or (type(process.error) is StoreError and repo.world.counts), repr(process.error)
            self.reads += process.error is None and not process.crashed
            if process.crashed:
                client.restart()
            then(process)

        return repo.world.start(repo.writer(client.name).actor, read(repo, project, NAME, self._numbers.randrange), ended)
