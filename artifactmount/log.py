"""The bytes of the log of one artifact: entries, and checkpoints of the state they fold to. Pure; what an entry does is in `fold`.

Specified in docs/format.md, "Log entry" and "Checkpoint".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from artifactmount.acts import (
    PART_IDS_LIMIT,
    PARTS_LIMIT,
    PARTS_WORD,
    Act,
    act_from_json,
    act_to_json,
    counts_from_json,
    counts_to_json,
    hexadecimal,
    metadata_from_json,
    metadata_to_json,
    moves_from_json,
    moves_to_json,
    needs_of,
    number,
    text,
    tree_to_json,
)
from artifactmount.digest import DIGEST_LENGTH
from artifactmount.errors import CorruptError, UsageError
from artifactmount.ranges import SESSION_LIMIT, PackRanges
from artifactmount.sealed import FORMAT, seal, unseal
from artifactmount.state import State, StatePart, Version

CHECKPOINT_EVERY = 64
ENTRY_LIMIT = 1 << 20
CHECKPOINT_LIMIT = 256 << 20
NONCE_LENGTH = 16
_WORDS = frozenset({PARTS_WORD})


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


def needs_checkpoint(seq: int) -> bool:
    """Whether the entry at `seq` proves a checkpoint of the state before it."""
    return seq > 0 and seq % CHECKPOINT_EVERY == 0


def entry_digest(data: bytes) -> bytes:
    """The digest of an entry's bytes: the `prev` of the next one."""
    return blake3(data).digest()


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
    data = seal(fields)
    if len(data) > ENTRY_LIMIT:
        raise UsageError(f"a log entry of {len(data)} bytes (limit {ENTRY_LIMIT})")
    if set(entry.needs) <= _WORDS:
        try:
            decode_entry(data, entry.seq)
        except CorruptError as error:
            raise UsageError(f"this cannot be written to the log: {error}") from None
    return data


def decode_entry(data: bytes, seq: int) -> Entry:
    """The entry in slot `seq`. Raises CorruptError, NeedsNewerError."""
    fields = unseal(data, ENTRY_LIMIT, f"log entry {seq}", _WORDS)
    if fields.keys() != {"needs", "seq", "prev", "nonce", "time", "actor", "tool", "act", "checkpoint"} or fields["seq"] != seq:
        raise CorruptError(f"log entry {seq} is not what must lie in its place")
    checkpoint = None if fields["checkpoint"] is None else hexadecimal(fields["checkpoint"], DIGEST_LENGTH)
    act = act_from_json(fields["act"])
    needs = needs_of(act)
    if tuple(fields["needs"]) != needs:
        raise CorruptError(f"log entry {seq} does not say rightly what a reader must know")
    return Entry(
        number(fields["seq"], SESSION_LIMIT),
        hexadecimal(fields["prev"], DIGEST_LENGTH),
        hexadecimal(fields["nonce"], NONCE_LENGTH),
        text(fields["time"], 40),
        text(fields["actor"]),
        text(fields["tool"]),
        act,
        needs,
        checkpoint,
    )


def encode_checkpoint(state: State) -> bytes:
    """The state's bytes: equal states, equal bytes. Raises UsageError beyond what a reader would accept (half a million versions)."""
    data = seal({"format": FORMAT, **_state_to_json(state)})
    if len(data) > CHECKPOINT_LIMIT:
        raise UsageError(f"the state of this artifact has become too large ({len(data)} bytes); begin another, or delete old versions")
    return data


def _state_to_json(state: State) -> dict[str, Any]:
    fields: dict[str, Any] = {
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
    if PARTS_WORD in state.needs:  # else the bytes are those that older programs prove
        fields["parts"] = {id_: [_part_to_json(part) for part in parts] for id_, parts in state.parts.items()}
    return fields


def decode_checkpoint(data: bytes) -> State:
    """The state. Raises CorruptError, NeedsNewerError."""
    fields = unseal(data, CHECKPOINT_LIMIT, "a checkpoint", _WORDS)
    names = {"needs", "seq", "digest", "versions", "aliases", "next", "open", "packs", "moved", "trash", "type"}
    needs = frozenset(fields.get("needs", ()))
    names |= {"parts"} if PARTS_WORD in needs else set()
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
        needs,
        None if fields["type"] is None else text(fields["type"], 128),
        _parts_from_json(fields.get("parts", {})),
    )
    # `unseal` has shown that these fields are those bytes: to write them again took as long as all the rest.
    if _state_to_json(state) != fields or list(state.versions) != sorted(state.versions):
        raise CorruptError("a checkpoint that is not in its one form")
    wrong = state.contradiction()
    if wrong is not None:
        raise CorruptError(f"a checkpoint of what no log folds to: {wrong}")
    return state


def _part_to_json(part: StatePart) -> dict[str, Any]:
    return {**tree_to_json(part), "session": part.session, "time": part.time, "actor": part.actor, "seq": part.seq}


def _parts_from_json(value: Any) -> dict[str, tuple[StatePart, ...]]:
    if not isinstance(value, dict) or len(value) > PART_IDS_LIMIT:
        raise CorruptError("a checkpoint with other fields, or too many ids with parts")
    found: dict[str, tuple[StatePart, ...]] = {}
    for id_, parts in value.items():
        if not isinstance(parts, list) or len(parts) > PARTS_LIMIT:
            raise CorruptError("a checkpoint with parts of another form, or too many of them")
        found[text(id_, 128)] = tuple(_part_from_json(part) for part in parts)
    return found


def _part_from_json(value: Any) -> StatePart:
    if not isinstance(value, dict) or value.keys() != {"session", "digest", "counts", "metadata", "time", "actor", "seq"}:
        raise CorruptError("a checkpoint with a part of other fields")
    return StatePart(
        number(value["session"], SESSION_LIMIT),
        hexadecimal(value["digest"], DIGEST_LENGTH),
        counts_from_json(value["counts"]),
        metadata_from_json(value["metadata"]),
        text(value["time"], 40),
        text(value["actor"]),
        number(value["seq"], SESSION_LIMIT),
    )


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
