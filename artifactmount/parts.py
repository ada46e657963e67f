"""A folder as one part of a version that many writers make: stored as a snapshot stores it, and then it waits under an id.

`gather` makes the version of all of them. Walked through in docs/protocol.md, "Parts of one version".
"""

from __future__ import annotations

from dataclasses import replace

from artifactmount.artifact import Artifact, Writer
from artifactmount.cache.stats import StatCache
from artifactmount.catalog import Catalog
from artifactmount.errors import UsageError
from artifactmount.journal import Journal
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import Joined, Options
from artifactmount.session import complete
from artifactmount.snapshot import Snapshot, check_apart
from artifactmount.staging import Staged, Staging
from artifactmount.state import NAME, State
from artifactmount.steps import Steps, drive


def check_id(id_: str) -> str:
    """`id_`, or UsageError when it is no id for parts."""
    if not NAME.fullmatch(id_):
        raise UsageError(f"not an id for parts: {id_!r} (letters, digits, _ . -; at most 128, not beginning with . or -)")
    return id_


def take_part(project: Project, path: str, name: str, id_: str, progress: Progress | None = None) -> Joined:
    """Store the folder `path` as a part of the version of artifact `name` that `id_` stands for. Nothing can be read before it is finished.

    Raises UsageError, StagingError, RefusedError (too many parts), StoreError; OutcomeUnknownError when it was sent and no answer came: the
    same part run again is not taken twice.
    """
    with Staging(path) as staging:
        check_apart(staging.path, project)
        return take_staged_part(project, staging, name, id_, progress)


def take_staged_part(project: Project, staging: Staged, name: str, id_: str, progress: Progress | None = None) -> Joined:
    """The same of what is staged, which MUST be apart from the project and its cache. Raises what `take_part` raises."""
    check_id(id_)
    artifact = project.artifact(name)
    with StatCache(project.cache.path) as stats, project.journal(name, staging.key) as journal:
        part = Contribution(artifact, project.catalog(name), staging, stats, id_, project.writer, progress or Silent(), journal)
        try:
            state, joined = drive(project.store, part.steps(project.refresh(name)))
        finally:
            part.close()
    project.remember(name, state)
    return replace(joined, ignored=staging.ignored)


class Contribution:
    """One part under way."""

    def __init__(
        self,
        artifact: Artifact,
        catalog: Catalog,
        staging: Staged,
        stats: StatCache,
        id_: str,
        writer: Writer,
        progress: Progress,
        journal: Journal | None = None,
    ) -> None:
        self._artifact, self._writer, self._id = artifact, writer, id_
        self._snapshot = Snapshot(artifact, catalog, staging, stats, Options(), writer, progress, journal, alone=True)
        self.session = self._snapshot.session

    def close(self) -> None:
        """Stop the threads."""
        self._snapshot.close()

    def steps(self, known: State | None) -> Steps[tuple[State, Joined]]:
        """The whole of it: the state after it, and what it did."""
        state = yield from self._snapshot.begin(known)
        return (yield from complete(self._artifact, self._writer, state, self))

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self._snapshot.begin_anew(state)
        self.session = self._snapshot.session

    def attempt(self, state: State) -> Steps[tuple[State, Joined]]:
        """See Work."""
        proposal = yield from self._snapshot.prepare(state)
        return (yield from proposal.join(self._id))
