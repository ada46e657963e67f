"""What an entry does to the state of its artifact. Pure: no store, no clock, no randomness.

The fold decides from the entry and the state alone, so every client comes to the same state. What it refuses stays in the log as an act
without effect. All rules are in docs/format.md and are part of the format: a later rule needs a new word in `needs`.
"""

from __future__ import annotations

from dataclasses import replace

from blake3 import blake3

from artifactmount.acts import (
    MOVE_LIMIT,
    NUMBER_MAX,
    PART_IDS_LIMIT,
    PARTS_LIMIT,
    Close,
    Commit,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    EndParts,
    Metadata,
    Move,
    Op,
    Open,
    Part,
    Purge,
    PutVersion,
    RemoveAlias,
    ReplaceRun,
    SetAlias,
)
from artifactmount.errors import CorruptError
from artifactmount.log import Entry, encode_checkpoint, needs_checkpoint
from artifactmount.ranges import PackId, PackRanges
from artifactmount.state import LATEST, NAME, State, StatePart, Version, is_alias


class _Refusal(Exception):  # noqa: N818 - it never leaves this module
    pass


def fold(state: State, entry: Entry, digest: bytes) -> tuple[State, str | None]:
    """The state after an entry whose bytes have this digest, and why its act has no effect (None: it has).

    Raises CorruptError when a checkpoint that the entry proves is not this state.
    """
    if entry.checkpoint is not None and blake3(encode_checkpoint(state)).digest() != entry.checkpoint:
        raise CorruptError(f"entry {entry.seq} proves a checkpoint that is not the log up to it")
    if needs_checkpoint(entry.seq) != (entry.checkpoint is not None):
        raise CorruptError(f"entry {entry.seq} has to prove a checkpoint, or must not")
    same = replace(state, seq=entry.seq, digest=digest, needs=state.needs | set(entry.needs))
    try:
        match entry.act:
            case Open():
                return replace(same, open=state.open | {entry.seq}), None
            case Purge(keys):
                return replace(same, trash=state.trash - keys), None
            case Close(session):
                _expect(session in state.open, f"session {session} is not open")
                return replace(same, open=state.open - {session}), None
            case Part():
                return replace(same, parts=_with_part(state, entry, entry.act)), None
            case Commit():
                return _commit(state, same, entry, entry.act), None
    except _Refusal as refusal:
        return same, str(refusal)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Refusal(otherwise)


def _with_part(old: State, entry: Entry, act: Part) -> dict[str, tuple[StatePart, ...]]:
    _expect(old.is_working(act.session), f"session {act.session} is not open, or is a part already")
    _expect(NAME.fullmatch(act.id) is not None, f"{act.id!r} is no id for parts")
    part = StatePart(act.session, act.digest, act.counts, act.metadata, entry.time, entry.actor, entry.seq)
    _expect(part.belongs(), "metadata packs that are not its session's")
    others = old.parts.get(act.id, ())
    equal = {other.session for other in others if other.digest == act.digest}
    _expect(equal.isdisjoint(old.open), "an equal part is there already")
    parts = (*(other for other in others if other.session not in equal), part)  # a lost one is taken the place of
    _expect(len(parts) <= PARTS_LIMIT, f"more than {PARTS_LIMIT} parts of {act.id!r}")
    _expect(act.id in old.parts or len(old.parts) < PART_IDS_LIMIT, f"more than {PART_IDS_LIMIT} ids with parts")
    return {**old.parts, act.id: parts}


def _commit(old: State, same: State, entry: Entry, act: Commit) -> State:
    _expect(act.session is None or old.is_working(act.session), f"session {act.session} is not open, or is a part")
    ended = {session for op in act.ops if isinstance(op, EndParts) for session in op.sessions}
    mine = {act.session} | (ended & old.open)
    _expect(all(session in mine for session, _, _ in act.keep.ranges), "it keeps packs that are not its session's")
    if any(isinstance(op, DeleteArtifact) for op in act.ops):
        _expect(len(act.ops) == 1 and not act.keep, "delete_artifact stands with other ops")
        trash = old.trash | old.packs
        empty = PackRanges()
        return replace(same, versions={}, aliases={}, moved={}, packs=empty, trash=trash, open=frozenset(), type=None, parts={})
    draft = _Draft(old, act.keep)
    for op in act.ops:
        draft.do(op, entry)
    draft.check()
    packs, moved, trash = draft.derive()
    return replace(
        same,
        versions=draft.versions,
        aliases=draft.aliases,
        next=draft.next,
        open=old.open - ended - {act.session},
        packs=packs,
        moved=moved,
        trash=trash,
        type=draft.type,
        parts=draft.parts,
    )


class _Draft:
    """A state while the ops of one commit are done to it."""

    def __init__(self, old: State, keep: PackRanges) -> None:
        self._old, self._keep = old, keep
        self.versions, self.aliases, self.moved = dict(old.versions), dict(old.aliases), dict(old.moved)
        self.next, self.type, self.parts = old.next, old.type, dict(old.parts)
        self._became: list[int] = []
        self._named: list[tuple[int, int, int]] = []  # what the versions put here name; merged once, or many ops would be quadratic
        self._new = PackRanges()
        self._put: list[Version] = []
        self._whole = False  # whether something went, so that the live packs have to be derived from all versions
        self._touched: set[str] = set()

    def do(self, op: Op, entry: Entry) -> None:
        match op:
            case PutVersion():
                _expect(op.n == self.next, f"the next version is v{self.next}, not v{op.n}")
                _expect(op.n < NUMBER_MAX - 1, "there are no more version numbers")
                _expect(self.type in (None, op.type), f"the artifact is of type {self.type!r}, not {op.type!r}")
                self.next, self.type = op.n + 1, op.type
                version = Version(op.n, op.base, op.digest, op.counts, op.metadata, op.packs, entry.time, entry.actor, entry.seq)
                self.versions[op.n] = version
                self._put.append(version)
                self._name(op.metadata, op.packs)
            case ReplaceRun():
                version = self._live(op.n, "replace_run")
                self.versions[op.n] = replace(version, base=op.base, counts=op.counts, metadata=op.metadata, packs=op.packs)
                self._name(op.metadata, op.packs)
                self._whole = True
            case Describe():
                version = self._live(op.n, "describe")
                self.versions[op.n] = replace(version, metadata=op.metadata)
                self._name(op.metadata, PackRanges())
                self._whole = True
            case DeleteVersion():
                self._live(op.n, "delete_version")
                del self.versions[op.n]
                self._whole = True
            case Move():
                self._move(op)
            case SetAlias():
                _expect(is_alias(op.name), f"{op.name!r} is no alias")
                self._once("alias", op.name)
                self.aliases[op.name] = op.n
            case RemoveAlias():
                _expect(op.name in self.aliases, f"there is no alias {op.name!r}")
                self._once("alias", op.name)
                del self.aliases[op.name]
            case EndParts():
                self._end_parts(op)
            case DeleteArtifact():
                raise AssertionError("handled before")

    def _once(self, what: str, which: str | int) -> None:
        key = f"{what} {which}"
        _expect(key not in self._touched, f"two ops on {what} {which}")
        self._touched.add(key)

    def _live(self, n: int, word: str) -> Version:
        self._once("version", n)
        _expect(n in self._old.versions and n in self.versions, f"{word} of v{n}, which is not live")
        return self.versions[n]

    def _name(self, metadata: Metadata, packs: PackRanges) -> None:
        _expect(metadata.packs <= self._keep, "metadata packs that this commit does not keep")
        self._named += metadata.packs.ranges
        self._named += packs.ranges

    def _move(self, op: Move) -> None:
        for old, new in op.moves:
            _expect(old in self._old.packs, f"a move of {old}, which is not live")
            _expect(new in self._keep, f"a move to {new}, which this commit does not keep")
        forward = dict(op.moves)
        self.moved = {old: forward.get(new, new) for old, new in self.moved.items()} | forward
        self._whole = True

    def _end_parts(self, op: EndParts) -> None:
        parts, ended = self.parts.get(op.id, ()), set(op.sessions)
        there = {part.session for part in parts}
        _expect(len(ended) == len(op.sessions) and ended <= there, f"an end of parts that {op.id!r} has not")
        if op.n is not None:
            _expect(ended == there and ended <= self._old.open, f"a version of other parts than those that {op.id!r} has")
            self._became.append(op.n)
        self.parts = {id_: others for id_, others in self.parts.items() if id_ != op.id}
        if left := tuple(part for part in parts if part.session not in ended):
            self.parts[op.id] = left

    def check(self) -> None:
        """What must hold after all ops."""
        self._new = PackRanges.merged(self._named)
        for pack in (self._places() - self._keep - self._old.packs).ranges:
            raise _Refusal(f"a version names the packs {pack}, which are not live")
        self._check_bases()
        if self._put:
            digests = [version.digest for version in self.versions.values()]
            _expect(len(set(digests)) == len(digests), "a live version has this content already")
        for name, n in self.aliases.items():
            _expect(n in self.versions, f"alias {name} would point to v{n}, which is not live")
        _expect(all(n in self.versions for n in self._became), "parts that became a version which is not live")
        _expect((LATEST in self.aliases) == bool(self.versions), "`latest` must be there exactly when a version is")

    def _check_bases(self) -> None:
        """Every live version's base is the highest live version below it: of those ops did not name, too."""
        if self._whole:
            below = None
            for n in sorted(self.versions):
                _expect(self.versions[n].base == below, f"the base of v{n} is not the live version below it")
                below = n
            self.versions = {n: self.versions[n] for n in sorted(self.versions)}
            return
        below = self._old.highest
        for version in self._put:
            _expect(version.base == below, f"the base of v{version.n} is not the live version below it")
            below = version.n

    def derive(self) -> tuple[PackRanges, dict[PackId, PackId], PackRanges]:
        """Live packs, moved packs, trash. Only what the live versions' lists name stays; nothing is taken from the entry."""
        if not self._whole:  # nothing went: the price is that of what came
            return self._old.packs | self._places(), self.moved, self._old.trash
        return self._derive_from_all()

    def _places(self) -> PackRanges:
        """Where the packs that the new lists name are now. By ranges: a range of 10^8 packs costs no more than one of a single pack."""
        moved = [pack for pack in self.moved if pack in self._new]
        return (self._new - PackRanges.of(moved)) | PackRanges.of(self.moved[pack] for pack in moved)

    def _derive_from_all(self) -> tuple[PackRanges, dict[PackId, PackId], PackRanges]:
        parts: list[tuple[int, int, int]] = []
        for version in self.versions.values():
            parts += version.metadata.packs.ranges
            parts += version.packs.ranges
        named = PackRanges.merged(parts)
        moved = {old: new for old, new in self.moved.items() if old in named}
        _expect(len(moved) <= MOVE_LIMIT, f"more than {MOVE_LIMIT} packs would be moved ones")
        packs = (named - PackRanges.of(moved)) | PackRanges.of(moved.values())
        return packs, moved, self._old.trash | (self._old.packs - packs)
