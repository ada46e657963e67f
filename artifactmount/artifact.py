"""One artifact of a project: where its keys lie, how its log is read, and the one way anything in it is changed: `append`.

Everything here is a generator of steps (see `steps`), so a simulator can run it. This module must not know files, caches or mounts.
The protocol is described in docs/protocol.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from blake3 import blake3

from artifactmount.acts import Act, Commit, Part, Purge, needs_of
from artifactmount.crypto import PLAIN, RECORD_AROUND, Cipher, Record
from artifactmount.document import moment
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    DeniedError,
    KeyMissingError,
    NotSentError,
    OutcomeUnknownError,
    ProjectMismatchError,
    RefusedError,
    StoreError,
    StoreFullError,
)
from artifactmount.fold import fold
from artifactmount.log import (
    CHECKPOINT_EVERY,
    CHECKPOINT_LIMIT,
    ENTRY_LIMIT,
    Entry,
    decode_checkpoint,
    decode_entry,
    encode_checkpoint,
    encode_entry,
    entry_digest,
    needs_checkpoint,
)
from artifactmount.loss import describe_loss
from artifactmount.ranges import SESSION_LIMIT, PackId, PackRanges
from artifactmount.state import State, genesis
from artifactmount.steps import Create, Delete, Get, GetMany, ListKeys, Local, Pause, Steps
from artifactmount.store import Listed

_log = logging.getLogger(__name__)

#: What is read of an entry or checkpoint at most: a byte too many is enough to see that there were more.
STORED_ENTRY_LIMIT = ENTRY_LIMIT + RECORD_AROUND + 1
STORED_CHECKPOINT_LIMIT = CHECKPOINT_LIMIT + RECORD_AROUND + 1
_AHEAD = 16  # entries asked for at once when far behind
_ATTEMPTS = 6  # of one commit; with the pauses below about 6 s, beyond the connection's own time-outs
_FIRST_PAUSE = 0.1
_TRASH_AT_ONCE = 10_000  # an entry can name a hundred million packs in a few bytes
_TRASH_ROUNDS = 100


def _nonce() -> bytes:
    return os.urandom(16)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes. `actor` and the time are claims: they are shown, and decide nothing."""

    actor: str
    tool: str
    now: Callable[[], str] = field(default=moment)
    nonce: Callable[[], bytes] = field(default=_nonce)
    prepare: Callable[[], None] = field(default=_nothing)  # before the first write: is this store one that keeps its promises?


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append` did: the state after it, and the entry that took effect (None: there was nothing to do)."""

    state: State
    entry: Entry | None


Make = Callable[[State], Steps[Act | None]]
"""Decides, on a state, what to append. It is asked again on every newer state, so the whole decision MUST be in it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The name of one artifact in one project, and the cipher of what it stores."""

    project_id: str
    name: str
    cipher: Cipher = field(default=PLAIN, compare=False, repr=False)

    @property
    def prefix(self) -> str:
        """What all its keys begin with."""
        return f"artifacts/{self.name}/"

    def log_key(self, seq: int) -> str:
        """The slot of one log entry."""
        return f"{self.prefix}log/{seq:016d}"

    def checkpoint_key(self, seq: int) -> str:
        """The checkpoint of the log folded up to `seq`."""
        return f"{self.prefix}state/{seq:016d}"

    def session_prefix(self, session: int) -> str:
        """What the keys of one session's packs begin with."""
        return f"{self.prefix}data/{session:016d}/"

    def pack_key(self, pack: PackId) -> str:
        """The key of a pack."""
        return f"{self.session_prefix(pack.session)}{pack.number:08d}"

    def pack_of(self, key: str) -> PackId | None:
        """The pack of a key; None when it is no pack's."""
        session, _, number = key.removeprefix(f"{self.prefix}data/").partition("/")
        if not (session.isdecimal() and number.isdecimal()) or self.pack_key(PackId(int(session), int(number))) != key:
            return None
        return PackId(int(session), int(number))

    def lost(self, state: State, missing: KeyMissingError) -> CorruptError:
        """The error of a key that is missing although the newest state, `state`, names it."""
        pack = self.pack_of(missing.key)
        return CorruptError(f"{self.name}: {missing}" if pack is None else describe_loss(self.name, state, pack, missing.key))

    def empty(self) -> State:
        """The state before the first entry."""
        return State.empty(genesis(self.project_id, self.name))

    def encode_entry(self, entry: Entry) -> bytes:
        """An entry as it is stored: for the one slot it says. Raises UsageError for what no reader would accept."""
        return self.cipher.record(Record.ENTRY, entry.seq, encode_entry(entry))

    def decode_entry(self, data: bytes, seq: int) -> Entry:
        """The entry that is stored in slot `seq`. Raises CorruptError, NeedsNewerError."""
        return decode_entry(self.cipher.open_record(Record.ENTRY, seq, data), seq)

    def open_checkpoint(self, data: bytes, seq: int) -> bytes:
        """The bytes of the checkpoint of the log up to `seq`, from what is stored. Raises CorruptError."""
        return self.cipher.open_record(Record.CHECKPOINT, seq, data)

    def apply(self, state: State, data: bytes) -> tuple[State, str | None]:
        """The state after the entry `data` in the slot behind `state`, and why the entry was refused, if it was.

        Raises CorruptError when it is no entry or does not continue this history; NeedsNewerError when it cannot be understood.
        """
        entry = self.decode_entry(data, state.seq + 1)
        if entry.prev != state.digest:
            raise CorruptError(f"the log of {self.name} is broken: entry {entry.seq} does not follow entry {state.seq}")
        state, refusal = fold(state, entry, entry_digest(data))
        if refusal is not None:
            _log.warning("%s: entry %d by %s has no effect: %s", self.name, entry.seq, entry.actor, refusal)
        return state, refusal


def _entries(artifact: Artifact, seqs: Iterable[int]) -> GetMany:
    return GetMany(tuple(artifact.log_key(seq) for seq in seqs), STORED_ENTRY_LIMIT)


def head(artifact: Artifact, state: State | None = None, *, prove: bool = False) -> Steps[State]:
    """The newest state. From a known state it reads the entries after it; from nothing, the newest proven checkpoint and the rest.

    One request when there is nothing new. `prove`: for a state of another process (from the cache, say), a second one beside it shows that
    its last entry is still there. Without, an entry written behind a log that was cut short would never be read by anyone.
    Raises ProjectMismatchError when it is not.
    """
    state = artifact.empty() if state is None else state
    prove, far_behind, ahead = prove and state.seq >= 0, state.seq < 0, 1
    while True:
        entries = yield _entries(artifact, range(state.seq + 1 - prove, state.seq + 1 + ahead))
        if prove:
            last, entries, prove = entries[0], entries[1:], False
            if last is None or entry_digest(last) != state.digest:
                raise ProjectMismatchError(f"the history of {artifact.name} is not the one this machine saw (entry {state.seq}): refused")
        if far_behind and len(entries) == _AHEAD and None not in entries:
            far_behind, start = False, (yield from _start(artifact))
            if start.seq > state.seq:
                state = start
                continue
        for data in entries:
            if data is None:
                return state
            state, _ = artifact.apply(state, data)
        # A snapshot is two entries: who hears of it asks for 3 keys, not for 17, and of ten thousand mounts each hears of it.
        ahead = _AHEAD if far_behind else min(2 * ahead, _AHEAD)


def _start(artifact: Artifact) -> Steps[State]:
    """The state of the newest checkpoint that its entry proves, or the empty one. Checkpoints are derived: a bad one costs time only."""
    low, high = 0, 0
    while not high:  # entries 64, 128, 256 … are there or not: the log is dense
        if low * CHECKPOINT_EVERY >= SESSION_LIMIT >> _AHEAD:
            raise CorruptError(f"the log of {artifact.name} has no end: the store has an answer to everything")
        probes = [max(low, 1) << i for i in range(_AHEAD)]
        found = yield _entries(artifact, (k * CHECKPOINT_EVERY for k in probes))
        there = [k for k, data in zip(probes, found, strict=True) if data is not None]
        low = max(there, default=0)
        if len(there) < len(probes):
            high = min(k for k in probes if k > low)
    while high - low > 1:
        probes = sorted({low + (high - low) * i // (_AHEAD + 1) for i in range(1, _AHEAD + 1)} - {low})
        found = yield _entries(artifact, (k * CHECKPOINT_EVERY for k in probes))
        low = max((k for k, data in zip(probes, found, strict=True) if data is not None), default=low)
        high = min((k for k, data in zip(probes, found, strict=True) if data is None and k > low), default=high)
    for k in range(low, max(low - 3, 0), -1):
        state = yield from checkpoint_before(artifact, k * CHECKPOINT_EVERY)
        if state is not None:
            return state
    return artifact.empty()


def checkpoint_before(artifact: Artifact, seq: int) -> Steps[State | None]:
    """The state before entry `seq`, a multiple of 64, from its checkpoint; None when that is missing or not the one the entry proves."""
    entry_bytes, stored = yield GetMany((artifact.log_key(seq), artifact.checkpoint_key(seq - 1)), STORED_CHECKPOINT_LIMIT)
    if entry_bytes is None or stored is None:
        return None
    entry = artifact.decode_entry(entry_bytes, seq)
    try:
        checkpoint = artifact.open_checkpoint(stored, seq - 1)
    except CorruptError:
        checkpoint = b""
    if entry.checkpoint != blake3(checkpoint).digest():
        _log.warning("%s: the checkpoint before entry %d is not the one it proves; reading the log instead", artifact.name, seq)
        return None
    state = decode_checkpoint(checkpoint)
    if state.seq != seq - 1 or state.digest != entry.prev:
        return None
    return state


def read_entries(artifact: Artifact, start: int, stop: int) -> Steps[list[bytes | None]]:
    """The bytes of the entries [start, stop), None where there is none."""
    found: list[bytes | None] = yield _entries(artifact, range(start, stop))
    return found


def continues(artifact: Artifact, state: State, seq: int, digest: bytes) -> Steps[bool]:
    """Whether a state's history has this entry. Every one since is read, as only the chain proves it: a store that answers for this one
    slot from another history than for all others must not be believed."""
    for start in range(seq, state.seq + 1, _AHEAD):
        for at, data in enumerate((yield _entries(artifact, range(start, min(start + _AHEAD, state.seq + 1)))), start):
            if data is None or (entry_digest(data) if at == seq else artifact.decode_entry(data, at).prev) != digest:
                return False
            digest = entry_digest(data)
    return seq <= state.seq and digest == state.digest


def check_end(artifact: Artifact, state: State) -> Steps[None]:
    """That the log ends where it seems to. Raises CorruptError.

    An entry that is lost (of a backup that was put back in part, say) looks like the end to who reads from the front. Another one in its
    slot would part the history for good. So one listing before a first write looks further.
    """
    after = artifact.log_key(state.seq) if state.seq >= 0 else f"{artifact.prefix}log/"
    page: list[Listed] = yield ListKeys(f"{artifact.prefix}log/", after)
    numbers = (int(end) for item in page if (end := item.key[-16:]).isdecimal() and artifact.log_key(int(end)) == item.key)
    later = min((seq for seq in numbers if seq > state.seq), default=None)
    if later is None or later == state.seq + 1:
        return
    try:
        yield Get(artifact.log_key(state.seq + 1), STORED_ENTRY_LIMIT)  # written a moment ago, and not in the listing yet
    except KeyMissingError:
        raise CorruptError(
            f"{artifact.name}: log entry {state.seq + 1} is missing, and later ones are there ({later}): put it back, from a backup or the "
            f"bucket's own versions, before anything is written; `artifactmount verify {artifact.name}` tells more"
        ) from None


def append(artifact: Artifact, state: State, make: Make, writer: Writer) -> Steps[Appended]:
    """Change the artifact: make an act on the newest state, put it in the next slot, and make it again when the slot was taken.

    Raises OutcomeUnknownError when the entry was sent and neither its success nor its failure could be seen: then nothing may be cleaned
    up. Any other error means that nothing was committed.
    """
    looked = False
    while True:
        try:
            act = yield from make(state)
        except KeyMissingError as missing:
            # A run or pack that the state names is gone: somebody deleted or moved it, and a newer head says so; or it is lost.
            newer = yield from head(artifact, state)
            if newer.seq == state.seq:
                raise artifact.lost(state, missing) from missing
            state = newer
            continue
        if act is None:
            return Appended(state, None)
        if not looked and not (isinstance(act, Commit | Part) and act.session is not None):  # who has a session looked when he opened it
            looked = True
            yield from check_end(artifact, state)
        yield Local(writer.prepare)
        entry = Entry(state.seq + 1, state.digest, writer.nonce(), writer.now(), writer.actor, writer.tool, act, needs_of(act))
        if needs_checkpoint(entry.seq):
            entry = yield from _with_checkpoint(artifact, state, entry)
        data = artifact.encode_entry(entry)
        winner = yield from _claim(artifact, entry.seq, data)
        state, refusal = artifact.apply(state, winner)
        if winner == data:
            if refusal is not None:
                raise RefusedError(f"{artifact.name}: {refusal}")
            return Appended(state, entry)
        state = yield from head(artifact, state)


def _with_checkpoint(artifact: Artifact, state: State, entry: Entry) -> Steps[Entry]:
    checkpoint = encode_checkpoint(state)
    with suppress(StoreError):  # without it, or with other bytes in its place, readers take an older one: that costs time only
        yield from put(artifact.checkpoint_key(state.seq), artifact.cipher.record(Record.CHECKPOINT, state.seq, checkpoint))
    return Entry(
        entry.seq,
        entry.prev,
        entry.nonce,
        entry.time,
        entry.actor,
        entry.tool,
        entry.act,
        entry.needs,
        checkpoint=blake3(checkpoint).digest(),
    )


def _claim(artifact: Artifact, seq: int, data: bytes) -> Steps[bytes]:
    """Put an entry in its slot; returns what is in the slot then.

    No answer but "created" is believed. After any other the slot is read: these bytes, another writer's, or empty; then the same bytes are
    sent again, so that a first attempt that arrives late does no harm. Taking an unknown outcome for a failure, and deleting the files of
    that commit, is the most repeated data loss of this architecture (apache/iceberg#3717, duckdb/duckdb-iceberg#1120).
    """
    key, sent, pause = artifact.log_key(seq), False, _FIRST_PAUSE
    failure: StoreError | None = None
    for _ in range(_ATTEMPTS):
        try:
            if (yield Create(key, data)):
                return data
            sent = True
        except NotSentError as error:
            failure = error
            if isinstance(error, DeniedError | StoreFullError) and not sent:
                raise
        except StoreError as error:
            failure, sent = error, True
        try:
            slot: bytes = yield Get(key, STORED_ENTRY_LIMIT)
            return slot
        except KeyMissingError:
            pass
        except StoreError as error:
            failure = error
        yield Pause(pause)
        pause *= 2
    if not sent and failure is not None:
        raise failure
    raise OutcomeUnknownError(
        f"{artifact.name}: entry {seq} was sent, but the store did not say whether it took effect ({failure}); "
        f"nothing was cleaned up; look with `artifactmount log {artifact.name}` and run the command again"
    )


def put(key: str, data: bytes) -> Steps[bool]:
    """Store bytes under a key of one's own. False: the key holds other bytes, take another. Raises StoreError after some tries."""
    pause = _FIRST_PAUSE
    for attempt in range(_ATTEMPTS):
        try:
            if (yield Create(key, data)):
                return True
            same: bool = (yield Get(key, len(data) + 1)) == data
            return same
        except (DeniedError, StoreFullError):
            raise  # waiting makes neither better
        except KeyMissingError as error:
            failure: StoreError = StoreError(f"{key} was refused as existing, and then was not there")
            failure.__cause__ = error
        except StoreError as error:
            failure = error
        if attempt < _ATTEMPTS - 1:
            yield Pause(pause)
            pause *= 2
    raise failure


def finish_trash(artifact: Artifact, state: State, writer: Writer) -> Steps[State]:
    """Delete what a commit left to be deleted, confirm it is gone, and say so in the log. Where this may not be done: later, by others."""
    trash = state.trash  # what others throw away meanwhile is theirs to finish
    for _ in range(_TRASH_ROUNDS):
        if not trash:
            break
        some = PackRanges.of(islice(trash, _TRASH_AT_ONCE))
        state = yield from _finish_some(artifact, state, some, writer)
        trash = trash - some
    return state


def _finish_some(artifact: Artifact, state: State, packs: PackRanges, writer: Writer) -> Steps[State]:
    try:
        yield Delete(tuple(artifact.pack_key(pack) for pack in packs))
        left: set[str] = set()
        for session in sorted({pack.session for pack in packs}):
            left |= yield from session_keys(artifact, session)
        gone = PackRanges.of(pack for pack in packs if artifact.pack_key(pack) not in left)

        def purge(newest: State) -> Steps[Act | None]:
            yield from ()
            rest = PackRanges.of(pack for pack in gone if pack in newest.trash)
            return Purge(rest) if rest else None

        return (yield from append(artifact, state, purge, writer)).state
    except ArtifactError as error:  # the purge's outcome may be unknown: said again, it does no harm, and what came before it stands
        _log.info("%s: the trash was left for later: %s", artifact.name, error)
        return state


def session_keys(artifact: Artifact, session: int) -> Steps[set[str]]:
    """The keys that a session's prefix holds now."""
    prefix, after, keys = artifact.session_prefix(session), "", set[str]()
    while True:
        page = yield ListKeys(prefix, after)
        keys |= {item.key for item in page}
        if len(page) < 1000 or page[-1].key <= after:
            return keys
        after = page[-1].key
