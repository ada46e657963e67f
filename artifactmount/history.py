"""The log, read backwards for people: who did what when, and what became of it. Must not know mounts or caches.

Entries are read in blocks of 64, the newest first, each folded from the checkpoint before it: so what a page of history costs does not
depend on how long the whole of it is, and entries that have no effect are known as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from artifactmount.artifact import Artifact, check_end, checkpoint_before, read_entries
from artifactmount.errors import CorruptError, NotFoundError
from artifactmount.fold import fold
from artifactmount.log import CHECKPOINT_EVERY, Entry, entry_digest
from artifactmount.project import Project
from artifactmount.rows import Change, Kind, kind_of, path_of, show_path, split_path
from artifactmount.run import Run
from artifactmount.state import State, Version
from artifactmount.steps import drive
from artifactmount.store import Store

LETTERS = {Change.ADDED: "A", Change.CHANGED: "M", Change.REMOVED: "D"}


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the log, and why it has no effect (None: it has)."""

    entry: Entry
    refusal: str | None


def events(store: Store, artifact: Artifact, state: State) -> Iterator[Event]:
    """What happened up to `state`, the newest first. Raises CorruptError where the chain of entries is broken, or has a hole behind it."""
    drive(store, check_end(artifact, state))
    digest, stop = state.digest, state.seq + 1
    known: dict[int, State] = {}
    while stop > 0:
        start = (stop - 1) // CHECKPOINT_EVERY * CHECKPOINT_EVERY
        block = _block(store, artifact, start, stop)
        before = _before(store, artifact, start, known)
        found: list[Event] = []
        for data in block:
            entry = artifact.decode_entry(data, start + len(found))
            before, refusal = fold(before, entry, entry_digest(data))
            found.append(Event(entry, refusal))
        for data, event in zip(reversed(block), reversed(found), strict=True):
            if entry_digest(data) != digest:
                raise CorruptError(f"the log of {artifact.name} is broken at entry {event.entry.seq}; `artifactmount verify` tells more")
            digest = event.entry.prev
            yield event
        stop = start


def _before(store: Store, artifact: Artifact, start: int, known: dict[int, State]) -> State:
    """The state before entry `start`, a multiple of 64: its checkpoint, or, where that is missing, the one before it and the entries since.

    The states passed on the way are added to `known`, by what they stand before: of a log without checkpoints each entry is folded once
    for that, not once for each block behind it. Raises CorruptError.
    """
    at, state = start, artifact.empty()
    while at > 0 and at not in known:
        checkpoint = drive(store, checkpoint_before(artifact, at))
        if checkpoint is not None:
            known[at] = checkpoint
            break
        at -= CHECKPOINT_EVERY
    state = known.get(at, state)
    for first in range(at, start, CHECKPOINT_EVERY):
        for data in _block(store, artifact, first, first + CHECKPOINT_EVERY):
            state, _ = fold(state, artifact.decode_entry(data, state.seq + 1), entry_digest(data))
        known[first + CHECKPOINT_EVERY] = state
    return known.pop(start, state)


def _block(store: Store, artifact: Artifact, start: int, stop: int) -> list[bytes]:
    found = drive(store, read_entries(artifact, start, stop))
    if None in found:
        raise CorruptError(f"the log of {artifact.name} has a hole at entry {start + found.index(None)}")
    return [data for data in found if data is not None]


def changes(run: Run) -> Iterator[tuple[str, bytes, int]]:
    """(letter, path, size in bytes) of everything a version changed, in order: A added, M changed, D removed (its old size). The path of a
    directory ends with a slash."""
    at = run.name_offsets()
    for key, start, stop in run.directories():
        for row in range(start, stop):
            slash = b"/" if kind_of(run.mode(row)) is Kind.DIRECTORY else b""
            yield LETTERS[run.change(row)], path_of(key, bytes(run.names[at[row] : at[row + 1]])) + slash, run.size(row)


def change_of(run: Run, key: bytes, name: bytes) -> tuple[str, int] | None:
    """The letter of what a version did to one path, and the size in bytes, as `changes` gives them; None when it left it alone."""
    for directory, start, stop in run.directories():
        if directory == key:
            at = run.name_offsets()
            for row in range(start, stop):
                if run.names[at[row] : at[row + 1]] == name:
                    return LETTERS[run.change(row)], run.size(row)
    return None


def of_path(project: Project, name: str, target: bytes, state: State | None = None) -> list[tuple[Version, str, int]]:
    """The live versions that changed one path, the newest first; the letter of what each did to it, and its size then, in bytes.

    Raises NotFoundError when none ever had it; CorruptError, StoreError.
    """
    key, last = split_path(target)
    catalog = project.catalog(name)

    def read(state: State) -> list[tuple[Version, tuple[str, int] | None]]:
        return [(version, change_of(catalog.run(version), key, last)) for version in reversed(state.versions.values())]

    found = [(version, *change) for version, change in project.reading(name, read, state) if change is not None]
    if not found:
        raise NotFoundError(f"no live version of {name} ever had {show_path(target)}")
    return found
