"""Random schedules, each from its seed: 2 to 6 clients on their own machines work at the same time, and whatever may go wrong does.

The seed decides everything: the same one gives the same schedule again. What must hold is checked afterwards, over the whole log: every
state there ever was (I2, I3, I4, I7, I10, I11), and the store as it is (I1, I5, I6). What a deletion promises is checked when it returns
(I8), and that only garbage is deleted, at each request to delete (R3). Clocks jump, so all of it is I12, too. Readers (I9) are the mount's
tests' business.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random

import pytest

from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.rows import Kind
from artifactmount.snapshot import Options
from tests.model.repository import Client, Leaf, Repository, Tree, expected, without_conflicts
from tests.model.simulator import Fault, Process
from tests.model.test_repository import knobs, repository

_PATHS = ("a", "b", "c", "d/a", "d/e/b", "f")
_LETTERS = "abcdefg"
#: Three chunks, two of them shared with the other one.
_LARGE = tuple(Random(7).randbytes(900_000) + Random(seed).randbytes(400_000) for seed in (8, 9))


class Seeded:
    """Chance from a seed."""

    def __init__(self, numbers: Random) -> None:
        self._numbers = numbers

    def below(self, n: int) -> int:
        """See Chance."""
        return self._numbers.randrange(n)


@dataclass(slots=True)
class Played:
    """What came of a schedule: log entries, versions ever made, requests, faults by kind."""

    entries: int = 0
    versions: int = 0
    steps: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)

    def add(self, other: Played) -> None:
        """Become the sum of both."""
        self.entries, self.versions, self.steps = self.entries + other.entries, self.versions + other.versions, self.steps + other.steps
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
    first = repo.client()
    for _ in range(numbers.randrange(4)):
        _start(repo, first, _snapshot(numbers))
        repo.world.run()
    faults = repo.world.faults = numbers.choice((0, 0, 1, 2, 4, 8))
    repo.faithful = not faults
    one_machine, resumes = numbers.random() < 0.2, numbers.random() < 0.5
    for _ in range(numbers.randint(2, 6)):
        client = repo.client(cache="all" if one_machine else None)
        client.resumes = resumes
        _work(repo, client, [_job(numbers) for _ in range(numbers.randint(1, 3))], numbers, None)
    repo.world.run()
    for asked in repo.asked.values():
        assert expected(asked, closed=True, faulty=faults > 0), repr(asked.error)
    for removal in repo.removals:
        allowed = (NotFoundError, RefusedError, StoreError) if faults else (NotFoundError, RefusedError)
        assert removal.error is None or isinstance(removal.error, allowed), repr(removal.error)
    state = repo.check()
    if not faults:
        assert not state.trash
    repo.check_quiet()
    return Played(state.seq + 1, state.next, repo.world.steps, repo.world.counts)


_Job = tuple[Tree, Options] | frozenset[int] | str


def _job(numbers: Random) -> _Job:
    kind = numbers.random()
    if kind < 0.55:
        return _snapshot(numbers)
    if kind < 0.85:
        return frozenset(numbers.sample(range(6), numbers.randint(1, 3)))
    return numbers.choice(("close", "gc", "gc", "everything"))


def _snapshot(numbers: Random) -> tuple[Tree, Options]:
    tree: Tree = {}
    for path in numbers.sample(_PATHS, numbers.randint(0, 4)):
        tree[path] = Leaf(Kind.FILE, b"content of %s" % numbers.choice(_LETTERS).encode(), numbers.random() < 0.1)
    if numbers.random() < 0.08:
        tree["large"] = Leaf(Kind.FILE, numbers.choice(_LARGE))
    if numbers.random() < 0.1:
        tree["link"] = Leaf(Kind.SYMLINK, numbers.choice((b"a", b"b")))
    note = numbers.choice((None, None, "first", "second"))
    return without_conflicts(tree), Options(aliases=numbers.choice(((), (), ("best",))), note=note)


def _work(repo: Repository, client: Client, jobs: list[_Job], numbers: Random, process: Process | None) -> None:
    """Let a client do its jobs, one process after the other. One that crashed is run again, or not."""
    if process is not None and not (process.crashed and numbers.random() < 0.7):
        jobs = jobs[1:]
    if jobs:
        _start(repo, client, jobs[0], partial(_work, repo, client, jobs, numbers))


def _start(repo: Repository, client: Client, job: _Job, then: partial[None] | None = None) -> Process:
    after = then or (lambda _: None)
    match job:
        case frozenset():
            return client.delete(job, after, delete_aliases=repo.world.faults % 2 == 0)
        case "close":
            return client.close_sessions(after)
        case "gc":
            return client.collect(0.0 if repo.world.faults % 2 else 3600.0, after)
        case "everything":
            return client.delete_everything(after)
        case (tree, options):
            return client.snapshot(tree, options, after)
    raise ValueError(job)
