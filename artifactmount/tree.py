"""What an inode number stands for, by arithmetic: there is nothing to look up, to count or to forget. Pure.

`slot << 32 | row + 1`. Slot 0 is the namespace: the root (inode 1), artifacts, aliases. Every version opened has a slot of its own, for its
directories (`slot << 32` is its root), and every run another, for files: a file's inode is the row of the run that last wrote it. So a file
that did not change between two versions is one inode, with one page cache, in both. Slots are never used again while mounted.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from artifactmount.errors import GoneError, NotDirectoryError
from artifactmount.manifest import ROOT_ROW, Table
from artifactmount.rows import Kind, is_executable, kind_of
from artifactmount.run import Run
from artifactmount.state import State, Version

ROOT_INODE = 1
_ROW_MASK = (1 << 32) - 1
_DIRECTORY_MODE = stat.S_IFDIR | 0o555
_LINK_MODE = stat.S_IFLNK | 0o777


class Attributes(NamedTuple):
    """What stat shows: mode with type, size in bytes, time in ns. `lasting`: it can never change while mounted."""

    inode: int
    mode: int
    size: int
    mtime: int
    lasting: bool


@dataclass(frozen=True, slots=True)
class NamespaceRoot:
    """The directory of all artifacts."""


@dataclass(frozen=True, slots=True)
class ArtifactDirectory:
    """One artifact: its versions and aliases."""

    name: str


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink of the namespace."""

    target: bytes


@dataclass(slots=True, eq=False)
class VersionSlot:
    """A version that was seen. Its table is loaded when somebody looks inside, and stays open until unmount."""

    number: int
    artifact: str
    version: Version
    time: int
    loaded: Table | None = None
    runs: list[RunSlot] = field(default_factory=list)

    @property
    def table(self) -> Table:
        """The table, which MUST be loaded."""
        assert self.loaded is not None
        return self.loaded


@dataclass(slots=True, eq=False)
class RunSlot:
    """A run that files were seen of."""

    number: int
    artifact: str
    version: Version
    run: Run
    time: int
    opened: bytearray = field(default_factory=bytearray)  # a bit for each row, once one is

    def is_first_open(self, row: int) -> bool:
        """Whether a file has not been opened before, by what was told this; from now on it has."""
        if not self.opened:
            self.opened = bytearray((self.run.count + 7) // 8)
        at, bit = row >> 3, 1 << (row & 7)
        first = not self.opened[at] & bit
        self.opened[at] |= bit
        return first


class Directory(NamedTuple):
    """A directory of a version; its row may be ROOT_ROW."""

    slot: VersionSlot
    row: int


class File(NamedTuple):
    """A file, symlink or reference: a row of a run."""

    slot: RunSlot
    row: int


Place = NamespaceRoot | ArtifactDirectory | Link | Directory | File


class Tree:
    """All inodes that were shown."""

    def __init__(self, started: int) -> None:
        self._started = started
        self._namespace: list[Place] = [NamespaceRoot()]
        self._named: dict[Place, int] = {NamespaceRoot(): ROOT_INODE}
        self._slots: list[VersionSlot | RunSlot | None] = [None]
        self._versions: dict[tuple[str, int], VersionSlot] = {}
        self._runs: dict[tuple[str, bytes], RunSlot] = {}
        self._searched: VersionSlot | None = None  # where `find` looked the last time, and the rows of that directory
        self._searched_row, self._span, self._next = ROOT_ROW, (0, 0), 0

    # -- inode to meaning ----------------------------------------------------------------------------------------------------------
    def place(self, inode: int) -> Place:
        """What an inode stands for."""
        slot, row = inode >> 32, (inode & _ROW_MASK) - 1
        if slot == 0:
            return self._namespace[row]
        holder = self._slots[slot]
        if isinstance(holder, VersionSlot):
            return Directory(holder, ROOT_ROW if row < 0 else row)
        if isinstance(holder, RunSlot):
            return File(holder, row)
        raise GoneError(f"no such inode: {inode}")

    # -- the namespace -------------------------------------------------------------------------------------------------------------
    def name(self, place: NamespaceRoot | ArtifactDirectory | Link) -> Attributes:
        """The attributes of a place in the namespace, giving it an inode when it is new."""
        inode = self._named.get(place)
        if inode is None:
            self._namespace.append(place)
            inode = self._named[place] = len(self._namespace)
        if isinstance(place, Link):
            return Attributes(inode, _LINK_MODE, len(place.target), self._started, lasting=False)
        return Attributes(inode, _DIRECTORY_MODE, 0, self._started, lasting=False)

    # -- versions ------------------------------------------------------------------------------------------------------------------
    def version(self, artifact: str, version: Version) -> VersionSlot:
        """The slot of a version. Numbers are never used again, so a number means one content for ever."""
        slot = self._versions.get((artifact, version.n))
        if slot is None:
            slot = VersionSlot(len(self._slots), artifact, version, time_of(version))
            self._slots.append(slot)
            self._versions[artifact, version.n] = slot
        return slot

    def load(self, slot: VersionSlot, table: Table, runs: Sequence[Run], state: State) -> None:
        """Give a version its table, and slots to the runs that its rows come from (in the order of the table's origins).

        They stay open from now on: a run may leave the store, and the cache, while the version lives on (a deletion below it).
        """
        if slot.loaded is None:
            writers = state.writers()
            slot.runs = [self._run_slot(slot.artifact, run, writers.get(run.digest, slot.version)) for run in runs]
            slot.loaded = table

    def _run_slot(self, artifact: str, run: Run, version: Version) -> RunSlot:
        slot = self._runs.get((artifact, run.digest))
        if slot is None:
            slot = RunSlot(len(self._slots), artifact, version, run, time_of(version))
            self._slots.append(slot)
            self._runs[artifact, run.digest] = slot
        return slot

    # -- in a version --------------------------------------------------------------------------------------------------------------
    @staticmethod
    def directory(slot: VersionSlot, row: int) -> Attributes:
        """The attributes of a directory of a version."""
        inode = slot.number << 32 | (0 if row == ROOT_ROW else row + 1)
        return Attributes(inode, _DIRECTORY_MODE, 0, slot.time, lasting=row != ROOT_ROW)

    def row(self, slot: VersionSlot, row: int) -> Attributes:
        """The attributes of any row of a version."""
        table = slot.table
        mode = table.modes[row]
        if mode == Kind.DIRECTORY:
            return self.directory(slot, row)
        origin, at = table.origin(row)
        return _file(slot.runs[origin], at, mode, table.sizes[row], table.mtimes[row])

    def find(self, directory: Directory, name: bytes) -> Attributes | None:
        """What stands under a name in a directory of a version, or None."""
        slot, table = directory.slot, directory.slot.table
        if self._searched is not slot or self._searched_row != directory.row:  # who looks for many names does so in one directory
            self._span = table.span(table.key_of(directory.row))
            self._searched, self._searched_row, self._next = slot, directory.row, self._span[0]
        first, last = self._span
        row, found = self._next, self._next < last and table.name(self._next) == name  # they are often in order
        if not found:
            row, found = table.position_in(first, last, name)
        self._next = row + found
        return self.row(slot, row) if found else None

    def list(self, directory: Directory, start: int) -> Iterator[tuple[int, bytes, Attributes]]:
        """(position after it, name, attributes) of the entries of a directory of a version, from a position on."""
        table = directory.slot.table
        first, last = table.span(table.key_of(directory.row))
        for row in range(first + start, last):
            yield row - first + 1, table.name(row), self.row(directory.slot, row)

    @staticmethod
    def file(file: File) -> Attributes:
        """The attributes of a file."""
        run = file.slot.run
        return _file(file.slot, file.row, run.mode(file.row), run.size(file.row), run.mtime(file.row))


def _file(slot: RunSlot, row: int, mode: int, size: int, mtime: int) -> Attributes:
    inode = slot.number << 32 | row + 1
    if kind_of(mode) is Kind.SYMLINK:
        return Attributes(inode, _LINK_MODE, size, slot.time, lasting=True)
    return Attributes(inode, stat.S_IFREG | (0o555 if is_executable(mode) else 0o444), size, mtime, lasting=True)


def as_directory(place: Place) -> NamespaceRoot | ArtifactDirectory | Directory:
    """`place`, or NotDirectoryError."""
    if isinstance(place, (Link, File)):
        raise NotDirectoryError("not a directory")
    return place


def time_of(version: Version) -> int:
    """When a version was committed, in ns; 0 when its writer's clock wrote nonsense."""
    try:
        return int(datetime.fromisoformat(version.time).timestamp() * 1_000_000) * 1000
    except (ValueError, OverflowError):
        return 0
