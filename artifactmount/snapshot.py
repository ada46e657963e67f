"""A snapshot: a staging folder becomes the next version of an artifact, or is found equal to a live one.

The whole of it is a generator of steps. The order of writes makes a crash leave garbage, never a lie: content packs, then the version's
metadata packs, then one log entry that makes all of it live at once. Walked through in docs/protocol.md, "Snapshot".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.cache.stats import StatCache
from artifactmount.catalog import Catalog
from artifactmount.changes import Changes
from artifactmount.checkout import check_there
from artifactmount.content import ContentReader
from artifactmount.errors import ArtifactError, StagingError
from artifactmount.journal import Journal
from artifactmount.layer import Layer
from artifactmount.manifest import Table
from artifactmount.names import Reference, resolve
from artifactmount.packer import Packer
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result, changed_by, nothing
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.scan import Scan, has_references, scan, scan_layer, tracked_in
from artifactmount.session import Session, complete
from artifactmount.staging import Listing, Staged, Staging
from artifactmount.state import State
from artifactmount.steps import Local, Steps, drive

#: A version of so many rows has its places indexed by who makes it, 1 s for 100,000 chunks, and not by who then adds ten files; where there
#: are more that is too long to be silent, and to keep others from writing to the cache: the next snapshot does it, when it needs them.
_INDEXED_AT_ONCE = 200_000

__all__ = ["Basis", "Options", "Result", "Snapshot", "take"]


class Basis(Protocol):
    """What a snapshot goes out from, where that is not whatever version is the latest."""

    def check(self, state: State) -> None:
        """Raises RefusedError when the snapshot may not be made on this state."""
        ...

    def lower(self, state: State) -> int | None:
        """The version that the staged layer lies over; None where what is staged is whole. Raises RefusedError, NotFoundError."""
        ...

    def base(self, state: State) -> int | None:
        """The version that the user takes it for, with his changes: what it has is not ignored, and its references stay. None where it
        was deleted."""
        ...


def take(project: Project, path: str, name: str, options: Options, progress: Progress | None = None) -> Result:
    """Snapshot the folder `path` into the artifact `name`.

    Raises StagingError (what cannot be versioned, or changed while read), RefusedError, StoreError; OutcomeUnknownError when the commit was
    sent and no answer came.
    """
    with Staging(path) as staging:
        check_apart(staging.path, project)
        return take_staged(project, staging, name, options, progress)


def take_onto(project: Project, path: str, base: Reference, options: Options, progress: Progress | None = None) -> Result:
    """Make a version of another one's rows with the folder `path` laid over them: it adds and replaces, and takes nothing away.

    A base without a number is whatever it means when the version is made. Raises what `take` raises; NotFoundError without a base.
    """
    project.existing(base.artifact)
    with Layer(path) as layer:
        check_apart(layer.path, project)
        return take_staged(project, layer, base.artifact, options, progress, _Onto(base))


class _Onto:
    """A version that something is laid onto."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def check(self, state: State) -> None:
        """See Basis."""

    def lower(self, state: State) -> int | None:
        """See Basis."""
        return resolve(state, self._reference).n

    base = lower


def take_staged(
    project: Project,
    staging: Staged,
    name: str,
    options: Options,
    progress: Progress | None = None,
    basis: Basis | None = None,
) -> Result:
    """Snapshot what is staged, which MUST be apart from the project and its cache, into the artifact `name`. Raises what `take` raises."""
    artifact = project.artifact(name)
    options.check()
    with StatCache(project.cache.path) as stats, project.journal(name, staging.key) as journal:
        snapshot = Snapshot(artifact, project.catalog(name), staging, stats, options, project.writer, progress or Silent(), journal, basis)
        try:
            state, result = drive(project.store, snapshot.steps(project.refresh(name)))
        finally:
            snapshot.close()
    project.remember(name, state)
    if result.added + result.modified <= _INDEXED_AT_ONCE:
        with suppress(ArtifactError, KeyboardInterrupt):  # what was committed is committed
            project.catalog(name).places(state)
    return replace(result, ignored=staging.ignored)


def check_apart(staging: str, project: Project) -> None:
    """Refuse a folder (absolute, links resolved) that holds the cache or project, as it would be a part of what it stores; and a checkout
    whose files are not there."""
    check_there(staging)
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
        staging: Staged,
        stats: StatCache,
        options: Options,
        writer: Writer,
        progress: Progress,
        journal: Journal | None = None,
        basis: Basis | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """`alone`: it is proposed against nothing, whatever versions there are: as a part of one."""
        self._artifact, self._catalog, self._staging, self._stats = artifact, catalog, staging, stats
        self._basis, self._alone = basis, alone
        self._options, self._writer, self._progress, self._journal = options, writer, progress, journal
        self._reader = ContentReader(staging, self._known, chunking=artifact.cipher.chunking)
        self._stats_key = artifact.cipher.chunking.own(staging.key)
        self.begin_anew(artifact.empty())

    def close(self) -> None:
        """Stop the threads."""
        self._reader.close()

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state, self._journal)
        self._packer = Packer(self._artifact, self.session)
        self._proposal = Proposal(self._artifact, self._catalog, self._writer, self._options, self.session, self._packer, self)
        self._changes = Changes(self._staging, self._reader, self._packer, self._progress)

    def _known(self, digest: bytes) -> bool:
        return self._proposal.known(digest)

    # -- from head to commit -------------------------------------------------------------------------------------------------------
    def steps(self, known: State | None) -> Steps[tuple[State, Result]]:
        """The whole snapshot: the state after it, and what it did."""
        state = yield from self.begin(known)
        return (yield from complete(self._artifact, self._writer, state, self))

    def begin(self, known: State | None) -> Steps[State]:
        """The newest state; the session of an interrupted snapshot of the same folder is gone on with."""
        state = yield from head(self._artifact, known)
        if self.session.resume(state):
            self._packer.restore()
        return state

    def attempt(self, state: State) -> Steps[tuple[State, Result]]:
        """See Work."""
        return (yield from (yield from self.prepare(state)).commit())

    def prepare(self, state: State) -> Steps[Proposal]:
        """Everything but the entry: what the folder holds is in the store, and proposed."""
        yield from self._proposal.look(state)
        yield from self._scan(state)
        return self._proposal

    def _scan(self, state: State) -> Steps[None]:
        """Find out what is staged changes against the version it goes out from, and send the content that is new.

        That is the latest, whose references stay; or a checkout's base; or the one that it lies over; or none.
        """
        clock = self._staging.clock()
        self._progress.begin("scanning", 0, 0)
        found: Scan = yield Local(lambda: self._found(state))
        listings = list(found.listings)
        self._progress.begin("snapshot", found.bytes, found.files)
        self._builder: RunBuilder = yield from self._changes.from_scan(found)
        yield from self._packer.finish()
        self._progress.end()
        self._remember_stats(listings, clock)
        self._base, self._base_number = found.base, goes_out_from(state, self._basis)
        self._table = changed_by(found.base, self._builder)

    def _found(self, state: State) -> Scan:
        if self._alone:
            return scan(self._staging, nothing(), self._remembered)
        return scan_staged(self._catalog, self._staging, state, self._basis, self._remembered)

    def _remembered(self, key: bytes) -> bytes | None:
        return self._stats.get(self._stats_key, key)

    def _remember_stats(self, listings: list[Listing], clock: int) -> None:
        self._stats.put_many(self._stats_key, ((listing.key, listing.encode(clock)) for listing in listings))

    # -- what is proposed ----------------------------------------------------------------------------------------------------------
    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """See Tree. Where the highest version is another, by somebody else or because content came back, the delta is made against it."""
        if self._alone:
            return self._table, self._builder
        if self._basis is not None:
            self._basis.check(state)
        if goes_out_from(state, self._basis) != self._base_number:
            latest: Table = yield Local(lambda: self._catalog.latest(state))
            # What is ignored and which references stay are questions to the folder, and to the version.
            if self._basis is not None or (not self._staging.whole and (has_references(latest) or has_references(self._base))):
                yield from self._scan(state)
        if state.highest == self._base_number:
            return self._table, self._builder
        base: Table = yield Local(lambda: self._catalog.newest(state))
        builder: RunBuilder = yield Local(lambda: self._changes.between(base, self._table, self._records(state)))
        return self._table, builder

    def _records(self, state: State) -> Callable[[bytes], bytes]:
        """What gives the record of a reference by its path: a folder cannot, so it is one of the version that the scan went out from."""
        if self._staging.whole:
            return self._staging.target
        runs: list[Run] = []
        table: Table | None = None

        def record(path: bytes) -> bytes:
            nonlocal table, runs
            if table is None:
                table = self._catalog.latest(state) if self._base_number is None else self._catalog.table(state, self._base_number)
                runs = self._catalog.runs(state, table)
            origin, row = table.origin(table.lookup(path))
            return runs[origin].target(row)

        return record

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree."""
        yield from self._changes.upload(builder, needed)


def scan_staged(catalog: Catalog, staging: Staged, state: State, basis: Basis | None, remembered: Callable[[bytes], bytes | None]) -> Scan:
    """Scan what is staged against the version that it goes out from. Raises what `scan` and `basis` raise, CorruptError, StoreError."""
    number = goes_out_from(state, basis)
    table = catalog.latest(state) if number is None else catalog.table(state, number)
    if basis is None or basis.lower(state) is None:
        return scan(staging, table, remembered)
    assert isinstance(staging, Layer)
    base = basis.base(state)
    tracked = table if base is None else catalog.table(state, base)
    staging.lie_over(f"{catalog.artifact.name}:v{number}", *((each, catalog.runs(state, each)) for each in (table, tracked)))
    return scan_layer(staging, table, tracked_in(tracked), remembered)


def goes_out_from(state: State, basis: Basis | None) -> int | None:
    """The version that what is staged is scanned against: the one that it lies over, or its base while that is there, or the latest.

    Raises what `basis` raises.
    """
    number = None
    if basis is not None:
        number = basis.lower(state)
        if number is None:
            number = basis.base(state)
    return state.latest if number is None else number
