"""What is wrong with a machine or a project, found before it hurts. Here: what a finding is. Looks, and changes nothing of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is. A warning works, but not as well or not as safely as it could; a problem does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found there, and how to mend it (empty where there is nothing to mend)."""

    check: str
    state: State
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing to mend."""
    return Finding(check, State.OK, found)


def warning(check: str, found: str, mend: str) -> Finding:
    """It works, but."""
    return Finding(check, State.WARNING, found, mend)


def problem(check: str, found: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(check, State.PROBLEM, found, mend)
