"""The log of one artifact: entries, the state they fold to, and checkpoints of it. Pure: no store, no clock, no randomness.

The fold decides from the entry and the state alone, so every client comes to the same state. What it refuses stays in the log as an act
without effect. All rules are in docs/format.md and are part of the format: a later rule needs a new word in `needs`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from blake3 import blake3

from artifactmount.acts import (
    MOVE_LIMIT,
    NUMBER_MAX,
    Act,
    Close,
    Commit,
    Counts,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    Metadata,
    Move,
    Op,
    Open,
    Purge,
    PutVersion,
    RemoveAlias,
    ReplaceRun,
    SetAlias,
    act_from_json,
    act_to_json,
    counts_from_json,
    counts_to_json,
    hexadecimal,
    metadata_from_json,
    metadata_to_json,
    moves_from_json,
    moves_to_json,
    number,
    text,
)
from artifactmount.digest import DIGEST_LENGTH
from artifactmount.errors import CorruptError, NeedsNewerError, UsageError
from artifactmount.ranges import SESSION_LIMIT, PackId, PackRanges

FORMAT = 1
CHECKPOINT_EVERY = 64
ENTRY_LIMIT = 1 << 20
CHECKPOINT_LIMIT = 256 << 20
NONCE_LENGTH = 16
LATEST = "latest"
ALIAS = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
RESERVED = re.compile(r"v[0-9]+")
_GENESIS_CONTEXT = "artifactmount v1 genesis"

__all__ = [
    "ALIAS",
    "CHECKPOINT_EVERY",
    "LATEST",
    "RESERVED",
    "Act",
    "Close",
    "Commit",
    "Counts",
    "DeleteArtifact",
    "DeleteVersion",
    "Describe",
    "Entry",
    "Metadata",
    "Move",
    "Op",
    "Open",
    "Purge",
    "PutVersion",
    "RemoveAlias",
    "ReplaceRun",
    "SetAlias",
    "State",
    "Version",
    "decode_checkpoint",
    "decode_entry",
    "encode_checkpoint",
    "encode_entry",
    "entry_digest",
    "fold",
    "genesis",
    "needs_checkpoint",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One act in its slot. `prev` is the digest of the entry before; `time`, `actor` and `tool` are claims; `nonce` makes it one's own."""

    seq: int
    prev: bytes
    nonce: bytes
    time: str
    actor: str
    tool: str
    act: Act
    needs: tuple[str, ...] = ()
    checkpoint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A live version. `time`, `actor` and `seq` are those of the entry that put it."""

    n: int
    base: int | None
    digest: bytes
    counts: Counts
    metadata: Metadata
    packs: PackRanges
    time: str
    actor: str
    seq: int


@dataclass(frozen=True, slots=True)
class State:
    """The log folded up to `seq`; `digest` is of the entry there. Versions are in ascending order of their numbers."""

    seq: int
    digest: bytes
    versions: dict[int, Version] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    next: int = 0
    open: frozenset[int] = frozenset()
    packs: PackRanges = field(default_factory=PackRanges)
    moved: dict[PackId, PackId] = field(default_factory=dict)
    trash: PackRanges = field(default_factory=PackRanges)
    needs: frozenset[str] = frozenset()
    type: str | None = None

    @staticmethod
    def empty(start: bytes) -> State:
        """Before the first entry; `start` comes from `genesis`."""
        return State(-1, start)

    @property
    def highest(self) -> int | None:
        """The number of the highest live version."""
        return next(reversed(self.versions), None)

    def below(self, n: int) -> int | None:
        """The number of the highest live version below `n`."""
        numbers = list(self.versions)
        index = bisect_right(numbers, n - 1)
        return numbers[index - 1] if index else None

    def chain(self, n: int) -> list[int]:
        """The live versions whose runs make version `n`, oldest first: from the newest one with a whole manifest, or the oldest."""
        numbers: list[int] = []
        for m in reversed(self.versions):
            if m <= n:
                numbers.append(m)
                if self.versions[m].metadata.full is not None:
                    break
        return numbers[::-1]

    def writers(self) -> dict[bytes, Version]:
        """The live version behind each run, delta or whole manifest, by the run's digest."""
        found = {version.metadata.run: version for version in self.versions.values()}
        found |= {version.metadata.full: version for version in self.versions.values() if version.metadata.full is not None}
        return found

    def resolve(self, pack: PackId) -> PackId:
        """Where the live chunks of a pack are now."""
        return self.moved.get(pack, pack)

    def is_garbage(self, pack: PackId) -> bool:
        """R4: computable from the log alone, and once true, true for ever."""
        return pack.session <= self.seq and pack.session not in self.open and pack not in self.packs


def genesis(project_id: str, artifact: str) -> bytes:
    """The `prev` of entry 0: it ties a log to its project and name."""
    return blake3(f"{project_id}/{artifact}".encode(), derive_key_context=_GENESIS_CONTEXT).digest()


# -- the fold --------------------------------------------------------------------------------------------------------------------------
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
            case Commit():
                return _commit(state, same, entry, entry.act), None
    except _Refusal as refusal:
        return same, str(refusal)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Refusal(otherwise)


def _commit(old: State, same: State, entry: Entry, act: Commit) -> State:
    _expect(act.session is None or act.session in old.open, f"session {act.session} is not open")
    _expect(all(session == act.session for session, _, _ in act.keep.ranges), "it keeps packs that are not its session's")
    if any(isinstance(op, DeleteArtifact) for op in act.ops):
        _expect(len(act.ops) == 1 and not act.keep, "delete_artifact stands with other ops")
        trash = old.trash | old.packs
        empty = PackRanges()
        return replace(same, versions={}, aliases={}, moved={}, packs=empty, trash=trash, open=frozenset(), type=None)
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
        open=old.open - {act.session} if act.session is not None else old.open,
        packs=packs,
        moved=moved,
        trash=trash,
        type=draft.type,
    )


class _Draft:
    """A state while the ops of one commit are done to it."""

    def __init__(self, old: State, keep: PackRanges) -> None:
        self._old, self._keep = old, keep
        self.versions, self.aliases, self.moved = dict(old.versions), dict(old.aliases), dict(old.moved)
        self.next, self.type = old.next, old.type
        self._new = PackRanges()  # what the versions put here name
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
                _expect(ALIAS.fullmatch(op.name) is not None and not RESERVED.fullmatch(op.name), f"{op.name!r} is no alias")
                self._once("alias", op.name)
                self.aliases[op.name] = op.n
            case RemoveAlias():
                _expect(op.name in self.aliases, f"there is no alias {op.name!r}")
                self._once("alias", op.name)
                del self.aliases[op.name]
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
        self._new = self._new | metadata.packs | packs

    def _move(self, op: Move) -> None:
        for old, new in op.moves:
            _expect(old in self._old.packs, f"a move of {old}, which is not live")
            _expect(new in self._keep, f"a move to {new}, which this commit does not keep")
        forward = dict(op.moves)
        self.moved = {old: forward.get(new, new) for old, new in self.moved.items()} | forward
        self._whole = True

    def check(self) -> None:
        """What must hold after all ops."""
        for pack in (self._places() - self._keep - self._old.packs).ranges:
            raise _Refusal(f"a version names the packs {pack}, which are not live")
        self._check_bases()
        if self._put:
            digests = [version.digest for version in self.versions.values()]
            _expect(len(set(digests)) == len(digests), "a live version has this content already")
        for name, n in self.aliases.items():
            _expect(n in self.versions, f"alias {name} would point to v{n}, which is not live")
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


# -- bytes -----------------------------------------------------------------------------------------------------------------------------
def needs_checkpoint(seq: int) -> bool:
    """Whether the entry at `seq` proves a checkpoint of the state before it."""
    return seq > 0 and seq % CHECKPOINT_EVERY == 0


def entry_digest(data: bytes) -> bytes:
    """The digest of an entry's bytes: the `prev` of the next one."""
    return blake3(data).digest()


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _seal(fields: Mapping[str, Any]) -> bytes:
    """Canonical JSON with a check over all of it: every flipped bit is noticed, in the newest entry too, which no other proves."""
    return _canonical({**fields, "check": blake3(_canonical(fields)).hexdigest()[:32]})


def _unseal(data: bytes, limit: int, what: str) -> dict[str, Any]:
    if len(data) > limit:
        raise CorruptError(f"{what} of {len(data)} bytes (limit {limit})")
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise CorruptError(f"{what} is no JSON object")
        rest = {key: value for key, value in fields.items() if key != "check"}
        whole = _seal(rest) == data
    except (ValueError, RecursionError, UnicodeError) as error:
        raise CorruptError(f"{what} cannot be read: {str(error)[:80]}") from None
    if not whole:
        raise CorruptError(f"{what} is damaged: its checksum is wrong")
    found = rest.pop("format", None)
    if type(found) is not int or found != FORMAT:
        raise NeedsNewerError(f"{what} has another format: this project needs a newer artifactmount")
    needs = rest.get("needs", [])
    if not isinstance(needs, list) or needs:
        raise NeedsNewerError(f"{what} needs {needs!r:.80}: this project needs a newer artifactmount")
    return rest


def encode_entry(entry: Entry) -> bytes:
    """The entry's bytes. Raises UsageError for what no reader would accept: once in the log, it would end it for everybody."""
    fields = {
        "format": FORMAT,
        "needs": list(entry.needs),
        "seq": entry.seq,
        "prev": entry.prev.hex(),
        "nonce": entry.nonce.hex(),
        "time": entry.time,
        "actor": entry.actor,
        "tool": entry.tool,
        "act": act_to_json(entry.act),
        "checkpoint": None if entry.checkpoint is None else entry.checkpoint.hex(),
    }
    data = _seal(fields)
    if len(data) > ENTRY_LIMIT:
        raise UsageError(f"a log entry of {len(data)} bytes (limit {ENTRY_LIMIT})")
    if not entry.needs:
        try:
            decode_entry(data, entry.seq)
        except CorruptError as error:
            raise UsageError(f"this cannot be written to the log: {error}") from None
    return data


def decode_entry(data: bytes, seq: int) -> Entry:
    """The entry in slot `seq`. Raises CorruptError, NeedsNewerError."""
    fields = _unseal(data, ENTRY_LIMIT, f"log entry {seq}")
    if fields.keys() != {"needs", "seq", "prev", "nonce", "time", "actor", "tool", "act", "checkpoint"} or fields["seq"] != seq:
        raise CorruptError(f"log entry {seq} is not what must lie in its place")
    checkpoint = None if fields["checkpoint"] is None else hexadecimal(fields["checkpoint"], DIGEST_LENGTH)
    return Entry(
        number(fields["seq"], SESSION_LIMIT),
        hexadecimal(fields["prev"], DIGEST_LENGTH),
        hexadecimal(fields["nonce"], NONCE_LENGTH),
        text(fields["time"], 40),
        text(fields["actor"]),
        text(fields["tool"]),
        act_from_json(fields["act"]),
        (),
        checkpoint,
    )


def encode_checkpoint(state: State) -> bytes:
    """The state's bytes: equal states, equal bytes."""
    fields = {
        "format": FORMAT,
        "needs": sorted(state.needs),
        "seq": state.seq,
        "digest": state.digest.hex(),
        "versions": [_version_to_json(version) for version in state.versions.values()],
        "aliases": dict(state.aliases),
        "next": state.next,
        "open": sorted(state.open),
        "packs": state.packs.to_json(),
        "moved": moves_to_json(tuple(state.moved.items())),
        "trash": state.trash.to_json(),
        "type": state.type,
    }
    return _seal(fields)


def decode_checkpoint(data: bytes) -> State:
    """The state. Raises CorruptError, NeedsNewerError."""
    fields = _unseal(data, CHECKPOINT_LIMIT, "a checkpoint")
    names = {"needs", "seq", "digest", "versions", "aliases", "next", "open", "packs", "moved", "trash", "type"}
    if fields.keys() != names or not isinstance(fields["versions"], list) or not isinstance(fields["aliases"], dict):
        raise CorruptError("a checkpoint with other fields")
    if not isinstance(fields["open"], list):
        raise CorruptError("a checkpoint with other fields")
    versions = [_version_from_json(value) for value in fields["versions"]]
    state = State(
        number(fields["seq"], SESSION_LIMIT),
        hexadecimal(fields["digest"], DIGEST_LENGTH),
        {version.n: version for version in versions},
        {text(name, 128): number(n) for name, n in fields["aliases"].items()},
        number(fields["next"]),
        frozenset(number(session, SESSION_LIMIT) for session in fields["open"]),
        PackRanges.from_json(fields["packs"]),
        dict(moves_from_json(fields["moved"])),
        PackRanges.from_json(fields["trash"]),
        frozenset(),
        None if fields["type"] is None else text(fields["type"], 128),
    )
    if encode_checkpoint(state) != data or list(state.versions) != sorted(state.versions):
        raise CorruptError("a checkpoint that is not in its one form")
    return state


def _version_to_json(version: Version) -> dict[str, Any]:
    return {
        "n": version.n,
        "base": version.base,
        "digest": version.digest.hex(),
        "counts": counts_to_json(version.counts),
        "metadata": metadata_to_json(version.metadata),
        "packs": version.packs.to_json(),
        "time": version.time,
        "actor": version.actor,
        "seq": version.seq,
    }


def _version_from_json(value: Any) -> Version:
    if not isinstance(value, dict) or value.keys() != {"n", "base", "digest", "counts", "metadata", "packs", "time", "actor", "seq"}:
        raise CorruptError("a checkpoint with a version of other fields")
    return Version(
        number(value["n"]),
        None if value["base"] is None else number(value["base"]),
        hexadecimal(value["digest"], DIGEST_LENGTH),
        counts_from_json(value["counts"]),
        metadata_from_json(value["metadata"]),
        PackRanges.from_json(value["packs"]),
        text(value["time"], 40),
        text(value["actor"]),
        number(value["seq"], SESSION_LIMIT),
    )
