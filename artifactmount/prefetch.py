"""A version, or a part of it, brought into the cache before somebody reads it: pack by pack, in parallel, verified. Blocking code.

What the cache holds already is not fetched again, so an interrupted one goes on where it was. Must not know mounts or real files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from artifactmount.blocks import Blocks, ReferencedFile
from artifactmount.download import rows_of
from artifactmount.errors import RefusedError, SourceChangedError, SourceDeniedError, SourceError
from artifactmount.fetch import Fetcher, stretches
from artifactmount.manifest import Table
from artifactmount.names import Reference, resolve
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.rows import Kind, path_of, show_path
from artifactmount.run import ChunkRef, Run
from artifactmount.sources.access import Access, Sources
from artifactmount.state import State, Version

#: Work is done in batches of about so many bytes: the memory that it takes.
_BATCH_BYTES = 64 << 20
_BATCH_PIECES = 1 << 16
_PARALLEL = 8
_PASSES = 3
#: The cache evicts a sixteenth of its budget at a time, so it may not be fuller than this when all is there.
_SHARE = 16


@dataclass(frozen=True, slots=True)
class Prefetched:
    """What a prefetch did: bytes fetched, and bytes that the cache held already; what was skipped, and why, a line each.

    `in_place`: nothing had to be fetched, as packs are read where they lie.
    """

    version: int
    fetched: int
    held: int
    in_place: bool
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk that is wanted; `run` names it."""

    ref: ChunkRef
    run: bytes


def prefetch(
    project: Project,
    reference: Reference,
    *,
    sources: Sources | None = None,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Prefetched:
    """Bring the files of a version that are at or below the reference's path into the cache, and its manifest.

    Raises NotFoundError; RefusedError when the cache has not the room (then nothing was fetched), or takes nothing in; CorruptError;
    StoreError; SourceError naming the reference whose source cannot be had (`allow_missing`: that one is skipped). Without `sources` no
    reference is followed.
    """
    catalog = project.catalog(reference.artifact)

    def load(state: State) -> tuple[State, Version, Table, list[Run]]:
        version = resolve(state, reference)
        table = catalog.table(state, version.n)
        return state, version, table, catalog.runs(state, table)

    state, version, table, runs = project.reading(reference.artifact, load)
    work = _Prefetch(project, reference, state, table, runs, Blocks(project.cache, sources or Sources(Access(()))), progress or Silent())
    work.check_room()
    work.fetch_chunks()
    work.fetch_blocks(allow_missing)
    return Prefetched(version.n, work.fetched, work.held, work.in_place, tuple(work.skipped))


class _Prefetch:
    """One prefetch under way."""

    def __init__(
        self, project: Project, reference: Reference, state: State, table: Table, runs: list[Run], blocks: Blocks, progress: Progress
    ) -> None:
        self._project, self._reference, self._state, self._table, self._runs = project, reference, state, table, runs
        self._blocks, self._progress, self._fetcher = blocks, progress, Fetcher(project, reference.artifact)
        self.in_place = self._fetcher.in_place
        self.fetched = self.held = 0
        self.skipped: list[str] = []

    def _rows(self, kind: Kind) -> Iterator[int]:
        return (row for rows in rows_of(self._table, self._reference) for row in rows if self._table.kind(row) is kind)

    def _pieces(self) -> Iterator[_Piece]:
        """The chunks of all files, each once. What was seen is remembered: 100 bytes a chunk, for no more than the cache can hold."""
        seen: set[bytes] = set()
        for row in self._rows(Kind.FILE):
            origin, at = self._table.origin(row)
            run = self._runs[origin]
            for ref in run.chunks(at):
                if ref.digest not in seen:
                    seen.add(ref.digest)
                    yield _Piece(ref, run.digest)

    def _referenced(self) -> Iterator[tuple[int, ReferencedFile]]:
        for row in self._rows(Kind.REFERENCE):
            origin, at = self._table.origin(row)
            yield row, self._blocks.of(self._runs[origin].target(at), self._table.size(row))

    def check_room(self) -> None:
        """Say how much there is to do. Raises RefusedError when it is more than the cache keeps."""
        budget, wanted = self._project.cache.budget, 0
        room = budget - budget // _SHARE
        content = () if self.in_place else (piece.ref.place.plain for piece in self._pieces())
        for size in chain(content, (file.size for _, file in self._referenced() if file.referent.checked)):
            wanted += size
            if wanted > room:  # which bounds what is remembered, too
                raise RefusedError(
                    f"{self._reference} takes more than the cache keeps ({room:,} of its {budget:,} bytes); nothing was fetched; "
                    "prefetch a part of it, or give the cache more (--cache-size)"
                )
        self._progress.begin("prefetching", wanted, 0)

    # -- chunks --------------------------------------------------------------------------------------------------------------------
    def fetch_chunks(self) -> None:
        """Fetch what the cache does not hold, a batch of stretches of packs at a time; and again what went while others came."""
        if self.in_place:
            return
        with ThreadPoolExecutor(_PARALLEL) as pool:
            self._pass(pool, self._holds)
            for _ in range(_PASSES):
                if not self._pass(pool, self._fetcher.has):
                    return
        raise RefusedError(
            f"the cache {self._project.cache.path} drops what was fetched while the rest comes: others fill it, too, or it is too small "
            "(--cache-size)"
        )

    def _pass(self, pool: ThreadPoolExecutor, holds: Callable[[bytes], bool]) -> bool:
        """Fetch what the cache does not hold; whether there was anything."""
        before = self.fetched
        for batch in self._missing(holds):
            for done in pool.map(self._fetch, stretches(batch, lambda piece: piece.ref)):
                self.fetched += done
        return self.fetched != before

    def _holds(self, digest: bytes) -> bool:
        """Read it: so it is known to be right, and its segment is not the next to be evicted."""
        content = self._fetcher.cached(digest)
        if content is None:
            return False
        self.held += len(content)
        self._progress.advance(len(content), 0)
        return True

    def _missing(self, holds: Callable[[bytes], bool]) -> Iterator[list[_Piece]]:
        """Chunks that the cache does not hold, in batches."""
        batch: list[_Piece] = []
        size = 0
        for piece in self._pieces():
            if holds(piece.ref.digest):
                continue
            batch.append(piece)
            size += piece.ref.place.plain
            if size >= _BATCH_BYTES or len(batch) >= _BATCH_PIECES:
                yield batch
                batch, size = [], 0
        yield batch

    def _fetch(self, group: list[_Piece]) -> int:
        stretch = self._fetcher.stretch([piece.ref for piece in group], self._state)
        contents = [(piece.ref.digest, self._fetcher.take(stretch, piece.ref, self._state, piece.run)) for piece in group]
        self._project.cache.put_chunks(contents)
        self._check_kept(all(self._fetcher.has(digest) for digest, _ in contents))
        done = sum(len(content) for _, content in contents)
        self._progress.advance(done, 0)
        return done

    def _check_kept(self, kept: bool) -> None:
        """Raises RefusedError: the cache only warns where it has no room, and what is not kept is fetched again by who reads."""
        if not kept:
            raise RefusedError(
                f"the cache {self._project.cache.path} does not keep what is fetched; is its disk full, or its size too small?"
            )

    # -- what references lead to ---------------------------------------------------------------------------------------------------
    def fetch_blocks(self, allow_missing: bool) -> None:
        """Fetch the blocks of references, some at once."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for row, file in self._referenced():
                path = show_path(path_of(self._table.directory_of(row), self._table.name(row)))
                if not file.referent.checked:
                    self.skipped.append(f"{path}: has no ETag to be known by, so it is never kept")
                    continue
                try:
                    for done in pool.map(lambda number, file=file: self._block(file, number), range(len(file))):
                        self.fetched += done
                except SourceError as error:
                    if not (allow_missing and isinstance(error, SourceChangedError | SourceDeniedError)):
                        hint = "--allow-missing-references goes on without what is gone, changed or denied"
                        raise type(error)(f"{path}: {error}; {hint}") from error
                    self.skipped.append(f"{path}: {error}")
        self._progress.end()

    def _block(self, file: ReferencedFile, number: int) -> int:
        content, done = file.cached(number), 0
        if content is not None:
            self.held += len(content)
        else:
            content = file.fetch(number)
            done = len(content)
            self._check_kept(file.has(number))
        self._progress.advance(len(content), 0)
        return done
