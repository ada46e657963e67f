"""`artifactmount log`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from artifactmount.acts import (
    Commit,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    EndParts,
    Move,
    Op,
    Part,
    Purge,
    PutVersion,
    RemoveAlias,
    ReplaceRun,
    SetAlias,
    act_to_json,
)
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, moment, path, plain, plural, print_json, size
from artifactmount.errors import CorruptError, NotFoundError, UsageError
from artifactmount.history import Event, changes, events, of_path
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.run import Run
from artifactmount.state import State

_PARALLEL = 8
_AHEAD = 2 * _PARALLEL  # entries: of two one makes a version, the other opened its session


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
            found = _of_path(project, name, state, target) if target else _of_artifact(project, name, state, files, limit)
            for facts, line in islice((item for item in found if as_json or item[1]), limit):
                if as_json:
                    listed.append(facts)
                else:
                    print(line)
        if as_json:
            print_json(listed)


@dataclass(frozen=True, slots=True)
class _Noted:
    """A version's note, and its run where that was asked for; nothing when it is no longer there, as both left with it."""

    note: str = ""
    run: Run | None = None
    readable: bool = True


def _of_artifact(project: Project, name: str, state: State, files: bool, limit: int | None) -> Iterator[tuple[dict[str, Any], str]]:
    for event, noted in _with_notes(project, name, state, files, min(_AHEAD, 2 * (limit or _AHEAD))):
        entry = event.entry
        facts: dict[str, Any] = {"artifact": name, "seq": entry.seq, "time": entry.time, "actor": entry.actor, "tool": entry.tool}
        facts |= {"act": act_to_json(entry.act), "refused": event.refusal}
        said = _line(name, event)
        line = f"{moment(entry.time)}  {plain(entry.actor)}  {plain(said)}" if said else ""
        if noted is not None:
            facts["note"] = noted.note if noted.readable else None
            line += f'  "{plain(noted.note)}"' if noted.note else "" if noted.readable else "  (note unreadable)"
            if files:
                shown = [] if noted.run is None else changes(noted.run)
                listed = [(letter, os.fsdecode(file), bytes_) for letter, file, bytes_ in shown]
                facts["files"] = [{"change": letter, "path": file, "size": bytes_} for letter, file, bytes_ in listed]
                line += "".join(f"\n    {letter} {size(bytes_):>9}  {path(file)}" for letter, file, bytes_ in listed)
        yield facts, line


def _with_notes(project: Project, name: str, state: State, files: bool, ahead: int) -> Iterator[tuple[Event, _Noted | None]]:
    """The events, with what is known of a version where one was made. Versions are read several at once, so many events ahead."""
    waiting: deque[tuple[Event, Future[_Noted] | None]] = deque()
    broken: CorruptError | None = None
    with ThreadPoolExecutor(_PARALLEL) as pool:
        try:
            found = events(project.store, project.artifact(name), state)
            while True:
                try:
                    event = next(found, None)
                except CorruptError as error:  # what comes before it is shown first
                    event, broken = None, error
                if event is not None:
                    put = _made(event)
                    waiting.append((event, None if put is None else pool.submit(_noted, project, name, state, put, files)))
                while waiting and (event is None or len(waiting) >= ahead):
                    shown, reading = waiting.popleft()
                    yield shown, None if reading is None else reading.result()
                if event is None:
                    break
        finally:
            pool.shutdown(cancel_futures=True)
    if broken is not None:
        raise broken


def _made(event: Event) -> int | None:
    """The version that an event made."""
    act = event.entry.act
    return next((op.n for op in act.ops if isinstance(op, PutVersion)), None) if isinstance(act, Commit) and not event.refusal else None


def _noted(project: Project, name: str, state: State, number: int, files: bool) -> _Noted:
    catalog = project.catalog(name)

    def read(state: State) -> _Noted:
        version = state.versions.get(number)
        if version is None:
            return _Noted()
        return _Noted(catalog.card(version).note, catalog.run(version) if files else None)

    try:
        return project.reading(name, read, state)
    except CorruptError:  # one that is damaged or lost must not hide the others; `verify` tells more
        return _Noted(readable=False)


def _line(name: str, event: Event) -> str:
    act = event.entry.act
    match act:
        case Commit():
            said = ", ".join(_op(name, op) for op in act.ops if not (isinstance(op, SetAlias) and op.name == "latest")) or "latest moved"
        case Purge(keys):
            said = f"{name}: {plural(len(keys), 'pack')} purged from the store"
        case Part(id_, session, _, c):
            said = f"{name}: part {session} of {id_}  {plural(c.files, 'file')}  adds {size(c.adds)}  tracks {size(c.bytes)}"
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
        case ReplaceRun(n=n, base=base):
            return f"{name}:v{n} " + ("is the oldest now" if base is None else f"follows v{base} now")
        case EndParts(id_, sessions, n):
            return f"{plural(len(sessions), 'part')} of {id_} " + ("given up" if n is None else f"made {name}:v{n}")
        case Move(moves):
            return f"{plural(len(moves), 'pack')} written anew"


def _of_path(project: Project, name: str, state: State, target: bytes) -> Iterator[tuple[dict[str, Any], str]]:
    for version, letter, bytes_ in of_path(project, name, target, state):
        facts = {"version": f"v{version.n}", "change": letter, "size": bytes_, "time": version.time, "actor": version.actor}
        yield facts, f"{moment(version.time)}  {plain(version.actor)}  {letter} {name}:v{version.n}/{path(target)}"
