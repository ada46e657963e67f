"""Schedules from seeds, and all of a small bound: a slice of what scripts/check_schedules.py plays for hours."""

from __future__ import annotations

from functools import partial

import pytest

from artifactmount.project import Project
from tests import encryption
from tests.model.exhaustive import SCENES, search
from tests.model.reading import read
from tests.model.repository import NAME
from tests.model.schedules import DOCUMENTS, Played, play
from tests.model.simulator import Fault
from tests.model.test_delete import put
from tests.model.test_rules import finish, quiet
from tests.model.test_walks import when
from tests.model.watch import Watch


@pytest.mark.parametrize("hundred", range(5))
def test_random_schedules(hundred: int) -> None:
    """500, beside the 500 and more that hypothesis draws in the files beside this one."""
    total = Played()
    for seed in range(100 * hundred, 100 * hundred + 100):
        total.add(play(seed))
    assert total.entries > 500 and total.versions > 200
    assert set(total.faults) >= {Fault.LOST, Fault.DROPPED, Fault.CRASH_AFTER}


def test_the_same_seed_is_the_same_schedule() -> None:
    assert play(11) == play(11)


@pytest.mark.parametrize("scene", SCENES)
def test_every_schedule_without_preemptions(scene: str) -> None:
    """Whoever begins goes on to its end: 2 clients in 2 orders, 3 in 6, 4 in 24."""
    found = search(scene, 0, 0)
    assert found.complete and found.played + found.cut == {2: 2, 3: 6, 4: 24}[len(SCENES[scene][1])]


def test_every_schedule_with_one_preemption() -> None:
    found = search("two snapshots and a delete", 1, 0)
    assert found.complete and found.played > 40


def test_every_fault_of_two_snapshots() -> None:
    found = search("two snapshots", 0, 1)
    assert found.complete and found.played > 80


# -- those who look on -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gone", [{0, 1, 2}, {3}], ids=["those below it", "itself"])
def test_a_deletion_at_every_step_of_a_reader(gone: set[int]) -> None:
    """What it reads is moved, twice, or goes: it reads right, or is told that the version is gone (I9)."""
    done = False
    for n in range(1, 100):
        with quiet() as repo:
            author, other = repo.client(), repo.client()
            for key, document in DOCUMENTS.items():
                repo.store.create(key, document)
            put(repo, author, "abcd", "bcd", "cd", "cde")
            project = Project(repo.store, other.cache, str(repo.folder / "state"), keyring=encryption.keyring(repo.folder))
            process = repo.world.start("reader", read(repo, project, NAME, lambda count: count - 1))
            when(repo, process, n.__eq__, partial(finish, repo, author, frozenset(gone)))
            repo.world.run()
            assert process.error is None
            done = process.steps < n
        if done:
            break
    assert done


def test_the_watch_sees_what_is_lost_and_what_was_not_asked_for() -> None:
    with quiet() as repo, Watch(repo) as watch:
        put(repo, repo.client(), "ab", "bc")
        watch.look()
        watch.at_the_end()
        watch.reference.aliases["best"] = 0
        put(repo, repo.clients[0], "c")
        with pytest.raises(AssertionError, match="aliases"):
            watch.look()
    with quiet() as repo, Watch(repo) as watch:
        put(repo, repo.client(), "ab", "bc")
        watch.look()
        repo.store.delete([repo.artifact.pack_key(next(iter(repo.history.read().packs)))])
        with pytest.raises(AssertionError, match="lost"):
            watch.look()
