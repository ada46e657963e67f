"""References become own content: each source is read once, checked against what was recorded, and packed; the result is a new version.

What the artifact holds already is not stored again. Only sources that the user named are read: what comes of them is for every reader of
the project, who need not be allowed to read the source. Must not know how sources are reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from blake3 import blake3

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.catalog import Catalog
from artifactmount.changes import LARGE
from artifactmount.content import Chunk, Chunker
from artifactmount.digest import DIGEST_LENGTH, SINGLE_LIMIT, content_digest
from artifactmount.errors import NotFoundError, SourceError
from artifactmount.journal import Journal
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.names import Reference, resolve
from artifactmount.packer import Packer
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result, as_run
from artifactmount.refer import between, references
from artifactmount.reference import Referent
from artifactmount.rows import Change, Kind, is_executable, mode_of, path_of, show_path
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.session import Session, complete
from artifactmount.sources import Source, changed
from artifactmount.sources.access import Sources
from artifactmount.state import State
from artifactmount.steps import Local, Steps, drive

_AHEAD = 16  # small files read before their turn, a MiB each at most


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a reference leads to: its record, and its size in bytes. Several rows may want the same."""

    record: bytes
    size: int


@dataclass(frozen=True, slots=True)
class _Content:
    """A source as it was read: its digest, and its chunks' digests one after the other."""

    digest: bytes
    chunk_digests: bytes


def vendor(project: Project, sources: Sources, reference: Reference, options: Options, progress: Progress | None = None) -> Result:
    """Make a version in which the references of another (default: the newest) are files of its own.

    Raises NotFoundError; SourceChangedError, SourceError when a source is not what was recorded, SourceDeniedError when the user did not
    name it (then nothing changes); RefusedError, StoreError, OutcomeUnknownError.
    """
    options.check()
    name, state = reference.artifact, project.existing(reference.artifact)
    if reference.version is not None:  # an alias may move meanwhile; without one, the newest is meant, whichever that is
        reference = replace(reference, version=f"v{resolve(state, reference).n}")
    with project.journal(name, blake3(f"vendor {reference}".encode()).digest()[:16]) as journal:
        strict = sources.named()
        work = Vendoring(
            project.artifact(name), project.catalog(name), strict, reference, options, project.writer, progress or Silent(), journal
        )
        try:
            state, result = drive(project.store, work.steps(state))
        finally:
            work.close()
    project.remember(name, state)
    return result


class Vendoring:
    """One version's references under way to become content."""

    def __init__(
        self,
        artifact: Artifact,
        catalog: Catalog,
        sources: Source,
        reference: Reference,
        options: Options,
        writer: Writer,
        progress: Progress,
        journal: Journal | None = None,
    ) -> None:
        self._artifact, self._catalog, self._sources, self._reference = artifact, catalog, sources, reference
        self._options, self._writer, self._progress, self._journal = options, writer, progress, journal
        self._chunker = Chunker(self._known, chunking=artifact.cipher.chunking)
        self._pool = ThreadPoolExecutor(_AHEAD)
        self._contents: dict[_Wanted, _Content] = {}
        self.begin_anew(artifact.empty())

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._chunker.close()

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state, self._journal)
        self._packer = Packer(self._artifact, self.session)
        self._proposal = Proposal(self._artifact, self._catalog, self._writer, self._options, self.session, self._packer, self)

    def _known(self, digest: bytes) -> bool:
        return self._proposal.known(digest)

    def steps(self, known: State | None) -> Steps[tuple[State, Result]]:
        """The whole of it: the state after it, and what it did."""
        state = yield from head(self._artifact, known)
        if self.session.resume(state):
            self._packer.restore()
        return (yield from complete(self._artifact, self._writer, state, self))

    def attempt(self, state: State) -> Steps[tuple[State, Result]]:
        """See Work. What there is to read is read before the decision: that takes long, and would lose its slot."""
        yield from self._proposal.look(state)
        yield from self.on(state)
        return (yield from self._proposal.commit())

    # -- what is proposed ----------------------------------------------------------------------------------------------------------
    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """See Tree: the version's rows, its references as files. What was read before is not read again."""
        version = resolve(state, self._reference)
        table: Table = yield Local(lambda: self._catalog.table(state, version.n))
        runs: list[Run] = yield Local(lambda: self._catalog.runs(state, table))
        rows = [(key, name, row, _wanted(table, runs, row)) for key, name, row in references(table)]
        if not rows and version.n != state.highest:
            raise NotFoundError(f"no references in {self._artifact.name}:v{version.n}")
        yield from self._read_all({wanted: path_of(key, name) for key, name, _, wanted in rows})
        builder = RunBuilder()
        for key, name, row, wanted in rows:
            mode, content = mode_of(Kind.FILE, is_executable(table.mode(row))), self._contents[wanted]
            builder.add(key, name, Change.CHANGED, mode, wanted.size, table.mtime(row), content.digest, chunks=content.chunk_digests)
        if not rows:
            return table, builder
        edited = as_run(builder)
        tree = Table(merge(table, [edited]), check=False)
        if version.n != state.highest:
            base: Table = yield Local(lambda: self._catalog.newest(state))
            builder = yield Local(lambda: between(base, tree, [*runs, edited]))
        return tree, builder

    def _read_all(self, wanted: dict[_Wanted, bytes]) -> Steps[None]:
        """Read what was not read yet (with a path that it has), and hand what nobody has to the packer."""
        new = [item for item in wanted if item not in self._contents]
        if not new:
            return
        self._progress.begin("vendoring", sum(item.size for item in new), len(new))
        for item, future in self._ahead(new):
            try:
                yield from self._take(item, future)
            except SourceError as error:
                raise type(error)(f"{show_path(wanted[item])}: {error}; nothing was committed") from error
        yield from self._packer.finish()
        self._progress.end()

    def _ahead(self, new: list[_Wanted]) -> Iterator[tuple[_Wanted, Future[list[Chunk]] | None]]:
        """Everything in order; small files are read several at once, before their turn."""
        waiting: deque[tuple[_Wanted, Future[list[Chunk]] | None]] = deque()
        for item in new:
            waiting.append((item, self._pool.submit(self._small, item) if item.size <= SINGLE_LIMIT else None))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _small(self, item: _Wanted) -> list[Chunk]:
        referent = Referent.decode(item.record)
        if not item.size:
            self._sources.check(referent, 0)
            return []
        return [self._chunker.chunk(self._sources.read(referent, item.size, 0, item.size))]

    def _windows(self, item: _Wanted) -> Iterator[list[Chunk]]:
        referent = Referent.decode(item.record)

        def fill(view: memoryview, offset: int) -> int:
            stop = min(offset + len(view), item.size)
            content = self._sources.read(referent, item.size, offset, stop) if offset < stop else b""
            view[: len(content)] = content
            return len(content)

        return self._chunker.stream(fill)

    def _take(self, item: _Wanted, future: Future[list[Chunk]] | None) -> Steps[None]:
        digests: list[bytes] = []
        for chunks in self._windows(item) if future is None else [future.result()]:
            for chunk in chunks:
                digests.append(chunk.digest)
                if chunk.stored is not None and chunk.digest not in self._packer:
                    yield from self._packer.add(chunk.digest, chunk.plain, chunk.stored, large=item.size >= LARGE)
                self._progress.advance(chunk.plain, 0)
        if item.size >= LARGE:
            yield from self._packer.end_large()
        self._progress.advance(0, 1)
        content = _Content(content_digest(digests), b"".join(digests))
        before = self._contents.setdefault(item, content)
        if content != before:  # only where nothing tells a change
            raise changed(Referent.decode(item.record), before.digest.hex()[:16], content.digest.hex()[:16], "its content")

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree: read again what holds these chunks."""
        for item, content in list(self._contents.items()):
            heap = content.chunk_digests
            held = {heap[at : at + DIGEST_LENGTH] for at in range(0, len(heap), DIGEST_LENGTH)}
            if not needed.isdisjoint(held):
                yield from self._take(item, self._pool.submit(self._small, item) if item.size <= SINGLE_LIMIT else None)
                needed -= held


def _wanted(table: Table, runs: list[Run], row: int) -> _Wanted:
    origin, at = table.origin(row)
    return _Wanted(runs[origin].target(at), table.size(row))
