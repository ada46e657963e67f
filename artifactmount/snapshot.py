"""A snapshot: a staging folder becomes the next version of an artifact, or is found equal to a live one.

The whole of it is a generator of steps. The order of writes makes a crash leave garbage, never a lie: content packs, then the version's
metadata packs, then one log entry that makes all of it live at once. Walked through in docs/protocol.md, "Snapshot".
"""

from __future__ import annotations

import os

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.cache.stats import StatCache
from artifactmount.catalog import Catalog
from artifactmount.changes import Changes
from artifactmount.content import ContentReader
from artifactmount.errors import StagingError
from artifactmount.journal import Journal
from artifactmount.manifest import Table
from artifactmount.packer import Packer
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result, changed_by, nothing
from artifactmount.run_builder import RunBuilder
from artifactmount.scan import has_references, scan
from artifactmount.session import Session, complete
from artifactmount.staging import Listing, Staged, Staging
from artifactmount.state import State
from artifactmount.steps import Local, Steps, drive

__all__ = ["Options", "Result", "Snapshot", "take"]


def take(project: Project, path: str, name: str, options: Options, progress: Progress | None = None) -> Result:
    """Snapshot the folder `path` into the artifact `name`.

    Raises StagingError (what cannot be versioned, or changed while read), RefusedError, StoreError; OutcomeUnknownError when the commit was
    sent and no answer came.
    """
    with Staging(path) as staging:
        check_apart(staging.path, project)
        return take_staged(project, staging, name, options, progress)


def take_staged(project: Project, staging: Staged, name: str, options: Options, progress: Progress | None = None) -> Result:
    """Snapshot what is staged, which MUST be apart from the project and its cache, into the artifact `name`. Raises what `take` raises."""
    artifact = project.artifact(name)
    options.check()
    with StatCache(project.cache.path) as stats, project.journal(name, staging.key) as journal:
        snapshot = Snapshot(artifact, project.catalog(name), staging, stats, options, project.writer, progress or Silent(), journal)
        try:
            state, result = drive(project.store, snapshot.steps(project.refresh(name)))
        finally:
            snapshot.close()
    project.remember(name, state)
    return result


def check_apart(staging: str, project: Project) -> None:
    """Refuse a folder (absolute, links resolved) that holds the cache or project: it would be a part of what it stores."""
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
        *,
        alone: bool = False,
    ) -> None:
        """`alone`: it is proposed against nothing, whatever versions there are: as a part of one."""
        self._artifact, self._catalog, self._staging, self._stats, self._alone = artifact, catalog, staging, stats, alone
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
        """Find out what the folder changes against the latest version, whose references stay, and send the content that is new."""
        base: Table = yield Local(lambda: nothing() if self._alone else self._catalog.latest(state))
        clock = self._staging.clock()
        self._progress.begin("scanning", 0, 0)
        found = scan(self._staging, base, lambda key: self._stats.get(self._stats_key, key))
        listings = list(found.listings)
        self._progress.begin("snapshot", found.bytes, found.files)
        self._builder: RunBuilder = yield from self._changes.from_scan(found)
        yield from self._packer.finish()
        self._progress.end()
        self._remember_stats(listings, clock)
        self._base, self._base_number = base, state.latest
        self._table = changed_by(base, self._builder)

    def _remember_stats(self, listings: list[Listing], clock: int) -> None:
        self._stats.put_many(self._stats_key, ((listing.key, listing.encode(clock)) for listing in listings))

    # -- what is proposed ----------------------------------------------------------------------------------------------------------
    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """See Tree. Where the highest version is another, by somebody else or because content came back, the delta is made against it."""
        if self._alone:
            return self._table, self._builder
        if state.latest != self._base_number:
            latest: Table = yield Local(lambda: self._catalog.latest(state))
            if not self._staging.whole and (has_references(latest) or has_references(self._base)):
                yield from self._scan(state)  # which of them stay is a question to the folder
        if state.highest == self._base_number:
            return self._table, self._builder
        base: Table = yield Local(lambda: self._catalog.newest(state))
        builder: RunBuilder = yield Local(lambda: self._changes.between(base, self._table))
        return self._table, builder

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree."""
        yield from self._changes.upload(builder, needed)
