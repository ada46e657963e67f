"""What a log entry can say: acts and the operations of a commit, as closed unions of frozen values, and their JSON.

Pure. What an act *means* is in `fold.fold`; here is only what it looks like. Parsing is strict: a word that is not known raises
NeedsNewerError (an older client must stop, not guess), anything else that is not exactly right raises CorruptError.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, Protocol

from artifactmount.digest import DIGEST_LENGTH
from artifactmount.errors import CorruptError, NeedsNewerError
from artifactmount.ranges import NUMBER_LIMIT, SESSION_LIMIT, PackId, PackRanges

NUMBER_MAX = 1 << 53  # what every JSON reader holds exactly
TEXT_LIMIT = 1024
SALT_LENGTH = 16
PARTS_LIMIT = 1024
"""No id has more parts, and no act ends more."""
PART_IDS_LIMIT = 64
"""No state has more ids that wait to be finished."""
PARTS_WORD = "parts"
"""What a reader must know who reads of parts: stands in `needs`."""
MOVE_LIMIT = 1 << 20
"""No entry moves more packs, and no state remembers more moved ones."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a version: rows by kind, `bytes` of all its files; of its delta: rows added, changed, removed, and `adds`, the plain bytes of
    content that it was the first to place."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    references: int = 0
    bytes: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    adds: int = 0


@dataclass(frozen=True, slots=True)
class Metadata:
    """Where a version's card and run lie, and what they must be. `full` is the whole manifest stored beside the run, if it is."""

    packs: PackRanges
    run: bytes
    run_length: int
    full: bytes | None = None
    full_length: int = 0


@dataclass(frozen=True, slots=True)
class PutVersion:
    """A new version. `packs`: every content pack that its run names."""

    n: int
    base: int | None
    digest: bytes
    counts: Counts
    metadata: Metadata
    packs: PackRanges
    type: str


@dataclass(frozen=True, slots=True)
class ReplaceRun:
    """Another run for a live version, of the same content: the version below it went."""

    n: int
    base: int | None
    counts: Counts
    metadata: Metadata
    packs: PackRanges


@dataclass(frozen=True, slots=True)
class DeleteVersion:
    """A version goes."""

    n: int


@dataclass(frozen=True, slots=True)
class Move:
    """The live chunks of packs were copied: (old, new) each. What names the old one is led to the new one."""

    moves: tuple[tuple[PackId, PackId], ...]


@dataclass(frozen=True, slots=True)
class SetAlias:
    """An alias points to a version from now on."""

    name: str
    n: int


@dataclass(frozen=True, slots=True)
class RemoveAlias:
    """An alias is no more."""

    name: str


@dataclass(frozen=True, slots=True)
class Describe:
    """Another card for a version (its run is stored again beside it)."""

    n: int
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class DeleteArtifact:
    """Everything goes but the log and the next version's number."""


@dataclass(frozen=True, slots=True)
class EndParts:
    """These parts of an id, by their sessions, are no more, and their sessions end: they became version `n`, or (None) were given up."""

    id: str
    sessions: tuple[int, ...]
    n: int | None


Op = PutVersion | ReplaceRun | DeleteVersion | Move | SetAlias | RemoveAlias | Describe | DeleteArtifact | EndParts


@dataclass(frozen=True, slots=True)
class Open:
    """A session begins; its id is the seq of this entry. The salt makes keys of what it stores its own."""

    salt: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """All ops at once; the session ends; of its packs, `keep` stay."""

    session: int | None
    keep: PackRanges
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """A session ends without a commit: its writer gave up, or is taken for dead."""

    session: int


@dataclass(frozen=True, slots=True)
class Purge:
    """These packs were seen to be gone from the store."""

    keys: PackRanges


@dataclass(frozen=True, slots=True)
class Part:
    """A session's writer is done, and it waits with others under an id for one version of all. `digest`: the version digest of its tree."""

    id: str
    session: int
    digest: bytes
    counts: Counts
    metadata: Metadata


Act = Open | Commit | Close | Purge | Part


def needs_of(act: Act) -> tuple[str, ...]:
    """The words that a reader of an entry with this act must know."""
    parts = isinstance(act, Part) or (isinstance(act, Commit) and any(isinstance(op, EndParts) for op in act.ops))
    return (PARTS_WORD,) if parts else ()


# -- JSON ------------------------------------------------------------------------------------------------------------------------------
def act_to_json(act: Act) -> dict[str, Any]:
    """The act as JSON values."""
    match act:
        case Open(salt):
            return {"open": {"salt": salt.hex()}}
        case Commit(session, keep, ops):
            return {"commit": {"keep": keep.to_json(), "ops": [_op_to_json(op) for op in ops], "session": session}}
        case Close(session):
            return {"close": {"session": session}}
        case Purge(keys):
            return {"purge": {"keys": keys.to_json()}}
        case Part():
            return {"part": {"id": act.id, "session": act.session, **tree_to_json(act)}}


def act_from_json(value: Any) -> Act:
    """The act. Raises CorruptError, NeedsNewerError."""
    word, fields = _tagged(value)
    match word:
        case "open":
            return Open(hexadecimal(_only(fields, "salt")["salt"], SALT_LENGTH))
        case "commit":
            fields = _only(fields, "keep", "ops", "session")
            if not isinstance(fields["ops"], list):
                raise CorruptError("the ops of a commit are not a list")
            ops: list[Op] = []
            moved = 0
            for value in fields["ops"]:
                ops.append(op := _op_from_json(value))
                moved += len(op.moves) if isinstance(op, Move) else 0
                if moved > MOVE_LIMIT:
                    raise CorruptError(f"moves of more than {MOVE_LIMIT} packs")
            session = None if fields["session"] is None else number(fields["session"], SESSION_LIMIT)
            return Commit(session, PackRanges.from_json(fields["keep"]), tuple(ops))
        case "close":
            return Close(number(_only(fields, "session")["session"], SESSION_LIMIT))
        case "purge":
            return Purge(PackRanges.from_json(_only(fields, "keys")["keys"]))
        case "part":
            fields = _only(fields, "id", "session", "digest", "counts", "metadata")
            tree = hexadecimal(fields["digest"], DIGEST_LENGTH), counts_from_json(fields["counts"]), metadata_from_json(fields["metadata"])
            return Part(text(fields["id"], 128), number(fields["session"], SESSION_LIMIT), *tree)
        case _:
            raise NeedsNewerError(f"a log entry says {word!r:.40}: this project needs a newer artifactmount")


def _op_to_json(op: Op) -> dict[str, Any]:
    match op:
        case PutVersion(n, base, digest, counts, metadata, packs, type_):
            fields: dict[str, Any] = {"n": n, "base": base, "digest": digest.hex(), "type": type_}
            fields |= {"counts": counts_to_json(counts), "metadata": metadata_to_json(metadata), "packs": packs.to_json()}
            return {"put_version": fields}
        case ReplaceRun(n, base, counts, metadata, packs):
            fields = {"n": n, "base": base, "counts": counts_to_json(counts), "metadata": metadata_to_json(metadata)}
            return {"replace_run": fields | {"packs": packs.to_json()}}
        case DeleteVersion(n):
            return {"delete_version": {"n": n}}
        case Move(moves):
            return {"move": {"packs": moves_to_json(moves)}}
        case SetAlias(name, n):
            return {"set_alias": {"name": name, "n": n}}
        case RemoveAlias(name):
            return {"remove_alias": {"name": name}}
        case Describe(n, metadata):
            return {"describe": {"n": n, "metadata": metadata_to_json(metadata)}}
        case DeleteArtifact():
            return {"delete_artifact": {}}
        case EndParts(id_, sessions, n):
            return {"end_parts": {"id": id_, "sessions": list(sessions), "n": n}}


def _op_from_json(value: Any) -> Op:
    word, fields = _tagged(value)
    match word:
        case "put_version":
            fields = _only(fields, "n", "base", "digest", "type", "counts", "metadata", "packs")
            return PutVersion(
                number(fields["n"]),
                _base(fields["base"]),
                hexadecimal(fields["digest"], DIGEST_LENGTH),
                counts_from_json(fields["counts"]),
                metadata_from_json(fields["metadata"]),
                PackRanges.from_json(fields["packs"]),
                text(fields["type"], 128),
            )
        case "replace_run":
            fields = _only(fields, "n", "base", "counts", "metadata", "packs")
            metadata, packs = metadata_from_json(fields["metadata"]), PackRanges.from_json(fields["packs"])
            return ReplaceRun(number(fields["n"]), _base(fields["base"]), counts_from_json(fields["counts"]), metadata, packs)
        case "delete_version":
            return DeleteVersion(number(_only(fields, "n")["n"]))
        case "move":
            return Move(moves_from_json(_only(fields, "packs")["packs"]))
        case "set_alias":
            fields = _only(fields, "name", "n")
            return SetAlias(text(fields["name"], 128), number(fields["n"]))
        case "remove_alias":
            return RemoveAlias(text(_only(fields, "name")["name"], 128))
        case "describe":
            fields = _only(fields, "n", "metadata")
            return Describe(number(fields["n"]), metadata_from_json(fields["metadata"]))
        case "delete_artifact":
            _only(fields)
            return DeleteArtifact()
        case "end_parts":
            fields = _only(fields, "id", "sessions", "n")
            sessions = fields["sessions"]
            if not isinstance(sessions, list) or not 0 < len(sessions) <= PARTS_LIMIT:
                raise CorruptError(f"the parts that end are not a list of 1 to {PARTS_LIMIT}")
            sessions = tuple(number(session, SESSION_LIMIT) for session in sessions)
            return EndParts(text(fields["id"], 128), sessions, _base(fields["n"]))
        case _:
            raise NeedsNewerError(f"a log entry says {word!r:.40}: this project needs a newer artifactmount")


class _Tree(Protocol):
    @property
    def digest(self) -> bytes: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def metadata(self) -> Metadata: ...


def tree_to_json(part: _Tree) -> dict[str, Any]:
    """What a part holds, as JSON values."""
    return {"digest": part.digest.hex(), "counts": counts_to_json(part.counts), "metadata": metadata_to_json(part.metadata)}


def counts_to_json(counts: Counts) -> dict[str, int]:
    """As JSON values."""
    return {name: getattr(counts, name) for name in Counts.__slots__}


def counts_from_json(value: Any) -> Counts:
    """Raises CorruptError."""
    fields = _only(value, *Counts.__slots__)
    return Counts(**{name: number(fields[name], 1 << 64) for name in Counts.__slots__})


def metadata_to_json(metadata: Metadata) -> dict[str, Any]:
    """As JSON values."""
    full = None if metadata.full is None else metadata.full.hex()
    return {
        "packs": metadata.packs.to_json(),
        "run": metadata.run.hex(),
        "run_length": metadata.run_length,
        "full": full,
        "full_length": metadata.full_length,
    }


def metadata_from_json(value: Any) -> Metadata:
    """Raises CorruptError."""
    fields = _only(value, "packs", "run", "run_length", "full", "full_length")
    full = None if fields["full"] is None else hexadecimal(fields["full"], DIGEST_LENGTH)
    metadata = Metadata(
        PackRanges.from_json(fields["packs"]),
        hexadecimal(fields["run"], DIGEST_LENGTH),
        number(fields["run_length"]),
        full,
        number(fields["full_length"]),
    )
    if not metadata.packs or (full is None) != (metadata.full_length == 0):
        raise CorruptError("the metadata of a version contradicts itself")
    return metadata


def moves_to_json(moves: tuple[tuple[PackId, PackId], ...]) -> list[list[int]]:
    """[[session, first, last, new session, new first], …]: runs of packs that moved together, in order of the old ones."""
    ranges: list[list[int]] = []
    for old, new in sorted(moves):
        if ranges:
            session, first, last, new_session, new_first = ranges[-1]
            if (old.session, old.number) == (session, last + 1) and (new.session, new.number) == (
                new_session,
                new_first + last + 1 - first,
            ):
                ranges[-1][2] += 1
                continue
        ranges.append([old.session, old.number, old.number, new.session, new.number])
    return ranges


def moves_from_json(value: Any) -> tuple[tuple[PackId, PackId], ...]:
    """Raises CorruptError when it is not what `moves_to_json` writes."""
    if not isinstance(value, list):
        raise CorruptError("moves of packs are not a list")
    total, before = 0, None
    for item in value:
        if not (isinstance(item, list) and len(item) == 5 and all(type(part) is int and part >= 0 for part in item)):
            raise CorruptError(f"not a move of packs: {item!r:.80}")
        session, first, last, new_session, new_first = item
        if max(session, new_session) >= SESSION_LIMIT or not first <= last < NUMBER_LIMIT or new_first + last - first >= NUMBER_LIMIT:
            raise CorruptError(f"a move of packs out of bounds: {item!r}")
        total += last - first + 1
        if total > MOVE_LIMIT:  # asked before any is made: 20 bytes could name 10^8 packs
            raise CorruptError(f"moves of more than {MOVE_LIMIT} packs")
        # Looked at as ranges: made into packs and back, a few bytes that name a million took three times as long.
        if before is not None and (_overlap(before, item) or _go_on(before, item)):
            raise CorruptError("moves of packs are not in their one form")
        before = item
    moves: list[tuple[PackId, PackId]] = []
    for session, first, last, new_session, new_first in value:
        old = map(PackId, repeat(session), range(first, last + 1))
        moves += zip(old, map(PackId, repeat(new_session), count(new_first)), strict=False)
    return tuple(moves)


def _overlap(before: list[int], item: list[int]) -> bool:
    """Whether the old packs of two ranges are not in order."""
    return (item[0], item[1]) <= (before[0], before[2])


def _go_on(before: list[int], item: list[int]) -> bool:
    """Whether two ranges should have been one."""
    session, first, last, new_session, new_first = before
    return (item[0], item[1], item[3], item[4]) == (session, last + 1, new_session, new_first + last + 1 - first)


# -- strict fields ---------------------------------------------------------------------------------------------------------------------
def _tagged(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict) or len(value) != 1:
        raise CorruptError("an act or op is not one word with its fields")
    ((word, fields),) = value.items()
    return word, fields


def _only(value: Any, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise CorruptError(f"expected the fields {', '.join(sorted(names)) or 'none'}")
    return value


def number(value: Any, limit: int = NUMBER_MAX) -> int:
    """A whole number from 0 to below the limit. Raises CorruptError."""
    if type(value) is not int or not 0 <= value < limit:
        raise CorruptError(f"not a number that may stand here: {value!r:.40}")
    return value


def text(value: Any, limit: int = TEXT_LIMIT) -> str:
    """A text of bounded length. Raises CorruptError."""
    if not isinstance(value, str) or len(value) > limit:
        raise CorruptError(f"not a text that may stand here: {value!r:.40}")
    return value


def _base(value: Any) -> int | None:
    return None if value is None else number(value)


def hexadecimal(value: Any, length: int) -> bytes:
    """Exactly that many bytes. Raises CorruptError."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != length or found.hex() != value:
        raise CorruptError(f"not {length} bytes in hexadecimal: {value!r:.80}")
    return found
