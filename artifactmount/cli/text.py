"""How facts look on a terminal and in JSON. Knows no project."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from artifactmount.errors import UsageError
from artifactmount.plain import plain as plain

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def size(count: int) -> str:
    """3.0 MB for 3,000,000."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        if value < 999.95:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} ZB"


def path(name: bytes | str) -> str:
    """A name as it is; on a terminal, control characters as question marks, as ls does."""
    text = os.fsdecode(name)
    return plain(text) if sys.stdout.isatty() else text


def moment(time: str | int) -> str:
    """A time (ISO, or ns since 1970) in local time, to the minute; as it is when it is no time."""
    try:
        when = datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time / 1e9, UTC)
        return when.astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return plain(time)


def iso(nanoseconds: int) -> str:
    """ns since 1970 in UTC, ISO 8601."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(nanoseconds)


def print_json(value: Any) -> None:
    """One JSON value; names that are not UTF-8 by surrogateescape."""
    print(json.dumps(value, indent=2))


def table(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Columns, those in `right` to the right, the last as it is."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())


def seconds(duration: str) -> int:
    """Seconds of 45s, 30m, 24h, 2d or 0. Raises UsageError."""
    if duration == "0":
        return 0
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise UsageError(f"not a time: {duration!r}; write for example 30m, 24h or 2d")
    return int(match[1]) * _SECONDS[match[2]]


def plural(count: int, word: str) -> str:
    """1 file, 2 files."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")
