"""A snapshot: a staging folder becomes the next version of an artifact, or is found equal to a live one.

The whole of it is a generator of steps. The order of writes makes a crash leave garbage, never a lie: content packs, then the version's
metadata packs, then one log entry that makes all of it live at once. Walked through in docs/protocol.md, "Snapshot".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import compress as select
from typing import Any

from blake3 import blake3

from artifactmount.acts import Act, Close, Commit, Counts, Describe, Op, PutVersion, SetAlias
from artifactmount.artifact import Artifact, Writer, append, finish_trash, head
from artifactmount.cache.places import PlaceIndex
from artifactmount.cache.stats import StatCache
from artifactmount.card import Card
from artifactmount.catalog import Catalog
from artifactmount.changes import Changes
from artifactmount.content import ContentReader
from artifactmount.errors import RefusedError, StagingError
from artifactmount.journal import Journal
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.names import check_alias
from artifactmount.pack import Place
from artifactmount.packer import Packer
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.ranges import PackId, PackRanges
from artifactmount.rows import Kind
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.scan import scan
from artifactmount.session import Session, complete
from artifactmount.staging import Listing, Staging
from artifactmount.state import LATEST, State, Version
from artifactmount.steps import Local, Steps, drive

#: When a whole manifest is stored beside the delta (design: the chain to read stays short, at a bounded share of the bytes).
_FULL_BYTES = 1 << 20
_FULL_CHAIN = 64
_NOWHERE = Place(PackId(0, 0), 0, 0, 0)
_FILE_MODES = bytes(1 if mode & 3 in (Kind.FILE, Kind.REFERENCE) else 0 for mode in range(256))


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks of a snapshot. `note` and `metadata`: None leaves an unchanged version's as they are."""

    aliases: tuple[str, ...] = ()
    note: str | None = None
    type: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a snapshot did. Counts are rows; `adds` and `tracks` are plain bytes; `changed` is False when an equal version was found."""

    artifact: str
    version: int
    changed: bool
    added: int
    modified: int
    removed: int
    adds: int
    tracks: int
    aliases: tuple[str, ...]


def take(project: Project, path: str, name: str, options: Options, progress: Progress | None = None) -> Result:
    """Snapshot the folder `path` into the artifact `name`.

    Raises StagingError (what cannot be versioned, or changed while read), RefusedError, StoreError; OutcomeUnknownError when the commit was
    sent and no answer came.
    """
    artifact = project.artifact(name)
    for alias in options.aliases:
        check_alias(alias)
    Card(options.note or "", options.metadata or {}).encode()  # refused now, or after everything was uploaded
    with Staging(path) as staging, StatCache(project.cache.path) as stats, project.journal(name, staging.key) as journal:
        _check_apart(staging.path, project)
        snapshot = Snapshot(artifact, project.catalog(name), staging, stats, options, project.writer, progress or Silent(), journal)
        try:
            state, result = drive(project.store, snapshot.steps(project.refresh(name)))
        finally:
            snapshot.close()
    project.remember(name, state)
    return result


def _check_apart(staging: str, project: Project) -> None:
    """A cache or project inside the folder would be a part of what it stores."""
    project.check_apart(staging)
    for what, path in (("cache", project.cache.path), ("project", getattr(project.store, "path", None))):
        if path is not None and os.path.commonpath((staging, os.path.realpath(path))) == staging:
            raise StagingError(f"the {what} folder {path} lies inside {staging}; keep it elsewhere (--{what})")


class Snapshot:
    """One snapshot under way."""

    def __init__(
        self,
        artifact: Artifact,
        catalog: Catalog,
        staging: Staging,
        stats: StatCache,
        options: Options,
        writer: Writer,
        progress: Progress,
        journal: Journal | None = None,
    ) -> None:
        self._artifact, self._catalog, self._staging, self._stats = artifact, catalog, staging, stats
        self._options, self._writer, self._progress, self._journal = options, writer, progress, journal
        self._reader = ContentReader(staging, self._known)
        self._places: PlaceIndex | None = None
        self.begin_anew(artifact.empty())

    def close(self) -> None:
        """Stop the threads."""
        self._reader.close()

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state, self._journal)
        self._packer = Packer(self._artifact, self.session)
        self._changes = Changes(self._staging, self._reader, self._packer, self._progress)
        self._kept: frozenset[PackId] = frozenset()

    def _known(self, digest: bytes) -> bool:
        return digest in self._packer or (self._places is not None and self._places.find(digest) is not None)

    # -- from head to commit -------------------------------------------------------------------------------------------------------
    def steps(self, known: State | None) -> Steps[tuple[State, Result]]:
        """The whole snapshot: the state after it, and what it did."""
        state = yield from head(self._artifact, known)
        if self.session.resume(state):
            self._packer.restore()
        return (yield from complete(self._artifact, self._writer, state, self))

    def attempt(self, state: State) -> Steps[tuple[State, Result]]:
        """See Work."""
        self.session.state = state
        base: Table = yield Local(lambda: self._catalog.newest(state))
        self._places = yield Local(lambda: self._catalog.places(state))
        clock = self._staging.clock()
        self._progress.begin("scanning", 0, 0)
        found = scan(self._staging, base, lambda key: self._stats.get(self._staging.key, key))
        listings = list(found.listings)
        self._progress.begin("snapshot", found.bytes, found.files)
        self._builder: RunBuilder = yield from self._changes.from_scan(found)
        yield from self._packer.finish()
        self._progress.end()
        self._remember_stats(listings, clock)
        self._base_number, self._table = state.highest, base
        if len(self._builder):
            delta = self._builder.finish(lambda _: _NOWHERE)  # the table asks for no places
            self._table = Table(merge(base, [Run(delta, blake3(delta).digest(), check=False)]), check=False)
        appended = yield from append(self._artifact, self.session.state, self._make, self._writer)
        self.session.state = appended.state
        yield from self.session.delete_leftovers(self._packer.used, self._kept)
        state = yield from finish_trash(self._artifact, appended.state, self._writer)
        return state, self._result(state)

    def _remember_stats(self, listings: list[Listing], clock: int) -> None:
        self._stats.put_many(self._staging.key, ((listing.key, listing.encode(clock)) for listing in listings))

    # -- the decision, on every state that a slot was lost to ------------------------------------------------------------------------
    def _make(self, state: State) -> Steps[Act | None]:
        self.session.check(state)
        if self._options.type is not None and state.type is not None and state.type != self._options.type:
            raise RefusedError(f"{self._artifact.name} is of type {state.type!r}, not {self._options.type!r}; a name has one type")
        twins = [version for version in state.versions.values() if version.digest == self._table.root]
        if twins:
            return (yield from self._equal_to(state, twins[-1]))
        builder = self._builder
        if state.highest != self._base_number:  # somebody committed meanwhile: the delta is made against theirs
            base: Table = yield Local(lambda: self._catalog.newest(state))
            builder = yield Local(lambda: self._changes.between(base, self._table))
        self._places = yield Local(lambda: self._catalog.places(state))
        elsewhere = yield from self._place_all(builder)
        delta = builder.finish(lambda digest: elsewhere.get(digest) or self._packer.place(digest))
        number, aliases = state.next, (LATEST, *self._options.aliases)
        full = yield from self._full_table(state, delta)
        card = Card(self._options.note or "", self._options.metadata or {})
        metadata = yield from self._packer.store_metadata(card.encode(), delta, full)
        run = Run(delta, metadata.run, check=False)
        named = PackRanges.of(run.packs)
        counts = self._count(run)
        put = PutVersion(number, state.highest, self._table.root, counts, metadata, named, self._options.type or state.type or "dataset")
        ops: tuple[Op, ...] = (put, *(SetAlias(alias, number) for alias in aliases))
        self._outcome = (number, True, counts)
        return self._commit(ops, [*metadata.packs, *named])

    def _commit(self, ops: tuple[Op, ...], packs: list[PackId]) -> Commit:
        self._kept = frozenset(pack for pack in packs if pack.session == self.session.id)
        return Commit(self.session.id, PackRanges.of(self._kept), ops)

    def _equal_to(self, state: State, twin: Version) -> Steps[Act | None]:
        """No new version: the aliases asked for, and `latest`, move to the equal one; a new note or metadata is written to its card."""
        ops: list[Op] = [SetAlias(a, twin.n) for a in (LATEST, *self._options.aliases) if state.aliases.get(a) != twin.n]
        packs: list[PackId] = []
        self._outcome = (twin.n, False, twin.counts)
        if self._options.note is not None or self._options.metadata is not None:
            old: Card = yield Local(lambda: self._catalog.card(twin))
            card = Card(
                old.note if self._options.note is None else self._options.note,
                old.metadata if self._options.metadata is None else self._options.metadata,
            )
            if card != old:
                delta = yield Local(lambda: bytes(self._catalog.run(twin).buffer))
                full = yield Local(lambda: bytes(self._catalog.full(twin).buffer)) if twin.metadata.full else Local(lambda: b"")
                metadata = yield from self._packer.store_metadata(card.encode(), delta, full)
                ops.append(Describe(twin.n, metadata))
                packs = list(metadata.packs)
        if ops:
            return self._commit(tuple(ops), packs)
        self._kept = frozenset()
        return None if self.session.id is None else Close(self.session.id)

    # -- places and packs ----------------------------------------------------------------------------------------------------------
    def _place_all(self, builder: RunBuilder) -> Steps[dict[bytes, Place]]:
        """See to it that every chunk has a live place, and every content pack that is kept is named whole.

        Returns the places in packs of other sessions. Each is asked for once: another process may change the index between two questions.
        """
        assert self._places is not None
        while True:
            used = set(builder.chunk_digests())
            self._packer.forget_partly_used(used)
            elsewhere = {digest: self._places.find(digest) for digest in used if digest not in self._packer}
            needed = {digest for digest, place in elsewhere.items() if place is None}
            if not needed:
                return {digest: place for digest, place in elsewhere.items() if place is not None}
            yield from self._changes.upload(builder, needed)
            yield from self._packer.finish()

    def _full_table(self, state: State, delta: bytes) -> Steps[bytes]:
        """The bytes of a whole manifest to store beside the delta, where the chain of deltas has become long or heavy; else none."""
        if state.highest is None:
            return b""
        chain = [state.versions[n].metadata for n in state.chain(state.highest)]
        start = chain[0].full_length or chain[0].run_length
        deltas = sum(link.run_length for link in chain[1:]) + len(delta)
        if len(chain) < _FULL_CHAIN and (deltas <= start // 2 or deltas <= _FULL_BYTES):
            return b""
        run = Run(delta, blake3(delta).digest(), check=False)
        full: bytes = yield Local(lambda: self._catalog.full_bytes(state, run))
        return full

    def _count(self, run: Run) -> Counts:
        modes = bytes(self._table.modes)
        kinds = [modes.count(mode) for mode in range(8)]
        tracks = sum(select(self._table.sizes, modes.translate(_FILE_MODES)))
        new = {chunk.digest: chunk.place.plain for chunk in run.all_chunks() if chunk.place.pack.session == self.session.id}
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
