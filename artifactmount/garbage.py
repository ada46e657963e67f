"""What dead writers left: sessions idle for longer than a grace are closed, then every key that is garbage is deleted.

Garbage can be computed from the log alone, and is garbage for ever (R4, docs/protocol.md): the grace decides only when a writer is taken
for dead. One that wakes up finds its session closed, and begins again. Clocks are the store's own, on both sides of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from artifactmount.acts import Act, Close, Commit, EndParts, Purge
from artifactmount.artifact import Artifact, Make, Writer, append, checkpoint_before, finish_trash, head
from artifactmount.log import CHECKPOINT_EVERY
from artifactmount.project import Project
from artifactmount.ranges import PackRanges
from artifactmount.state import State, StatePart
from artifactmount.steps import Clock, Delete, ListKeys, Steps, drive
from artifactmount.store import Listed

_PAGE = 1000
_FORGOTTEN = 7  # graces after which an id of lost parts is forgotten


@dataclass(slots=True)
class Swept:
    """What was closed and deleted: sessions; keys and their bytes."""

    sessions: list[int] = field(default_factory=list)
    keys: int = 0
    bytes: int = 0


def collect(project: Project, name: str, grace: float, *, dry_run: bool = False) -> Swept:
    """Close the sessions of an artifact that were idle for `grace` seconds, and delete all garbage of it. Raises StoreError."""
    known = project.refresh(name)
    if not dry_run and known.seq >= 0:
        project.check_may_delete(name)
    state, swept = drive(project.store, collect_steps(project.artifact(name), known, project.writer, grace, dry_run=dry_run))
    if not dry_run:
        project.remember(name, state)
    return swept


def collect_steps(
    artifact: Artifact, known: State | None, writer: Writer, grace: float, *, dry_run: bool = False
) -> Steps[tuple[State, Swept]]:
    """See `collect`."""
    state = yield from head(artifact, known)
    swept = Swept()
    if state.seq < 0:
        return state, swept
    if not dry_run:
        state = yield from finish_trash(artifact, state, writer)
    now = yield Clock()
    if not dry_run:
        state = yield from _forget_lost(artifact, state, writer, now - _FORGOTTEN * grace)
    listed = state
    for sessions in _together(listed):
        newest = yield from _newest_part(artifact, listed, sessions)
        for session in sessions:
            newest = max(newest, (yield from _last_sign(artifact, session)))
        if now - newest < grace:
            continue
        for session in sessions:
            if dry_run:
                swept.sessions.append(session)
                continue
            appended = yield from append(artifact, state, _closing(session, _waiting(listed, session)), writer)
            state = appended.state
            if appended.entry is not None:
                swept.sessions.append(session)
    dead = frozenset(swept.sessions)
    after = ""
    while True:
        page: list[Listed] = yield ListKeys(f"{artifact.prefix}data/", after, _PAGE)
        garbage = [item for item in page if _is_garbage(artifact, state, dead, item.key)]
        swept.keys += len(garbage)
        swept.bytes += sum(item.size for item in garbage)
        if garbage and not dry_run:
            yield Delete(tuple(item.key for item in garbage))
        if len(page) < _PAGE or page[-1].key <= after:
            break
        after = page[-1].key
    if not dry_run:
        state = yield from sweep_checkpoints(artifact, state, writer)
    return state, swept


def _together(state: State) -> list[list[int]]:
    """The open sessions; those that are parts of one id together, as the first of them wait for the last."""
    parts = [[part.session for part in parts if part.session in state.open] for parts in state.parts.values()]
    taken = {session for sessions in parts for session in sessions}
    return sorted([*(sessions for sessions in parts if sessions), *([session] for session in state.open - taken)])


def _forget_lost(artifact: Artifact, state: State, writer: Writer, before: float) -> Steps[State]:
    """Forget the ids all of whose parts are lost, the newest since this time: who would have run them again has long begun anew."""

    def make(id_: str, newest: State) -> Steps[Act | None]:
        yield from ()
        sessions = tuple(part.session for part in newest.parts.get(id_, ()))
        lost = sessions and newest.open.isdisjoint(sessions)
        return Commit(None, PackRanges(), (EndParts(id_, sessions, None),)) if lost else None

    for id_, parts in list(state.parts.items()):
        if state.open.isdisjoint(part.session for part in parts):
            signs = yield ListKeys(artifact.log_key(max(part.seq for part in parts)), "", 1)
            if signs and max(item.modified for item in signs) <= before:  # a listing may be stale: then another time
                state = (yield from append(artifact, state, partial(make, id_), writer)).state
    return state


def sweep(artifact: Artifact, prefix: str, dead: Callable[[str], bool]) -> Steps[None]:
    """Delete every key below a prefix that is dead."""
    last = ""
    while True:
        page: list[Listed] = yield ListKeys(prefix, last)
        if keys := tuple(item.key for item in page if dead(item.key)):
            yield Delete(keys)
        if len(page) < _PAGE or page[-1].key <= last:
            return
        last = page[-1].key


def sweep_checkpoints(artifact: Artifact, state: State, writer: Writer) -> Steps[State]:
    """Delete the checkpoints of an artifact that was deleted: they say what the log says, and something of every version at once.

    Who comes later must not have to read the whole log for that. So purges that say nothing, 63 at most, are appended first, until a
    checkpoint of the emptied artifact is proven.
    """

    def make(newest: State) -> Steps[Act | None]:
        yield from ()
        return None if newest.versions or newest.seq // CHECKPOINT_EVERY > state.seq // CHECKPOINT_EVERY else Purge(PackRanges())

    proving = state.seq // CHECKPOINT_EVERY * CHECKPOINT_EVERY
    if state.versions or not proving:
        return state
    last = yield from checkpoint_before(artifact, proving)
    newest, more = state, last is None or bool(last.versions)
    while more:
        appended = yield from append(artifact, newest, make, writer)
        newest, more = appended.state, appended.entry is not None
    if not newest.versions:
        kept = artifact.checkpoint_key(newest.seq // CHECKPOINT_EVERY * CHECKPOINT_EVERY - 1)
        yield from sweep(artifact, kept[:-16], lambda key: key < kept)
    return newest


def _waiting(state: State, session: int) -> tuple[StatePart, ...] | None:
    """The parts that a session waits with, itself one of them; None where it is no part."""
    return next((parts for parts in state.parts.values() if any(part.session == session for part in parts)), None)


def _closing(session: int, listed: tuple[StatePart, ...] | None) -> Make:
    """Close a session that was idle, unless it became a part since, or a part came to its id: then it is not idle any more."""

    def make(state: State) -> Steps[Act | None]:
        yield from ()
        return Close(session) if session in state.open and _waiting(state, session) == listed else None

    return make


def _newest_part(artifact: Artifact, state: State, sessions: list[int]) -> Steps[float]:
    """When the newest of these parts was said to be one, by the store's clock: maybe long after its session last stored something."""
    parts = _waiting(state, sessions[0])
    signs = [] if parts is None else (yield ListKeys(artifact.log_key(max(part.seq for part in parts)), "", 1))
    return max((item.modified for item in signs), default=0.0)


def _is_garbage(artifact: Artifact, state: State, dead: frozenset[int], key: str) -> bool:
    """`dead`: sessions that a dry run would have closed."""
    pack = artifact.pack_of(key)
    return pack is not None and (state.is_garbage(pack) or (pack.session in dead and pack not in state.packs))


def _last_sign(artifact: Artifact, session: int) -> Steps[float]:
    """When a session's writer last stored something, its `open` entry at least, by the store's clock."""
    signs: list[Listed] = yield ListKeys(artifact.log_key(session), "", 1)
    newest, after = max((item.modified for item in signs), default=0.0), ""
    while True:
        signs = yield ListKeys(artifact.session_prefix(session), after, _PAGE)
        newest = max([newest, *(item.modified for item in signs)])
        if len(signs) < _PAGE or signs[-1].key <= after:
            return newest
        after = signs[-1].key
