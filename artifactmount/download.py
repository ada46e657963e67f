"""A version, or a part of it, as real files: read pack by pack, in parallel, verified, keeping what is right already.

Blocking code. Must not know mounts; how files come to be safely is in `target`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice

from artifactmount.errors import (
    CorruptError,
    NotFoundError,
    RefusedError,
    SourceChangedError,
    SourceDeniedError,
    SourceError,
)
from artifactmount.fetch import Fetcher, stretches
from artifactmount.filling import Filling
from artifactmount.manifest import MISSING, ROOT_ROW, Table
from artifactmount.names import Reference, resolve
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.reference import Referent
from artifactmount.rows import Kind, child_key, is_executable, path_of, show_path
from artifactmount.run import ChunkRef, Run
from artifactmount.sources.access import Access, Sources
from artifactmount.state import State, Version
from artifactmount.target import PartialFile, Target

#: Work is done in batches of about so many bytes or files: the memory and the open files that a download takes.
_BATCH_BYTES = 64 << 20
_BATCH_FILES = 512
_PIECE_BYTES = 4 << 10  # what a piece costs beside its bytes, and more: a file may say that it has 10^8 chunks of one byte
_HOLES = 1000  # zeros pack this many times smaller at least: other chunks need not be compared
_PARALLEL = 8
_KIND, _FILE, _REFERENCE = 3, int(Kind.FILE), int(Kind.REFERENCE)  # in a mode byte; comparing members of an enum takes three times as long
#: Of what a reference leads to, so much is asked for at once.
_RANGE = 4 << 20


#: Of a run: where the chunks of each row begin, its packs, and of each chunk its pack there, offset, stored and plain length.
_Places = tuple[Sequence[int], list[PackId], memoryview, memoryview, memoryview, memoryview]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download did: paths written and kept, and bytes written; what was skipped, and why, a line each."""

    version: int
    path: str
    written: int
    kept: int
    bytes: int
    skipped: tuple[str, ...] = ()


@dataclass(slots=True)
class _File:
    """A file to write: its row in the table, and the pieces still to come."""

    row: int
    key: bytes
    name: bytes
    run: bytes
    part: PartialFile
    missing: int
    executable: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk of a file, and where in the file it belongs."""

    file: _File
    offset: int
    ref: ChunkRef


@dataclass(slots=True)
class _Referenced:
    """A referenced file to write."""

    row: int
    key: bytes
    name: bytes
    referent: Referent
    part: PartialFile
    error: SourceError | None = None


def download(
    project: Project,
    reference: Reference,
    path: str,
    *,
    sources: Sources | None = None,
    overwrite: bool = False,
    allow_missing: bool = False,
    prefix: bytes = b"",
    progress: Progress | None = None,
) -> Downloaded:
    """Write a version's files below the folder `path`, with the paths they have in the version; those whose paths begin with `prefix`.

    What is there and right stays untouched; what is not of the version stays, too. Raises NotFoundError; RefusedError when a file that is
    there differs and `overwrite` is not given (then nothing was written); CorruptError; StoreError; SourceError naming the reference whose
    source cannot be had (`allow_missing`: one that is gone, changed or denied is skipped). Without `sources` no reference is followed.
    """
    catalog = project.catalog(reference.artifact)

    def load(state: State) -> tuple[State, Version, Table, list[Run]]:
        version = resolve(state, reference)
        table = catalog.table(state, version.n)
        return state, version, table, catalog.runs(state, table)

    state, version, table, runs = project.reading(reference.artifact, load)
    rows = list(rows_of(table, reference) if not prefix else _beginning(table, prefix))
    project.check_apart(os.path.realpath(path))
    with Target(path, project.artifact(reference.artifact).cipher.chunking.digest) as target:
        download_ = _Download(
            project, sources or Sources(Access(())), reference.artifact, state, table, runs, target, progress or Silent(), allow_missing
        )
        wanted = download_.compare(rows, overwrite)
        download_.write(wanted)
    return Downloaded(version.n, target.path, download_.written, download_.kept, download_.bytes, tuple(download_.skipped))


def rows_of(table: Table, reference: Reference) -> Iterator[range]:
    """The rows of what the path names: a file, or everything below a folder, and the folder itself."""
    row = table.lookup(reference.path)
    if row == MISSING:
        raise NotFoundError(f"no {show_path(reference.path)} in {reference}; `artifactmount ls` lists what there is")
    if row == ROOT_ROW:
        yield range(table.count)
        return
    yield range(row, row + 1)
    if table.kind(row) is Kind.DIRECTORY:
        yield range(*table.under(table.key_of(row)))


def _beginning(table: Table, prefix: bytes) -> Iterator[range]:
    """The rows whose paths begin with these bytes."""
    for key, name, row in table.walk():
        if path_of(key, name).startswith(prefix):
            yield range(row, row + 1)


def is_right(target: Target, table: Table, runs: list[Run], key: bytes, name: bytes, row: int, present: int) -> bool:
    """Whether what stands at a row's path (its type bits) is what the row says; `runs` as the table's origins."""
    mode = table.mode(row)
    origin, at = table.origin(row)
    match table.kind(row):
        case Kind.DIRECTORY:
            return stat.S_ISDIR(present)
        case Kind.SYMLINK:
            return stat.S_ISLNK(present) and target.has_link(key, name, runs[origin].target(at))
        case Kind.REFERENCE:  # nobody knows its digest
            return target.has_times(key, name, table.size(row), is_executable(mode), table.mtime(row))
        case Kind.FILE:
            return stat.S_ISREG(present) and target.has_file(key, name, runs[origin].chunks(at), table.size(row), is_executable(mode))


class _Download:
    """One download under way."""

    def __init__(
        self,
        project: Project,
        sources: Sources,
        name: str,
        state: State,
        table: Table,
        runs: list[Run],
        target: Target,
        progress: Progress,
        allow_missing: bool,
    ) -> None:
        self._project, self._artifact, self._state = project, project.artifact(name), state
        self._fetcher, self._sources, self._allow_missing = Fetcher(project, name), sources, allow_missing
        self._table, self._runs, self._target, self._progress = table, runs, target, progress
        self.written = self.kept = self.bytes = 0
        self.skipped: list[str] = []
        self._replaces = False  # something that is there
        self._places: dict[int, _Places] = {}

    def _refs(self, row: int) -> Sequence[ChunkRef]:
        origin, at = self._table.origin(row)
        return self._runs[origin].chunks(at)

    def _target_of(self, row: int) -> bytes:
        origin, at = self._table.origin(row)
        return self._runs[origin].target(at)

    # -- what is there already -----------------------------------------------------------------------------------------------------
    def compare(self, ranges: list[range], overwrite: bool) -> list[range]:
        """The rows that are not there yet. Raises RefusedError naming what differs."""
        if self._target.empty:
            return ranges
        wanted: list[range] = []
        differing: list[bytes] = []
        for rows in ranges:
            for key, name, row in self._table.walk(rows.start, rows.stop):
                present = self._target.kind(key, name)
                if present is not None and is_right(self._target, self._table, self._runs, key, name, row, present):
                    self.kept += self._table.kind(row) is not Kind.DIRECTORY
                    continue
                wanted.append(range(row, row + 1))
                self._replaces |= present is not None
                if present is not None and (not overwrite or stat.S_ISDIR(present)):
                    differing.append(path_of(key, name))
        if differing:
            first = ", ".join(map(show_path, differing[:3]))
            raise RefusedError(
                f"in {self._target.path} differ from the version: {first}{', …' if len(differing) > 3 else ''} ({len(differing)} in all); "
                f"nothing was written; choose another folder{'' if overwrite else ', or --overwrite'}"
            )
        return wanted

    # -- writing -------------------------------------------------------------------------------------------------------------------
    def write(self, wanted: list[range]) -> None:
        """Write these rows."""
        modes, sizes = self._table.modes, self._table.sizes
        files = [row for rows in wanted for row in rows if modes[row] & _KIND in (_FILE, _REFERENCE)]
        total = sum(sizes[row] for row in files)
        self._check_room(files, total)
        self._progress.begin("downloading", total, len(files))
        new = 0 if self._replaces else len(files)
        cipher = self._artifact.cipher
        with ThreadPoolExecutor(_PARALLEL) as pool:
            with Filling(pool, self._fetcher, cipher, self._state, self._target, self._progress, new) as small:
                self._write_files(pool, wanted, small)
            self._write_references(pool, [row for row in files if modes[row] & _KIND == _REFERENCE])
        self._progress.end()

    def _write_files(self, pool: ThreadPoolExecutor, wanted: list[range], small: Filling) -> None:
        """Write what is not a reference."""
        batch: list[_Piece] = []
        held = 0
        opened: list[_File] = []
        try:
            for key, name, row in chain.from_iterable(self._table.walk(rows.start, rows.stop) for rows in wanted):
                if self._add_small(key, name, row, small):
                    continue
                for piece in self._begin(key, name, row, opened):
                    batch.append(piece)
                    held += piece.ref.place.plain + _PIECE_BYTES
                    if held >= _BATCH_BYTES:
                        self._fill(pool, batch, opened)
                        batch, held = [], 0
                if len(opened) >= _BATCH_FILES:
                    self._fill(pool, batch, opened)
                    batch, held = [], 0
            self._fill(pool, batch, opened)
            small.finish()
        finally:
            for file in opened:
                file.part.close()

    def _add_small(self, key: bytes, name: bytes, row: int, small: Filling) -> bool:
        """Whether the row is a file of one chunk; that is on its way then. Nearly all are, so it comes down to a few look-ups: 3 µs."""
        table = self._table
        mode = table.modes[row]
        if mode & _KIND != _FILE:
            return False
        origin, at = table.origin(row)
        run = self._runs[origin]
        if run.chunk_counts[at] != 1:
            return False
        if origin not in self._places:
            self._places[origin] = run.chunk_offsets(), run.packs, *run.chunk_columns
        starts, ids, packs, offsets, stored, plain = self._places[origin]
        chunk = starts[at]
        self.written += 1
        self.bytes += plain[chunk]
        file = key, name, table.mtimes[row], is_executable(mode), offsets[chunk], stored[chunk], plain[chunk], table.digest(row)
        small.add(run.digest, ids[packs[chunk]], file)
        return True

    def _check_room(self, files: list[int], total: int) -> None:
        """Refuse what cannot fit, before anything is written: a run of some kB may claim petabytes. Zeros become holes and take nothing."""
        room = self._target.room()
        if total > room:
            zeros = cache(lambda length: self._artifact.cipher.chunking.digest(bytes(length)))
            references = (self._table.size(row) for row in files if self._table.kind(row) is Kind.REFERENCE)
            places = ((ref.place.plain, ref) for row in files for ref in self._refs(row))
            chunks = (0 if length > _HOLES * ref.place.stored and ref.digest == zeros(length) else length for length, ref in places)
            needed = 0
            for length in chain(references, chunks):
                needed += length
                if needed > room:
                    raise RefusedError(
                        f"{self._target.path} has room for {room:,} bytes, and the files take {total:,}; nothing was written; "
                        "download a part of them, or choose another folder"
                    )

    def _begin(self, key: bytes, name: bytes, row: int, opened: list[_File]) -> Iterator[_Piece]:
        """Make a folder or link, or an empty file and the pieces that belong into it."""
        table, kind = self._table, self._table.kind(row)
        if kind is Kind.DIRECTORY:
            self._target.folder(child_key(key, name))
            return
        if kind is Kind.REFERENCE:
            return  # these come at the end
        self.written += 1
        if kind is Kind.SYMLINK:
            self._target.link(key, name, self._target_of(row))
            return
        refs, executable = self._refs(row), is_executable(table.mode(row))
        if not refs:
            self._target.put(key, name, b"", table.mtime(row), executable)
            self._progress.advance(0, 1)
            return
        run = table.origins[table.origin(row)[0]]
        file = _File(row, key, name, run, self._target.part(table.size(row), executable), len(refs), executable)
        opened.append(file)
        self.bytes += table.size(row)
        offset = 0
        for ref in refs:
            yield _Piece(file, offset, ref)
            offset += ref.place.plain

    def _fill(self, pool: ThreadPoolExecutor, batch: list[_Piece], opened: list[_File]) -> None:
        """Fetch the pieces of a batch, pack by pack, and name the files that are whole then."""
        for group in pool.map(self._fetch, stretches(batch, lambda piece: piece.ref)):
            for piece in group:
                piece.file.missing -= 1
                self._progress.advance(piece.ref.place.plain, 0)
        whole = [file for file in opened if not file.missing]
        for file in whole:
            self._target.name_part(file.part, file.key, file.name, self._table.mtime(file.row))
            self._progress.advance(0, 1)
        opened[:] = [file for file in opened if file.missing]

    def _fetch(self, group: list[_Piece]) -> list[_Piece]:
        """Write the pieces of one stretch of one pack."""
        stretch = self._fetcher.stretch([piece.ref for piece in group], self._state)
        for piece in group:
            try:
                content = self._fetcher.take(stretch, piece.ref, self._state, piece.file.run)
            except CorruptError as error:
                path = show_path(path_of(piece.file.key, piece.file.name))
                raise CorruptError(f"{path}: {error}; `artifactmount verify` tells what else is damaged") from error
            piece.file.part.write(piece.offset, content)
        return group

    # -- what references lead to -----------------------------------------------------------------------------------------------------
    def _write_references(self, pool: ThreadPoolExecutor, rows: list[int]) -> None:
        """Read each source, checked against what was recorded, some files and ranges at once."""
        for start in range(0, len(rows), _BATCH_FILES):
            files: list[_Referenced] = []
            try:
                for row in rows[start : start + _BATCH_FILES]:
                    size, executable = self._table.size(row), is_executable(self._table.mode(row))
                    referent = Referent.decode(self._target_of(row))
                    part = self._target.part(size, executable)
                    files.append(_Referenced(row, self._table.directory_of(row), self._table.name(row), referent, part))
                ranges = ((file, at) for file in files for at in range(0, max(self._table.size(file.row), 1), _RANGE))
                while window := list(islice(ranges, 2 * _PARALLEL)):  # a few ranges at a time: a file may have a million
                    list(pool.map(self._read_range, window))
                for file in files:
                    self._end(file)
            finally:
                for file in files:
                    file.part.close()

    def _read_range(self, what: tuple[_Referenced, int]) -> None:
        file, start = what
        size = self._table.size(file.row)
        try:
            if file.error is not None:
                return
            if not size:
                self._sources.check(file.referent, 0)
                return
            content = self._sources.read(file.referent, size, start, min(start + _RANGE, size))
            file.part.write(start, content)
            self._progress.advance(len(content), 0)
        except SourceError as error:
            file.error = error

    def _end(self, file: _Referenced) -> None:
        path = show_path(path_of(file.key, file.name))
        if isinstance(file.error, (SourceChangedError, SourceDeniedError)) and self._allow_missing:
            self.skipped.append(f"{path}: {file.error}")
        elif file.error is not None:
            error = type(file.error)(f"{path}: {file.error}; --allow-missing-references goes on without what is gone, changed or denied")
            raise error from file.error
        else:
            self._target.name_part(file.part, file.key, file.name, self._table.mtime(file.row))
            self.written += 1
            self.bytes += self._table.size(file.row)
            self._progress.advance(0, 1)
