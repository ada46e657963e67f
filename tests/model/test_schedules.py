"""Schedules from seeds, and all of a small bound: a slice of what scripts/check_schedules.py plays for hours."""

from __future__ import annotations

import pytest

from tests.model.exhaustive import SCENES, search
from tests.model.schedules import Played, play
from tests.model.simulator import Fault


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
