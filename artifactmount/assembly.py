"""A tree put together from several places, that a snapshot reads where they lie: nothing is copied to make it one folder.

Files and symlinks of this machine as they were when they were added, references, and rows of versions that are stored already. Knows
staging, checkouts and runs. Must not know packs, stores or the log.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from blake3 import blake3

from artifactmount.checkout import check_there
from artifactmount.digest import Chunking
from artifactmount.errors import NotFoundError, RefusedError, StagingError
from artifactmount.folders import Root
from artifactmount.listing import stat_record
from artifactmount.rows import (
    DEPTH_LIMIT,
    NAME_LIMIT,
    PATH_LIMIT,
    ROOT_KEY,
    Kind,
    child_key,
    is_executable,
    key_of,
    mode_of,
    path_of,
    show_path,
    split_key,
    split_path,
)
from artifactmount.run import Run
from artifactmount.staging import Listing, Staged, Staging, Tracked, untracked

_log = logging.getLogger(__name__)

_PART = 1 << 20
_OPEN_PLACES = 64  # folders of this machine that are open at once, each with up to 128 below it
_ZERO = bytes(32)
_POSITIVE = (1 << 60) - 1  # as a time in ns it is in 2006: never within the racy window


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of this machine, absolute and without links. `whole`: all of it was added, not some files of it."""

    path: str
    device: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Local:
    """A file or symlink below a place, with the stat record it had when it was added (see `staging`: inode, size, mtime, ctime, mode)."""

    place: Place
    key: bytes
    name: bytes
    record: tuple[int, ...]

    @property
    def mode(self) -> int:
        """The mode byte."""
        return self.record[4]

    @property
    def size(self) -> int:
        """In bytes, as it was when it was added."""
        return self.record[1]

    @property
    def path(self) -> bytes:
        """Where it lies."""
        return os.path.join(os.fsencode(self.place.path), path_of(self.key, self.name))


@dataclass(frozen=True, slots=True)
class Referenced:
    """A reference: its record, its size in bytes, its time in ns."""

    record: bytes
    size: int
    mtime: int
    mode: int = mode_of(Kind.REFERENCE)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of a run: what a version of the same artifact holds already. `version`: which, for messages."""

    run: Run
    row: int
    version: str

    @property
    def mode(self) -> int:
        """The mode byte."""
        return self.run.mode(self.row)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.run.size(self.row)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file of another artifact, which shares nothing with this one: its bytes are read when the version is made, and stored again.

    `read`: opens it. `digest`: of its content, as its own project names it.
    """

    read: Callable[[], BinaryIO]
    size: int
    mtime: int
    mode: int
    digest: bytes


Row = Local | Referenced | Kept | Foreign


@dataclass(slots=True)
class Assembly:
    """Directories by their keys; in each, by name, its rows; None stands for a directory."""

    directories: dict[bytes, dict[bytes, Row | None]] = field(default_factory=lambda: {ROOT_KEY: {}})

    def find(self, path: bytes) -> Row | None:
        """The row at a path. Raises NotFoundError when nothing is there; None for a directory."""
        key, name = split_path(path)
        if not name:
            return None
        rows = self.directories.get(key)
        if rows is None or name not in rows:
            raise NotFoundError(f"no {show_path(path)} in the artifact")
        return rows[name]

    def put(self, path: bytes, row: Row | None) -> None:
        """Put a row at a path, in the place of a row that is there; None: make sure that a directory is there.

        Raises RefusedError where a directory is in the place of a row or above it stands one, or for a path that no folder could have.
        """
        key, name = _checked(path)
        if not name:
            return
        rows = self.directories.get(key)
        if rows is None:
            rows = self._make(key)
        present = rows.get(name, row)
        if (present is None) != (row is None):
            raise RefusedError(f"{show_path(path)} cannot be a file and a folder")
        rows[name] = row
        if row is None:
            self.directories.setdefault(child_key(key, name), {})

    def fill(self, key: bytes, rows: dict[bytes, Row | None]) -> bool:
        """Put all rows of a directory at once, where it has none yet, as a folder of this machine has them: much faster than `put`.

        False, and nothing done, where it has some. Raises what `put` raises.
        """
        _checked(path_of(key, max(rows, key=len, default=b"")))
        if self.directories.get(key):
            return False
        if key not in self.directories:
            self._make(key)
        self.directories[key] = dict(rows)
        self.directories.update((child_key(key, name), {}) for name, row in rows.items() if row is None)
        return True

    def _make(self, key: bytes) -> dict[bytes, Row | None]:
        missing = []
        while key not in self.directories:
            parent, name = split_key(key)
            missing.append((parent, name, key))
            key = parent
        for parent, name, below in reversed(missing):
            if self.directories[parent].get(name) is not None:
                raise RefusedError(f"{show_path(path_of(below))} cannot be a file and a folder")
            self.directories[parent][name] = None
            self.directories[below] = {}
        return self.directories[missing[0][2]]

    def remove(self, path: bytes) -> int:
        """Take away what is at a path, a directory with all below; how many rows that were. Raises NotFoundError."""
        row = self.find(path)
        key, name = split_path(path)
        if row is not None:
            del self.directories[key][name]
            return 1
        top = key_of(b"/".join(part for part in path.split(b"/") if part))
        below = [at for at in self.directories if not top or at == top or at.startswith(top + b"\0")]
        count = sum(row is not None for at in below for row in self.directories[at].values())
        for at in below:
            del self.directories[at]
        if name:
            del self.directories[key][name]
        self.directories.setdefault(ROOT_KEY, {})
        return count

    def everything(self) -> Iterator[tuple[bytes, Row | None]]:
        """(path, row) of everything, in the order of rows; None: a directory."""
        for key in sorted(self.directories):
            for name, row in sorted(self.directories[key].items(), key=lambda item: item[0]):
                yield path_of(key, name), row

    def rows(self) -> Iterator[tuple[bytes, Row]]:
        """(path, row) of everything but directories, in the order of rows."""
        return ((path, row) for path, row in self.everything() if row is not None)

    def places(self) -> set[Place]:
        """The places that its rows lie in."""
        found = {id(row.place): row.place for rows in self.directories.values() for row in rows.values() if isinstance(row, Local)}
        return set(found.values())


def local_file(path: str) -> Local:
    """A file of this machine (a link leads to its file). Raises NotFoundError, StagingError when it is none or cannot be looked at."""
    real = os.fsencode(os.path.realpath(path))
    try:
        status = os.stat(real)
        folder = os.path.dirname(real)
        place = Place(os.fsdecode(folder), status.st_dev, whole=False)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}") from None
    except OSError as error:
        raise StagingError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StagingError(f"not a file: {path}")
    return Local(place, ROOT_KEY, os.path.basename(real), stat_record(status))


def local_folder(path: str) -> Iterator[tuple[bytes, dict[bytes, Row | None]]]:
    """(directory key, rows by name) of every folder in a folder of this machine, in the order of rows; None: a directory.

    What its `.artifactignore` leaves out is logged as a number. Raises NotFoundError, StagingError naming sockets, devices and FIFOs;
    RefusedError for a checkout whose files are not there.
    """
    check_there(path)
    with Staging(path) as staging:
        place = Place(staging.path, os.stat(staging.path).st_dev, whole=True)
        for listing in staging.walk():
            rows = zip(listing.names, listing.modes, map(listing.record, range(len(listing.names))), strict=True)
            key = listing.key
            yield key, {name: None if mode == Kind.DIRECTORY else Local(place, key, name, record) for name, mode, record in rows}
        if staging.ignored:
            _log.warning("%s: %d entries are left out, as its .artifactignore says", path, staging.ignored)


class AssembledStaging(Staged):
    """An assembly as a snapshot reads it. `name`: of the artifact; `chunking`: how its content is named. Use as a context manager.

    A file must be what it was when it was added: nothing of it was copied then, and other content must not go in unseen.
    """

    whole = True

    def __init__(self, assembly: Assembly, name: str, chunking: Chunking) -> None:
        self._assembly, self._chunking = assembly, chunking
        self._open: OrderedDict[str, Staging] = OrderedDict()
        self._lock = threading.Lock()
        self._places = assembly.places()
        # The devices, as a stat record says nothing of them: an inode number is one file only on its own.
        devices = sorted({place.device for place in self._places})
        self.key = blake3(f"assembled {devices} {name}".encode()).digest()[:16]

    def __enter__(self) -> AssembledStaging:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()
        while self._open:
            self._open.popitem()[1].__exit__()

    def _at(self, place: Place) -> Staging:
        """A place, open; the lock MUST be held."""
        staging = self._open.get(place.path)
        if staging is None:
            staging = self._open[place.path] = Staging(place.path)
            if len(self._open) > _OPEN_PLACES:
                self._open.popitem(last=False)[1].__exit__()
        self._open.move_to_end(place.path)
        return staging

    def clock(self) -> int:
        """See Staged: of the file system whose clock is behind, so that no file is trusted that another clock would not trust."""
        by_device = {place.device: place for place in self._places}
        with self._lock:
            return min((self._at(place).clock() for place in by_device.values()), default=0)

    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """See Staged. What was ignored was never added."""
        for key in sorted(self._assembly.directories):
            listing = Listing(key, [], bytearray(), array("q"))
            for name, row in sorted(self._assembly.directories[key].items(), key=lambda item: item[0]):
                mode, digest, record = self._facts(row)
                listing.names.append(name)
                listing.modes.append(mode)
                listing.digests += digest
                listing.records.extend(record)
            yield listing

    def _facts(self, row: Row | None) -> tuple[int, bytes, tuple[int, ...]]:
        """Mode, digest where it is known (else zeros), and stat record of a row: of what has no stat, made of its digest."""
        match row:
            case None:
                return mode_of(Kind.DIRECTORY), _ZERO, (0, 0, 0, 0, 0)
            case Local():
                return row.mode, _ZERO, row.record
            case Referenced():
                digest, mtime = self._chunking.digest(row.record), row.mtime
            case Kept():
                digest, mtime = row.run.digest_of(row.row), row.run.mtime(row.row)
            case Foreign():
                digest, mtime = row.digest, row.mtime
        first, second = (int.from_bytes(digest[at : at + 8], "little", signed=True) for at in (0, 8))
        return row.mode, _ZERO if isinstance(row, Foreign) else digest, (first, row.size, mtime, second & _POSITIVE, row.mode)

    def _local(self, path: bytes) -> Local:
        row = self._assembly.find(path)
        if isinstance(row, Kept):
            raise StagingError(f"{self.show(path)} is of {row.version}, which was deleted meanwhile; nothing was committed")
        if not isinstance(row, Local):
            raise self.changed(path)
        return row

    def open(self, path: bytes) -> int:
        """See Staged. Raises StagingError when it is not what was added."""
        found = self._assembly.find(path)
        if isinstance(found, Foreign):
            return _fetched(found)
        row = self._local(path)
        with self._lock:
            descriptor = self._at(row.place).open(path_of(row.key, row.name))
        if stat_record(os.fstat(descriptor)) != row.record:
            os.close(descriptor)
            raise self.changed(path)
        return descriptor

    def located(self, key: bytes, name: bytes) -> tuple[Root, bytes, bytes] | None:
        """See Staged."""
        row = self._assembly.find(path_of(key, name))
        if not isinstance(row, Local):
            return None
        with self._lock:
            return self._at(row.place).located(row.key, row.name)

    def target(self, path: bytes) -> bytes:
        """See Staged."""
        row = self._assembly.find(path)
        if isinstance(row, Referenced):
            return row.record
        if isinstance(row, Kept):
            return row.run.target(row.row)
        row = self._local(path)
        with self._lock:
            return self._at(row.place).target(path_of(row.key, row.name))

    def chunk_digests(self, path: bytes, digest: bytes) -> bytes | None:
        """See Staged."""
        row = self._assembly.find(path)
        return b"".join(chunk.digest for chunk in row.run.chunks(row.row)) if isinstance(row, Kept) else None

    def show(self, path: bytes) -> str:
        """See Staged."""
        row = self._assembly.find(path) if path else None
        return os.fsdecode(row.path) if isinstance(row, Local) else show_path(path) or "the artifact"

    def changed(self, path: bytes) -> StagingError:
        """See Staged."""
        return StagingError(f"{self.show(path)} changed since it was added; nothing was committed; add it again")


def _fetched(row: Foreign) -> int:
    """A descriptor of a file without a name that has the bytes of another artifact's: they are not on this machine."""
    with row.read() as source, tempfile.TemporaryFile() as file:
        shutil.copyfileobj(source, file, _PART)
        file.flush()
        os.fchmod(file.fileno(), 0o700 if is_executable(row.mode) else 0o600)
        os.utime(file.fileno(), ns=(row.mtime, row.mtime))
        os.lseek(file.fileno(), 0, os.SEEK_SET)  # whoever reads it next goes on from where it stands
        return os.dup(file.fileno())


def _checked(path: bytes) -> tuple[bytes, bytes]:
    """Directory key and name of a path in an artifact. Raises RefusedError for one that no folder could have."""
    key, name = split_path(path)
    parts = [*key.split(b"\0"), name] if key else [name]
    if any(part in (b".", b"..") or len(part) > NAME_LIMIT or b"\0" in part for part in parts):
        raise RefusedError(f"{show_path(path)} is no path that a folder could have")
    if len(path) > PATH_LIMIT or len(parts) > DEPTH_LIMIT:
        raise RefusedError(f"{show_path(path)[:200]} is too long, or too deep")
    return key, name
