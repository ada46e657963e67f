"""What is said of a version that is there: note, metadata, tags, time to live and aliases, changed without a new version.

It is the proposal of the version as it is: found equal to itself, its card is written anew where it differs.
"""

from __future__ import annotations

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.catalog import Catalog
from artifactmount.manifest import Table
from artifactmount.names import Reference, resolve
from artifactmount.packer import Packer
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result
from artifactmount.run_builder import RunBuilder
from artifactmount.session import Session, complete
from artifactmount.state import State
from artifactmount.steps import Local, Steps, drive


def describe(project: Project, reference: Reference, options: Options) -> Result:
    """Give a version (a reference with a version) what `options` say of it. `latest` moves only where they say so.

    Raises UsageError, NotFoundError when it is not there (any more), StoreError, OutcomeUnknownError.
    """
    options.check()
    work = Describing(project.artifact(reference.artifact), project.catalog(reference.artifact), project.writer, reference, options)
    state, result = drive(project.store, work.steps(project.existing(reference.artifact)))
    project.remember(reference.artifact, state)
    return result


class Describing:
    """One version under way to another card."""

    def __init__(self, artifact: Artifact, catalog: Catalog, writer: Writer, reference: Reference, options: Options) -> None:
        self._artifact, self._catalog, self._writer, self._reference, self._options = artifact, catalog, writer, reference, options
        self.begin_anew(artifact.empty())

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state)
        packer = Packer(self._artifact, self.session)
        self._proposal = Proposal(self._artifact, self._catalog, self._writer, self._options, self.session, packer, self)

    def steps(self, known: State | None) -> Steps[tuple[State, Result]]:
        """The whole of it: the state after it, and what it did."""
        state = yield from head(self._artifact, known)
        return (yield from complete(self._artifact, self._writer, state, self))

    def attempt(self, state: State) -> Steps[tuple[State, Result]]:
        """See Work."""
        self.session.state = state
        return (yield from self._proposal.commit())

    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """See Tree. Its digest is all that the proposal looks at: it is always found equal."""
        number = resolve(state, self._reference).n
        table: Table = yield Local(lambda: self._catalog.table(state, number))
        return table, RunBuilder()

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree. Nothing is new."""
        yield from ()
        assert not needed
