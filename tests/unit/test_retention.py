"""Which versions a rule lets go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from artifactmount.acts import Counts, Metadata
from artifactmount.ranges import PackRanges
from artifactmount.retention import Rule, expired
from artifactmount.state import State, Version, genesis

_NOW = datetime(2026, 11, 24, tzinfo=UTC)


def state(days_old: dict[int, int], aliases: dict[str, int]) -> State:
    def version(n: int, days: int) -> Version:
        time = (_NOW - timedelta(days=days)).isoformat()
        return Version(n, None, bytes(32), Counts(), Metadata(PackRanges(), bytes(32), 0), PackRanges(), time, "me", n)

    versions = {n: version(n, days) for n, days in days_old.items()}
    return replace(State.empty(genesis("p", "a")), versions=versions, aliases={"latest": max(days_old), **aliases})


_STATE = state({0: 50, 2: 40, 3: 31, 5: 3, 6: 1}, {"best": 2})


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        (Rule(last=2), [0, 2, 3]),
        (Rule(last=9), []),
        (Rule(last=1, aliased=True), [0, 3, 5]),
        (Rule(younger_than=timedelta(days=30)), [0, 2, 3]),
        (Rule(younger_than=timedelta(days=30), aliased=True), [0, 3]),
        (Rule(last=3, younger_than=timedelta(days=1)), [0, 2]),
        (Rule(younger_than=timedelta(days=800_000)), []),  # before the year 1
        (Rule(younger_than=timedelta.max), []),
        (Rule(younger_than=timedelta(0)), [0, 2, 3, 5]),  # the latest is always kept
    ],
)
def test_a_rule(rule: Rule, gone: list[int]) -> None:
    assert expired(_STATE, rule, _NOW) == gone


def test_versions_go_when_their_own_time_is_over() -> None:
    lives = {2: 39 * 86400, 3: 32 * 86400, 6: 1, 9: 1}
    assert expired(_STATE, Rule(alive=True), _NOW, lives) == [2]
    assert expired(_STATE, Rule(alive=True, aliased=True), _NOW, lives) == []
    assert expired(_STATE, Rule(alive=True), _NOW) == []


def test_a_time_that_is_none_is_no_reason_to_delete() -> None:
    odd = replace(_STATE, versions={n: replace(version, time="yesterday") for n, version in _STATE.versions.items()})
    assert expired(odd, Rule(younger_than=timedelta(days=1)), _NOW) == []


def test_a_time_without_a_zone_is_utc() -> None:
    bare = replace(_STATE, versions={n: replace(v, time=v.time.removesuffix("+00:00")) for n, v in _STATE.versions.items()})
    assert expired(bare, Rule(younger_than=timedelta(days=30)), _NOW) == [0, 2, 3]
