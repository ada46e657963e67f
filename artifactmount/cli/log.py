"""`artifactmount log`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from artifactmount.acts import Commit, DeleteArtifact, DeleteVersion, Describe, Op, Purge, PutVersion, RemoveAlias, SetAlias, act_to_json
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, moment, path, plain, plural, print_json, size
from artifactmount.errors import NotFoundError, UsageError
from artifactmount.history import Event, change_of, changes, events
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.rows import show_path, split_path
from artifactmount.state import State, Version


@click.command(epilog="Example: artifactmount log animals/cats/1.png")
@click.argument("what", metavar="[ARTIFACT[/PATH]]", required=False)
@click.option("--files", is_flag=True, help="With the files that each version changed.")
@click.option("-n", "limit", metavar="COUNT", type=click.IntRange(min=1), help="At most so many entries, of each artifact.")
@json_option
@click.pass_obj
def log(settings: Settings, what: str | None, files: bool, limit: int | None, as_json: bool) -> None:
    """Show who did what when.

    The newest entry first, with the notes of versions that are still there. Of ARTIFACT/PATH: which live versions added (A), changed (M) or
    removed (D) that one file. With --json every entry of the log as it is stored.
    """
    reference = None if what is None else parse(what)
    if reference is not None and reference.version is not None:
        raise UsageError(f"a log is of an artifact or of a file in it, not of one version: {reference.artifact}; see `show {reference}`")
    with settings.open() as project:
        listed: list[dict[str, Any]] = []
        for name in project.names() if reference is None else [reference.artifact]:
            state = project.refresh(name)
            if state.seq < 0:
                raise NotFoundError(f"no artifact {name} in {project.url}; `artifactmount ls` lists what there is")
            target = b"" if reference is None else reference.path
            found = _of_path(project, name, state, target) if target else _of_artifact(project, name, state, files)
            for facts, line in islice((item for item in found if as_json or item[1]), limit):
                if as_json:
                    listed.append(facts)
                else:
                    print(line)
        if as_json:
            print_json(listed)


def _of_artifact(project: Project, name: str, state: State, files: bool) -> Iterator[tuple[dict[str, Any], str]]:
    for event in events(project.store, project.artifact(name), state):
        entry = event.entry
        facts: dict[str, Any] = {"artifact": name, "seq": entry.seq, "time": entry.time, "actor": entry.actor, "tool": entry.tool}
        facts |= {"act": act_to_json(entry.act), "refused": event.refusal}
        said = _line(name, event)
        line = f"{moment(entry.time)}  {plain(entry.actor)}  {plain(said)}" if said else ""
        put = next((op.n for op in entry.act.ops if isinstance(op, PutVersion)), None) if isinstance(entry.act, Commit) else None
        if put is not None and event.refusal is None:
            facts["note"], shown = _version(project, name, state, put, files)
            line += f'  "{plain(facts["note"])}"' if facts["note"] else ""
            if files:
                listed = [(letter, os.fsdecode(file), bytes_) for letter, file, bytes_ in shown]
                facts["files"] = [{"change": letter, "path": file, "size": bytes_} for letter, file, bytes_ in listed]
                line += "".join(f"\n    {letter} {size(bytes_):>9}  {path(file)}" for letter, file, bytes_ in listed)
        yield facts, line


def _version(project: Project, name: str, state: State, number: int, files: bool) -> tuple[str, list[tuple[str, bytes, int]]]:
    """A version's note and what it changed; nothing when it is no longer there, as both left with it."""
    catalog = project.catalog(name)

    def read(state: State) -> tuple[str, list[tuple[str, bytes, int]]]:
        version = state.versions.get(number)
        if version is None:
            return "", []
        return catalog.card(version).note, list(changes(catalog.run(version))) if files else []

    return project.reading(name, read, state)


def _line(name: str, event: Event) -> str:
    act = event.entry.act
    match act:
        case Commit():
            said = ", ".join(_op(name, op) for op in act.ops if not (isinstance(op, SetAlias) and op.name == "latest")) or "latest moved"
        case Purge(keys):
            said = f"{name}: {plural(len(keys), 'pack')} purged from the store"
        case _:
            return ""  # that a session began or ended is in --json
    return said if event.refusal is None else f"{said} (no effect: {event.refusal})"


def _op(name: str, op: Op) -> str:
    match op:
        case PutVersion(n=n, counts=c):
            return f"{name}:v{n}  +{c.added} ~{c.changed} -{c.removed}  adds {size(c.adds)}  tracks {size(c.bytes)}"
        case DeleteVersion(n):
            return f"{name}:v{n} deleted"
        case SetAlias(alias, n):
            return f"{name}:{alias} -> v{n}"
        case RemoveAlias(alias):
            return f"{name}:{alias} removed"
        case Describe(n=n):
            return f"{name}:v{n} described"
        case DeleteArtifact():
            return f"{name} deleted"
        case _:
            return "packs tidied"


def _of_path(project: Project, name: str, state: State, target: bytes) -> Iterator[tuple[dict[str, Any], str]]:
    key, last = split_path(target)
    catalog = project.catalog(name)

    def read(state: State) -> list[tuple[Version, str | None]]:
        return [(version, change_of(catalog.run(version), key, last)) for version in reversed(state.versions.values())]

    found = [(version, letter) for version, letter in project.reading(name, read, state) if letter is not None]
    for version, letter in found:
        facts = {"version": f"v{version.n}", "change": letter, "time": version.time, "actor": version.actor}
        yield facts, f"{moment(version.time)}  {plain(version.actor)}  {letter} {name}:v{version.n}/{path(target)}"
    if not found:
        raise NotFoundError(f"no live version of {name} ever had {show_path(target)}")
