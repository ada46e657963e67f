"""A version that is in the project, as the Python API reads it. Everything is read when it is asked for, and kept."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from artifactmount.api.opened import Opened
from artifactmount.assembly import Foreign, Kept
from artifactmount.blocks import Blocks
from artifactmount.card import Card
from artifactmount.compare import compare
from artifactmount.download import download
from artifactmount.errors import (
    ArgumentError,
    IsDirectoryError,
    MissingEntryError,
    MissingFileError,
    NotDirectoryError,
    RefusedError,
)
from artifactmount.fetch import Fetcher
from artifactmount.manifest import MISSING, Table
from artifactmount.names import Reference, resolve
from artifactmount.pieces import Pieces, pieces_of
from artifactmount.project import Project
from artifactmount.rows import Kind, kind_of, path_of, show_path
from artifactmount.run import Run
from artifactmount.state import RESERVED, State, Version
from artifactmount.stream import buffered

_LINKS = 40  # as many as Linux follows


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The manifest of a version, and the runs that its rows come from."""

    table: Table
    runs: list[Run]


class Stored:
    """Version `number` of the artifact `name`. `state`: one of the artifact's that has it (default: the newest); aliases are of then."""

    def __init__(self, opened: Opened, name: str, number: int, state: State | None = None) -> None:
        self.opened, self.name, self.number = opened, name, number
        self.reference = Reference(name, f"v{number}")
        self._take(opened.project.existing(name) if state is None else state)
        self._loaded: _Loaded | None = None
        self._fetcher: tuple[Project, Fetcher] | None = None

    def refresh(self) -> None:
        """Take over the newest state. Raises NotFoundError when the version is not there (any more)."""
        self._take(self.opened.project.existing(self.name))

    def _take(self, state: State) -> None:
        self.state: State = state
        self.version: Version = resolve(state, self.reference)
        self._card: Card | None = None

    def is_there(self) -> bool:
        """Whether the version was not deleted."""
        return self.number in self.opened.project.refresh(self.name).versions

    @property
    def aliases(self) -> list[str]:
        """All that point to it, `latest` too, in order."""
        return sorted(alias for alias, n in self.state.aliases.items() if n == self.number and not RESERVED.fullmatch(alias))

    @property
    def type(self) -> str:
        """The artifact's type."""
        return self.state.type or "dataset"

    @property
    def card(self) -> Card:
        """Note, metadata, labels. Raises NotFoundError, CorruptError, StoreError."""
        if self._card is None:
            catalog = self.opened.project.catalog(self.name)
            self._card = self.opened.project.reading(self.name, lambda state: catalog.card(resolve(state, self.reference)), self.state)
        return self._card

    # -- rows ------------------------------------------------------------------------------------------------------------------------
    def _load(self) -> _Loaded:
        if self._loaded is None:
            catalog = self.opened.project.catalog(self.name)

            def load(state: State) -> _Loaded:
                table = catalog.table(state, resolve(state, self.reference).n)
                return _Loaded(table, catalog.runs(state, table))

            self._loaded = self.opened.project.reading(self.name, load, self.state)
        return self._loaded

    def rows(self) -> Iterator[tuple[bytes, Kept | None]]:
        """(path, row) of everything in it, in order; None: a directory."""
        loaded = self._load()
        for key, name, row in loaded.table.walk():
            yield path_of(key, name), None if kind_of(loaded.table.mode(row)) is Kind.DIRECTORY else self._row(loaded, row)

    def find(self, path: bytes) -> Kept:
        """The row of a file. Raises MissingEntryError, IsDirectoryError."""
        loaded = self._load()
        row = loaded.table.lookup(path)
        if row == MISSING:
            raise MissingEntryError(f"no {show_path(path)} in {self.reference}")
        if loaded.table.kind(row) is Kind.DIRECTORY:
            raise IsDirectoryError(f"{show_path(path) or '/'} in {self.reference} is a folder")
        return self._row(loaded, row)

    @property
    def table(self) -> Table:
        """Its manifest."""
        return self._load().table

    def row(self, number: int) -> Kept:
        """A row of its table that is no directory."""
        return self._row(self._load(), number)

    def _row(self, loaded: _Loaded, row: int) -> Kept:
        origin, at = loaded.table.origin(row)
        return Kept(loaded.runs[origin], at, str(self.reference))

    # -- content ---------------------------------------------------------------------------------------------------------------------
    def stream(self, path: bytes) -> io.BufferedReader:
        """A file to read from; a symlink of the version is followed to a file in it.

        Raises MissingEntryError, IsDirectoryError; while reading GoneError, CorruptError, StoreError, SourceError.
        """
        return self.stream_of(self._follow(path), path)

    def stream_of(self, row: Kept, path: bytes) -> io.BufferedReader:
        """As `stream`, of a file or reference of any version of the artifact; `path` is for messages."""
        return buffered(self.pieces_of(row), f"{self.reference}/{show_path(path)}")

    def pieces_of(self, row: Kept) -> Pieces:
        """The pieces of a file or reference of any version of the artifact. Raises CorruptError, NeedsNewerError."""
        project = self.opened.project
        if self._fetcher is None or self._fetcher[0] is not project:
            self._fetcher = project, Fetcher(project, self.name)
        blocks = Blocks(project.cache, self.opened.sources)
        return pieces_of(row.run, row.row, self._fetcher[1], lambda: project.known(self.name) or project.refresh(self.name), blocks)

    def foreign(self, path: bytes) -> Foreign:
        """A file, to be added to another artifact. Raises MissingEntryError, IsDirectoryError."""
        row = self.find(path)
        run, at = row.run, row.row
        return Foreign(partial(self.stream_of, row, path), run.size(at), run.mtime(at), run.mode(at), run.digest_of(at))

    def locate(self, path: bytes) -> int:
        """The number in the table of what a path leads to: symlinks are followed as the kernel does, within the version.

        Raises MissingEntryError where nothing is, or a symlink leads out of the version; NotDirectoryError below a file.
        """
        table, at, links = self._load().table, b"", 0
        left = path.split(b"/")[::-1]  # the next name last
        while left:
            name = left.pop()
            if name == b"..":
                if not at:
                    break
                at = os.path.dirname(at)
            if name in (b"", b".", b".."):
                continue
            row = table.lookup(os.path.join(at, name))
            if row == MISSING:
                raise MissingEntryError(f"no {show_path(path)} in {self.reference}")
            kind = table.kind(row)
            if kind is Kind.SYMLINK:
                links += 1
                kept = self.row(row)
                target = kept.run.target(kept.row)
                if links > _LINKS or target.startswith(b"/"):
                    break
                left += target.split(b"/")[::-1]
                continue
            at = os.path.join(at, name)
            if kind is not Kind.DIRECTORY and left:
                raise NotDirectoryError(f"{show_path(at)} in {self.reference} is no folder")
        else:
            return table.lookup(at)
        raise MissingEntryError(f"{show_path(path)} in {self.reference} is a symlink that leads out of the version, or round and round")

    def _follow(self, path: bytes) -> Kept:
        row = self.locate(path)
        if self.table.kind(row) is Kind.DIRECTORY:
            raise IsDirectoryError(f"{show_path(path) or '/'} in {self.reference} is a folder")
        return self.row(row)

    def download(self, root: str, *, path: bytes = b"", prefix: bytes = b"", allow_missing: bool = False) -> tuple[str, ...]:
        """Write it, or a part of it, below `root`, replacing what differs; what was skipped, a line each. See `download`."""
        reference = Reference(self.name, self.reference.version, path)
        project, sources = self.opened.project, self.opened.sources
        return download(project, reference, root, sources=sources, overwrite=True, allow_missing=allow_missing, prefix=prefix).skipped

    def verify(self, root: str) -> None:
        """Compare a folder with it, byte by byte. Raises ArgumentError naming what is wrong, MissingFileError for what is missing."""
        if not os.path.isdir(root):
            raise MissingFileError(f"no such folder: {root}")
        found = compare(self.opened.project, self.reference, root)
        if found.extra:
            raise ArgumentError(f"Found file {show_path(found.extra[0])} which is not a member of artifact {self.reference}")
        if found.differing:
            raise ArgumentError(f"Digest mismatch for file: {show_path(found.differing[0])} ({len(found.differing)} in all)")
        if found.missing:
            raise MissingFileError(f"{show_path(found.missing[0])} of {self.reference} is not in {root} ({len(found.missing)} in all)")

    def checkout(self, root: str) -> None:
        """Make a folder what the version is: what is not of it is deleted. Raises what `download` raises."""
        if os.path.isdir(root):
            real = os.path.realpath(root)
            self.opened.project.check_apart(real)
            if real in ("/", os.path.realpath(os.path.expanduser("~"))):
                raise RefusedError(f"{root} would be emptied of all that is not in {self.reference}; choose another folder")
            top = os.fsencode(root)
            for path in reversed(compare(self.opened.project, self.reference, root).extra):
                whole = os.path.join(top, path)
                if os.path.isdir(whole) and not os.path.islink(whole):
                    os.rmdir(whole)  # what is in it comes before it
                else:
                    os.unlink(whole)
        self.download(root)

    @contextmanager
    def mounted(self) -> Iterator[str]:
        """See `mounts`."""
        from artifactmount.api.mounts import mounted  # trio and pyfuse3 take longer to import than all else together

        with mounted(self.opened, self.reference) as path:
            yield path
