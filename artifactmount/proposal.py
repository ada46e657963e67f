"""A tree that is to become the next version of an artifact: decided on a state, and again on every newer one, until an entry says so.

Shared by whatever makes versions: a folder's snapshot, references that are added, references that become content. Places of chunks,
packs, the version's metadata, equal versions, aliases and cards are dealt with here. Must not know where the tree comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat, zip_longest
from itertools import compress as select
from typing import Any, Protocol

from blake3 import blake3

from artifactmount.acts import (
    PART_IDS_LIMIT,
    PARTS_LIMIT,
    Act,
    Close,
    Commit,
    Counts,
    Describe,
    EndParts,
    Metadata,
    Op,
    Part,
    PutVersion,
    SetAlias,
)
from artifactmount.artifact import Artifact, Make, Writer, append, finish_trash
from artifactmount.cache.places import PlaceIndex
from artifactmount.card import Card, Labels, check_labels, check_metadata
from artifactmount.catalog import Catalog
from artifactmount.ending import Ending
from artifactmount.errors import NotFoundError, RefusedError
from artifactmount.manifest import MISSING, Table
from artifactmount.merge import diff, merge
from artifactmount.names import check_alias
from artifactmount.pack import Place
from artifactmount.packer import Packer
from artifactmount.ranges import PackId, PackRanges
from artifactmount.rows import Kind
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.session import Session
from artifactmount.state import LATEST, State, Version
from artifactmount.steps import Local, Steps

#: When a whole manifest is stored beside the delta (design: the chain to read stays short, at a bounded share of the bytes).
_FULL_BYTES = 1 << 20
_FULL_CHAIN = 64
_FILE_MODES = bytes(1 if mode & 3 in (Kind.FILE, Kind.REFERENCE) else 0 for mode in range(256))


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks of a new version. None leaves what an unchanged version has of it; `ttl` in seconds, 0 for ever (see `card.Labels`).
    `latest`: whether this alias moves to an unchanged version (to a new one it always does)."""

    aliases: tuple[str, ...] = ()
    note: str | None = None
    type: str | None = None
    metadata: dict[str, Any] | None = None
    tags: tuple[str, ...] | None = None
    ttl: int | None = None
    md5: str | None = None
    latest: bool = True

    def check(self) -> None:
        """Raises UsageError: now, or it would after everything was uploaded."""
        for alias in self.aliases:
            check_alias(alias)
        check_metadata(self.metadata or {})
        check_labels(self.tags or (), self.ttl or 0)
        self.card(Card()).encode()

    @property
    def describes(self) -> bool:
        """Whether it may change the card of an unchanged version."""
        return any(asked is not None for asked in (self.note, self.metadata, self.tags, self.ttl, self.md5))

    def card(self, old: Card) -> Card:
        """The card of a version that had this one."""
        labels = old.labels
        return Card(
            old.note if self.note is None else self.note,
            old.metadata if self.metadata is None else self.metadata,
            Labels(
                labels.tags if self.tags is None else self.tags,
                labels.ttl if self.ttl is None else self.ttl or None,
                labels.md5 if self.md5 is None else self.md5,
            ),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it. Counts are rows; `adds` and `tracks` are plain bytes; `changed` is False when an equal version was found.

    `ignored`: how many entries of a folder were left out, as its `.artifactignore` says."""

    artifact: str
    version: int
    changed: bool
    added: int
    modified: int
    removed: int
    adds: int
    tracks: int
    aliases: tuple[str, ...]
    ignored: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """A part that waits: its number (its session), or that of an equal one that was there (`changed` is False). Where the id is a version
    already, and that has all of the part: `version`, and no number. `tracks` and `adds` are plain bytes; `parts`: how many the id has now.
    `ignored`: as of Result."""

    artifact: str
    id: str
    part: int | None
    changed: bool
    files: int
    tracks: int
    adds: int
    parts: int
    version: int | None = None
    ignored: int = 0


class Tree(Protocol):
    """What is proposed."""

    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """The tree as it would be on this state, and what that changes against the highest version."""
        ...

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """Hand these chunks of the builder's rows to the packer (again): nobody else holds them any more."""
        ...


class Gift(Protocol):
    """What other sessions hold of what is proposed, and may be kept with it as it is: they end with the entry."""

    @property
    def sessions(self) -> frozenset[int]:
        """Those sessions."""
        ...

    def places(self, builder: RunBuilder) -> list[Place | None]:
        """Of each chunk of the builder's rows, in their order, its place in a pack that the rows name whole; None where it is in none."""
        ...

    def end(self, number: int) -> Op:
        """What the entry says of them: they became this version."""
        ...


@dataclass(frozen=True, slots=True)
class _Stored:
    """A version to be, but for its number: where its run lies, the packs that this names, and what it counts."""

    metadata: Metadata
    named: PackRanges
    counts: Counts


def live(state: State) -> object:
    """Where the content of the live versions lies: in states of which this is equal, a delta and its places are the same."""
    return [(n, version.metadata.run, version.metadata.full) for n, version in state.versions.items()], state.moved


class Proposal:
    """One tree under way, in one session."""

    def __init__(
        self,
        artifact: Artifact,
        catalog: Catalog,
        writer: Writer,
        options: Options,
        session: Session,
        packer: Packer,
        tree: Tree,
        gift: Gift | None = None,
    ) -> None:
        self._artifact, self._catalog, self._writer, self._options = artifact, catalog, writer, options
        self._session, self._packer, self._tree, self._gift = session, packer, tree, gift
        self._places: PlaceIndex | None = None
        self._kept: frozenset[PackId] = frozenset()
        self._stored: tuple[RunBuilder, object, _Stored] | None = None
        self._within = False  # a part's id is a version already

    def look(self, state: State) -> Steps[None]:
        """Take over a state before anything is uploaded: what its versions hold is known from now on."""
        self._session.state = state
        self._places = yield Local(lambda: self._catalog.places(state))

    def known(self, digest: bytes) -> bool:
        """Whether a chunk need not be read for its bytes: it is packed here, or a live version has it."""
        return digest in self._packer or (self._places is not None and self._places.find(digest) is not None)

    def commit(self) -> Steps[tuple[State, Result]]:
        """Make it the next version, or find it equal to a live one: the state after it, and what was done."""
        return (yield from self._append(self._make))

    def adopt(self, number: int) -> Steps[tuple[State, Result]]:
        """Do to a version that there is what is asked of a new one: its aliases, its card. `latest` stays: newer ones may be there."""
        return (yield from self._append(partial(self._make_adopted, number)))

    def _append(self, make: Make) -> Steps[tuple[State, Result]]:
        appended = yield from append(self._artifact, self._session.state, make, self._writer)
        self._session.state = appended.state
        yield from self._session.delete_leftovers(self._packer.used, self._kept)
        state = yield from finish_trash(self._artifact, appended.state, self._writer)
        return state, self._result(state)

    def join(self, id_: str) -> Steps[tuple[State, Joined]]:
        """Let it wait as a part of a version, or find it equal to one that waits, or in the version that the id is already: the state after
        it, and what was done. The tree MUST be proposed against nothing."""
        make = partial(self._make_part, id_, Ending(self._artifact, id_))
        appended = yield from append(self._artifact, self._session.state, make, self._writer)
        state = self._session.state = appended.state
        yield from self._session.delete_leftovers(self._packer.used, ())
        number, changed, counts = self._outcome
        shown = None if self._within else number, changed, counts.files, counts.bytes, counts.adds, len(state.parts.get(id_, ()))
        return state, Joined(self._artifact.name, id_, *shown, number if self._within else None)

    def _make_part(self, id_: str, ending: Ending, state: State) -> Steps[Act | None]:
        self._session.check(state)
        table, builder = yield from self._tree.on(state)
        parts = state.parts.get(id_, ())
        end = None if parts else (yield from ending.of(state))
        self._within = end is not None and end.n is not None
        if end is not None and end.n is not None:
            yield from self._check_within(state, end, end.n, table)
            self._outcome = (end.n, False, self._count(table, as_run(builder)))
            return None if self._session.id is None else Close(self._session.id)
        twin = next((part for part in parts if part.digest == table.root and part.session in state.open), None)
        if twin is not None:
            self._outcome = (twin.session, False, twin.counts)
            return None if self._session.id is None else Close(self._session.id)
        if len(parts) == PARTS_LIMIT or (not parts and len(state.parts) == PART_IDS_LIMIT):
            raise RefusedError(
                f"{self._artifact.name}: {id_} has {PARTS_LIMIT} parts, and no id may have more"
                if parts
                else f"{self._artifact.name}: {PART_IDS_LIMIT} ids wait to be finished; finish or drop some first (`artifactmount log`)"
            )
        self._places = yield Local(lambda: self._catalog.places(state))
        delta = builder.finish((yield from self._place_all(builder)))
        metadata = yield from self._packer.store_metadata(Card().encode(), delta, b"")
        counts = self._count(table, Run(delta, metadata.run, check=False))
        assert self._session.id is not None  # its run was stored
        self._outcome = (self._session.id, True, counts)
        return Part(id_, self._session.id, table.root, counts, metadata)

    def _check_within(self, state: State, end: EndParts, number: int, table: Table) -> Steps[None]:
        """That a part whose id is a version already is all in it, as of a writer that is run again. Raises RefusedError.

        Another one would begin a version of itself alone, to which `latest` moves: whoever reads that misses all others.
        """
        became = f"{self._artifact.name}: {end.id} became {self._artifact.name}:v{number}"
        if number not in state.versions:
            raise RefusedError(f"{became}, which was deleted since; nothing was stored; take another id")
        whole: Table = yield Local(lambda: self._catalog.table(state, number))
        within: bool = yield Local(lambda: all(row == MISSING for *_, row in diff(whole, table)))
        if not within:
            raise RefusedError(f"{became}, and this part is not in it; nothing was stored; take another id")

    # -- the decision, on every state that a slot was lost to ------------------------------------------------------------------------
    def _check_type(self, state: State) -> None:
        if self._options.type is not None and state.type is not None and state.type != self._options.type:
            raise RefusedError(f"{self._artifact.name} is of type {state.type!r}, not {self._options.type!r}; a name has one type")

    def _make(self, state: State) -> Steps[Act | None]:
        self._session.check(state)
        self._check_type(state)
        table, builder = yield from self._tree.on(state)
        twins = [version for version in state.versions.values() if version.digest == table.root]
        if twins:
            latest = (LATEST,) if self._options.latest else ()
            return (yield from self._equal_to(state, twins[-1], (*latest, *self._options.aliases)))
        stored = yield from self._store(state, table, builder)
        number, aliases = state.next, (LATEST, *self._options.aliases)
        about = stored.counts, stored.metadata, stored.named, self._options.type or state.type or "dataset"
        put = PutVersion(number, state.highest, table.root, *about)
        ops: tuple[Op, ...] = (put, *(SetAlias(alias, number) for alias in aliases), *self._ends(number))
        self._outcome = (number, True, stored.counts)
        return self._entry(ops, [*stored.metadata.packs, *stored.named])

    def _store(self, state: State, table: Table, builder: RunBuilder) -> Steps[_Stored]:
        """Find a place for every chunk, and store the run that says so. Worked out once for the same rows and live runs: a slot that was
        lost to an entry which changes none of them costs nothing (of a million rows in 8 parts: half a minute, and the next slot)."""
        key = live(state)
        if self._stored is not None and self._stored[0] is builder and self._stored[1] == key:
            return self._stored[2]
        self._places = yield Local(lambda: self._catalog.places(state))
        delta = builder.finish((yield from self._place_all(builder)))
        full = yield from self._full_table(state, delta)
        card = self._options.card(Card())
        metadata = yield from self._packer.store_metadata(card.encode(), delta, full)
        run = Run(delta, metadata.run, check=False)
        stored = _Stored(metadata, PackRanges.of(run.packs), self._count(table, run))
        self._stored = builder, key, stored
        return stored

    def _own(self) -> frozenset[int | None]:
        """The sessions whose packs the entry keeps."""
        return frozenset((self._session.id,)) | (frozenset() if self._gift is None else self._gift.sessions)

    def _ends(self, number: int) -> tuple[Op, ...]:
        return () if self._gift is None else (self._gift.end(number),)

    def _entry(self, ops: tuple[Op, ...], packs: list[PackId]) -> Commit:
        own = self._own()
        self._kept = frozenset(pack for pack in packs if pack.session in own)
        return Commit(self._session.id, PackRanges.of(self._kept), ops)

    def _make_adopted(self, number: int, state: State) -> Steps[Act | None]:
        self._session.check(state)
        self._check_type(state)
        if number not in state.versions:
            raise NotFoundError(f"{self._artifact.name}:v{number} was deleted meanwhile")
        return (yield from self._equal_to(state, state.versions[number], self._options.aliases))

    def _equal_to(self, state: State, twin: Version, aliases: tuple[str, ...]) -> Steps[Act | None]:
        """No new version: the aliases move to the equal one; a new note or metadata is written to its card."""
        ops: list[Op] = [*(SetAlias(a, twin.n) for a in aliases if state.aliases.get(a) != twin.n), *self._ends(twin.n)]
        packs: list[PackId] = []
        self._outcome = (twin.n, False, twin.counts)
        if self._options.describes:
            old: Card = yield Local(lambda: self._catalog.card(twin))
            card = self._options.card(old)
            if card != old:
                delta = yield Local(lambda: bytes(self._catalog.run(twin).buffer))
                full = yield Local(lambda: bytes(self._catalog.full(twin).buffer)) if twin.metadata.full else Local(lambda: b"")
                metadata = yield from self._packer.store_metadata(card.encode(), delta, full)
                ops.append(Describe(twin.n, metadata))
                packs = list(metadata.packs)
        if ops:
            return self._entry(tuple(ops), packs)
        self._kept = frozenset()
        return None if self._session.id is None else Close(self._session.id)

    # -- places and packs ----------------------------------------------------------------------------------------------------------
    def _place_all(self, builder: RunBuilder) -> Steps[Callable[[bytes], Place]]:
        """See to it that every chunk has a live place, and every content pack that is kept is named whole.

        Returns what says where each chunk lies, asked for one after the other in the order of rows. A place in packs of other sessions is
        looked up once: another process may change the index between two questions.
        """
        assert self._places is not None
        given = [] if self._gift is None else self._gift.places(builder)
        while True:
            used = {digest for digest, place in zip_longest(builder.chunk_digests(), given) if place is None}
            self._packer.forget_partly_used(used)
            elsewhere = {digest: self._places.find(digest) for digest in used if digest not in self._packer}
            needed = {digest for digest, place in elsewhere.items() if place is None}
            if not needed and not given and not elsewhere:
                return self._packer.place
            if not needed:
                gifts = chain(given, repeat(None))
                return lambda digest: next(gifts) or elsewhere.get(digest) or self._packer.place(digest)
            yield from self._tree.upload(builder, needed)
            yield from self._packer.finish()

    def _full_table(self, state: State, delta: bytes) -> Steps[bytes]:
        """The bytes of a whole manifest to store beside the delta, where the chain of deltas has become long or heavy; else none."""
        if state.highest is None:
            return b""
        links = [state.versions[n].metadata for n in state.chain(state.highest)]
        start = links[0].full_length or links[0].run_length
        deltas = sum(link.run_length for link in links[1:]) + len(delta)
        if len(links) < _FULL_CHAIN and (deltas <= start // 2 or deltas <= _FULL_BYTES):
            return b""
        run = Run(delta, blake3(delta).digest(), check=False)
        full: bytes = yield Local(lambda: self._catalog.full_bytes(state, run))
        return full

    def _count(self, table: Table, run: Run) -> Counts:
        modes = bytes(table.modes)
        kinds = [modes.count(mode) for mode in range(8)]
        tracks = sum(select(table.sizes, modes.translate(_FILE_MODES)))
        own = self._own()
        # By place, as `sizes` counts: two parts may have stored one chunk each for itself.
        mine = [pack.session in own for pack in run.packs]
        new = {(pack, digest): plain for _, digest, pack, _, _, plain in run.places() if mine[pack]}
        changes = bytes(run.changes)
        return Counts(
            files=kinds[Kind.FILE] + kinds[Kind.FILE | 4],
            directories=kinds[Kind.DIRECTORY],
            symlinks=kinds[Kind.SYMLINK],
            references=kinds[Kind.REFERENCE] + kinds[Kind.REFERENCE | 4],
            bytes=tracks,
            added=changes.count(0),
            changed=changes.count(1),
            removed=changes.count(2),
            adds=sum(new.values()),
        )

    def _result(self, state: State) -> Result:
        number, changed, counts = self._outcome
        aliases = tuple(sorted(alias for alias, n in state.aliases.items() if n == number))
        shown = (counts.added, counts.changed, counts.removed, counts.adds) if changed else (0, 0, 0, 0)
        return Result(self._artifact.name, number, changed, *shown, counts.bytes, aliases)


def nothing() -> Table:
    """The tree of no rows."""
    return Table(memoryview(merge(None, [])), check=False)


def as_run(builder: RunBuilder) -> Run:
    """Rows as a run whose chunks lie nowhere: for tables, which ask for no places."""
    delta = builder.finish_without_places()
    return Run(delta, blake3(delta).digest(), check=False)


def changed_by(base: Table, builder: RunBuilder) -> Table:
    """The tree that rows make of a base. Raises CorruptError when that is no tree."""
    return Table(merge(base, [as_run(builder)]), check=False) if len(builder) else base
