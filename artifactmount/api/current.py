"""The run under way, for drafts that are saved without naming one."""

from __future__ import annotations

from artifactmount.api.opened import Opened

_under_way: list[Opened] = []


def begin(opened: Opened) -> None:
    """A run began."""
    _under_way.append(opened)


def end(opened: Opened) -> None:
    """A run ended, if it had not yet."""
    if opened in _under_way:
        _under_way.remove(opened)


def current() -> Opened | None:
    """The project of the run that began last and has not ended."""
    return _under_way[-1] if _under_way else None
