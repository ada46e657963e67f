"""References added to a version, and taken away again: what lies elsewhere becomes a part of it, without its bytes.

The rows come onto the newest version, which keeps everything else; so the whole is decided again on every newer state. A listing is an
answer about all that is below its URI: references into it that are not listed any more go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from artifactmount.artifact import Artifact, Writer, head
from artifactmount.catalog import Catalog
from artifactmount.errors import NotFoundError, RefusedError
from artifactmount.manifest import MISSING, ROOT_ROW, Table
from artifactmount.merge import diff
from artifactmount.packer import Packer
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result, as_run, changed_by
from artifactmount.reference import Referent, leads_into, name_of, normal_uri
from artifactmount.rows import (
    DEPTH_LIMIT,
    NAME_LIMIT,
    PATH_LIMIT,
    ROOT_KEY,
    SIZE_LIMIT,
    Change,
    Kind,
    kind_of,
    mode_of,
    path_of,
    rows_of,
    show_path,
    split_key,
)
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.session import Session, complete
from artifactmount.sources import Found
from artifactmount.sources.access import Sources
from artifactmount.state import State
from artifactmount.steps import Local, Steps, drive

MAX_OBJECTS = 1_000_000
_MODE = mode_of(Kind.REFERENCE)
_TIME_LIMIT = 1 << 63  # what a row holds; a source may say anything


@dataclass(frozen=True, slots=True)
class Row:
    """A reference to be: its size in bytes, its time in ns, its record."""

    size: int
    mtime: int
    record: bytes


def add(
    project: Project,
    sources: Sources,
    name: str,
    uri: str,
    options: Options,
    *,
    path: bytes = b"",
    max_objects: int = MAX_OBJECTS,
    checksum: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Add what lies at `uri` to the newest version of the artifact `name`: a file as `path` (default: its own name), a folder below it.

    Raises UsageError for no URI; NotFoundError when nothing is there; RefusedError when there are more than `max_objects`, when something
    cannot be a path here, or a file of the version's own is in its place; SourceError, StoreError, OutcomeUnknownError.
    """
    options.check()
    uri = normal_uri(uri)
    progress = progress or Silent()
    progress.begin("listing", 0, 0)
    rows = Rows(path)
    for found in sources.find(uri, checksum=checksum):
        if rows.count == max_objects:
            raise RefusedError(f"{uri} holds more than {max_objects:,} objects; nothing was added; say --max-objects if that is meant")
        rows.add(found)
        progress.advance(0, 1)
    progress.end()
    return _propose(project, name, options, Addition(rows, uri))


def remove(project: Project, name: str, paths: Iterable[bytes], options: Options) -> Result:
    """Take references out of the newest version: those at these paths, and all below those that are folders.

    Raises NotFoundError when there is none; RefusedError for a file of the version's own; StoreError, OutcomeUnknownError.
    """
    options.check()
    project.existing(name)
    return _propose(project, name, options, Removal(name, list(paths)))


class Rows:
    """What is to be added: rows by directory. A hundred bytes each beside the record: a million of them must fit."""

    def __init__(self, path: bytes) -> None:
        self.path = b"/".join(part for part in path.split(b"/") if part)
        self.count = 0
        self._directories: dict[bytes, dict[bytes, Row]] = {}

    def add(self, found: Found) -> None:
        """Raises RefusedError for a path that cannot be here, UsageError for a record that cannot be."""
        key, name = self._place(found)
        rows = self._directories.setdefault(key, {})
        if name in rows:
            raise RefusedError(f"cannot be referenced: {show_path(path_of(key, name))} would be there twice")
        if not 0 <= found.size < SIZE_LIMIT:
            raise RefusedError(f"cannot be referenced: {found.referent.uri} says it has {found.size} bytes")
        mtime = found.mtime if abs(found.mtime) < _TIME_LIMIT else 0
        rows[name] = Row(found.size, mtime, found.referent.encode())
        self.count += 1

    def _place(self, found: Found) -> tuple[bytes, bytes]:
        path = found.path
        if not path and not self.path:
            path = name_of(found.referent.uri)
        whole = b"/".join(part for part in (self.path, path) if part)
        parts = whole.split(b"/")
        if any(part in (b"", b".", b"..") or len(part) > NAME_LIMIT or b"\0" in part for part in parts):
            raise RefusedError(f"cannot be referenced: {show_path(whole)} is no path that a folder could have; --name gives another one")
        if len(whole) > PATH_LIMIT or len(parts) > DEPTH_LIMIT:
            raise RefusedError(f"cannot be referenced: {show_path(whole)[:200]} is too long, or too deep")
        return b"\0".join(parts[:-1]), parts[-1]

    def directories(self) -> set[bytes]:
        """The keys of all directories that these rows need, without the root."""
        needed: set[bytes] = set()
        for key in self._directories:
            while key and key not in needed:
                needed.add(key)
                key, _ = split_key(key)
        return needed

    def within(self, key: bytes) -> dict[bytes, Row]:
        """The rows in a directory, by name."""
        return self._directories.get(key, {})

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((key, name) for key, rows in self._directories.items() for name in rows)


@dataclass(slots=True)
class Edit:
    """What is done to a version: directories and references that come, by (directory key, name) (None: a directory), and rows that go."""

    put: dict[bytes, dict[bytes, Row | None]] = field(default_factory=dict)
    gone: set[tuple[bytes, bytes]] = field(default_factory=set)

    def against(self, base: Table, name_of: Callable[[bytes], bytes]) -> RunBuilder:
        """As rows against the base. What is equal there already is left out. `name_of` gives a record's digest."""
        keys = self.put.keys() | {key for key, _ in self.gone}
        gone: dict[bytes, list[bytes]] = {}
        for key, name in self.gone:
            gone.setdefault(key, []).append(name)
        builder = RunBuilder()
        for key in sorted(keys):
            rows = self.put.get(key, {})
            for name in sorted({*rows, *gone.get(key, ())}):
                old = base.find(key, name)
                if name not in rows:
                    builder.add(key, name, Change.REMOVED, base.mode(old), base.size(old))
                    continue
                row, change = rows[name], Change.ADDED if old == MISSING else Change.CHANGED
                if row is None:
                    builder.add(key, name, change, mode_of(Kind.DIRECTORY), 0)
                    continue
                digest = name_of(row.record)
                if old == MISSING or (base.mode(old) & 3, base.size(old), base.digest(old)) != (Kind.REFERENCE, row.size, digest):
                    builder.add(key, name, change, _MODE, row.size, row.mtime, digest, row.record)
        return builder


class Addition:
    """Rows to be added, and references below `uri` that lead nowhere any more."""

    def __init__(self, rows: Rows, uri: str) -> None:
        self._rows, self._uri = rows, uri

    def edit(self, base: Table, runs: list[Run]) -> Edit:
        """What it does to a base. Raises RefusedError where something else is in the way."""
        edit = Edit()
        for key in self._rows.directories():
            parent, name = split_key(key)
            row = base.find(parent, name)
            if name in self._rows.within(parent):
                raise RefusedError(f"cannot be referenced: {show_path(path_of(key))} would be a file, and a folder with files in it")
            if row == MISSING:
                edit.put.setdefault(parent, {})[name] = None
            elif base.kind(row) is not Kind.DIRECTORY:
                raise _in_the_way(path_of(key), base.kind(row))
        for key, name in self._rows:
            row = base.find(key, name)
            if row != MISSING and base.kind(row) is not Kind.REFERENCE:
                raise _in_the_way(path_of(key, name), base.kind(row))
            edit.put.setdefault(key, {})[name] = self._rows.within(key)[name]
        for key, name, row in references(base, self._rows.path):
            if name not in self._rows.within(key) and leads_into(record_of(base, runs, row).uri, self._uri):
                edit.gone.add((key, name))
        _drop_empty(base, edit)
        return edit


class Removal:
    """References to be taken away."""

    def __init__(self, artifact: str, paths: list[bytes]) -> None:
        self._artifact, self._paths = artifact, paths

    def edit(self, base: Table, runs: list[Run]) -> Edit:
        """What it does to a base. Raises NotFoundError, RefusedError."""
        edit = Edit()
        for path in self._paths:
            row = base.lookup(path)
            if row != ROOT_ROW and row != MISSING and base.kind(row) not in (Kind.REFERENCE, Kind.DIRECTORY):
                raise RefusedError(f"{show_path(path)} is no reference; what is in the folder goes with the next snapshot")
            found = {(key, name) for key, name, _ in references(base, path)} if row != MISSING else set()
            if not found:
                raise NotFoundError(f"no references at {show_path(path) or '/'} in {self._artifact}; `artifactmount ls -l` shows them")
            edit.gone |= found
        _drop_empty(base, edit)
        return edit


def _in_the_way(path: bytes, kind: Kind) -> RefusedError:
    what = {Kind.DIRECTORY: "a folder", Kind.FILE: "a file", Kind.SYMLINK: "a symlink", Kind.REFERENCE: "a reference"}[kind]
    return RefusedError(f"{show_path(path)} is {what} of the version already; choose another --name, or take it out of the version first")


def references(table: Table, path: bytes = b"") -> Iterator[tuple[bytes, bytes, int]]:
    """(directory key, name, row) of the reference at a path, or of all below it, in order."""
    row = table.lookup(path)
    if row == MISSING:
        return
    start, stop = table.under(table.key_of(row)) if table.kind(row) is Kind.DIRECTORY else (row, row + 1)
    modes = bytes(table.modes[start:stop]).translate(_BARE)
    for at in rows_of(modes, Kind.REFERENCE):
        yield table.directory_of(start + at), table.name(start + at), start + at


_BARE = bytes(mode & 3 for mode in range(256))


def record_of(table: Table, runs: list[Run], row: int) -> Referent:
    """The record of a reference; `runs` as the table's origins. Raises CorruptError, NeedsNewerError."""
    origin, at = table.origin(row)
    return Referent.decode(runs[origin].target(at))


def _drop_empty(base: Table, edit: Edit) -> None:
    """With the last row of a directory goes the directory."""
    going = Counter(key for key, _ in edit.gone)
    above: set[bytes] = set()
    for key in going:
        while key not in above:
            above.add(key)
            key, _ = split_key(key)
    for key in sorted(above - {ROOT_KEY}, reverse=True):  # what is deeper comes first
        start, stop = base.span(key)
        if going[key] and stop - start == going[key] and not edit.put.get(key):
            parent, name = split_key(key)
            edit.gone.add((parent, name))
            going[parent] += 1


def _propose(project: Project, name: str, options: Options, change: Addition | Removal) -> Result:
    work = Referring(project.artifact(name), project.catalog(name), project.writer, options, change)
    state, result = drive(project.store, work.steps(project.refresh(name)))
    project.remember(name, state)
    return result


class Referring:
    """One change of references under way."""

    def __init__(self, artifact: Artifact, catalog: Catalog, writer: Writer, options: Options, change: Addition | Removal) -> None:
        self._artifact, self._catalog, self._writer, self._options, self._change = artifact, catalog, writer, options, change
        self._decided: tuple[tuple[int | None, int | None], Table, RunBuilder] | None = None
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
        """See Tree. Decided again only when the versions are others: opening a session loses a slot, and changes nothing."""
        decided = state.highest, state.latest
        if self._decided is not None and self._decided[0] == decided:
            return self._decided[1:]
        base: Table = yield Local(lambda: self._catalog.latest(state))
        runs: list[Run] = yield Local(lambda: self._catalog.runs(state, base))
        builder: RunBuilder = yield Local(lambda: self._change.edit(base, runs).against(base, self._artifact.cipher.chunking.digest))
        table: Table = yield Local(lambda: changed_by(base, builder))
        if len(builder) and state.latest != state.highest:
            newest: Table = yield Local(lambda: self._catalog.newest(state))
            builder = yield Local(lambda: between(newest, table, [*runs, as_run(builder)]))
        self._decided = decided, table, builder
        return table, builder

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree. References have no chunks."""
        yield from ()
        assert not needed


def between(base: Table, tree: Table, runs: list[Run]) -> RunBuilder:
    """The delta from a base to a tree whose rows come from `runs` (as its origins)."""
    builder = RunBuilder()
    for key, name, old, new in diff(base, tree):
        if new == MISSING:
            builder.add(key, name, Change.REMOVED, base.mode(old), base.size(old))
            continue
        change = Change.ADDED if old == MISSING else Change.CHANGED
        if kind_of(tree.mode(new)) is Kind.DIRECTORY:
            builder.add(key, name, change, tree.mode(new), 0)
            continue
        origin, at = tree.origin(new)
        run = runs[origin]
        chunks = b"".join(chunk.digest for chunk in run.chunks(at))
        builder.add(key, name, change, run.mode(at), run.size(at), run.mtime(at), run.digest_of(at), run.target(at), chunks)
    return builder
