"""Which versions a retention rule lets go. Pure: the same path deletes them as any others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from artifactmount.state import LATEST, State


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept. A version is let go only when nothing of this keeps it. The latest is always kept."""

    last: int = 0
    aliased: bool = False
    younger_than: timedelta | None = None
    alive: bool = False
    """Versions without a time to live of their own, or whose time is not over."""


def expired(state: State, rule: Rule, now: datetime, lives: Mapping[int, int] | None = None) -> list[int]:
    """The versions that the rule lets go, in order. A version whose time cannot be read is kept by `younger_than` and `alive`.

    `lives`: the seconds that versions have to live, from when they were made, where that was said.
    """
    numbers = list(state.versions)
    kept = set(numbers[-rule.last :]) if rule.last else set()
    kept |= {n for alias, n in state.aliases.items() if rule.aliased or alias == LATEST}
    if rule.younger_than is not None:
        kept |= {n for n, version in state.versions.items() if _is_younger(version.time, now, rule.younger_than)}
    if rule.alive:
        ages = {n: timedelta(seconds=seconds) for n, seconds in (lives or {}).items()}
        kept |= {n for n, version in state.versions.items() if n not in ages or _is_younger(version.time, now, ages[n])}
    return [n for n in numbers if n not in kept]


def _is_younger(time: str, now: datetime, age: timedelta) -> bool:
    try:
        moment, limit = datetime.fromisoformat(time), now - age
    except (ValueError, OverflowError):  # no time; or a limit before the year 1, and nothing is as old as that
        return True
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) >= limit
