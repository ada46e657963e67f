"""The options of commands that make versions, and what these print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from artifactmount.cli.text import plural, print_json, size
from artifactmount.errors import UsageError
from artifactmount.names import check_alias
from artifactmount.proposal import Joined, Options, Result

_OPTIONS = (
    click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Point this alias to the version, too. May be repeated."),
    click.option("--note", metavar="TEXT", help="What is to be said of the version."),
    click.option("--type", "type_", metavar="TYPE", help="The artifact's type, such as dataset or model; one for all its versions."),
    click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="A fact about the version; VALUE may be JSON. May be repeated."),
)


def version_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a new version: aliases, note, type_, metadata."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of(aliases: tuple[str, ...], note: str | None, type_: str | None, metadata: tuple[str, ...]) -> Options:
    """What these options ask for. Raises UsageError."""
    for alias in aliases:
        check_alias(alias)
    return Options(aliases, note, type_, _facts(metadata) if metadata else None)


def _facts(metadata: tuple[str, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for item in metadata:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UsageError(f"not KEY=VALUE: {item!r}")
        try:
            facts[key] = json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            facts[key] = value
    return facts


def _refuse_constant(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are no JSON


def print_result(result: Result, as_json: bool) -> None:
    """Say which version it became, and what that changes."""
    _say_ignored(result.ignored)
    if as_json:
        print_json(_as_json(result))
    elif not result.changed:
        print(f"{result.artifact}:v{result.version}  unchanged")
    else:
        changes = f"+{result.added} ~{result.modified} -{result.removed}"
        print(f"{result.artifact}:v{result.version}  {changes}  adds {size(result.adds)}  tracks {size(result.tracks)}")


def _say_ignored(entries: int) -> None:
    if entries:
        what = "1 entry is" if entries == 1 else f"{entries:,} entries are"
        print(f"artifactmount: {what} left out, as .artifactignore says", file=sys.stderr)


def print_joined(joined: Joined, as_json: bool) -> None:
    """Say which part it is, and how many there are."""
    _say_ignored(joined.ignored)
    if as_json:
        print_json(
            {
                "artifact": joined.artifact,
                "id": joined.id,
                "part": joined.part,
                "changed": joined.changed,
                "files": joined.files,
                "adds": joined.adds,
                "tracks": joined.tracks,
                "parts": joined.parts,
                "version": None if joined.version is None else f"v{joined.version}",
                "ignored": joined.ignored,
            }
        )
        return
    if joined.version is not None:
        what = f"{plural(joined.files, 'file')}  is in v{joined.version} already, which {joined.id} became"
        print(f"{joined.artifact}: {what}")
        return
    what = f"adds {size(joined.adds)}  tracks {size(joined.tracks)}" if joined.changed else "is there already"
    print(f"{joined.artifact}: part {joined.part} of {joined.id}  {plural(joined.files, 'file')}  {what}  ({plural(joined.parts, 'part')})")


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "artifact": result.artifact,
        "version": f"v{result.version}",
        "changed": result.changed,
        "added": result.added,
        "modified": result.modified,
        "removed": result.removed,
        "adds": result.adds,
        "tracks": result.tracks,
        "aliases": list(result.aliases),
        "ignored": result.ignored,
    }
