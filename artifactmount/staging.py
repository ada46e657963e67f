"""The writable folder a snapshot reads: walking it, trusting its stats only where they cannot lie, reading files that may change.

Knows nothing of versions, packs or stores. Rules: a stat is trusted only when kind, size, mtime, ctime and inode are those of the last
scan *and* the file was not touched within the racy window of that scan (git, Documentation/technical/racy-git.adoc): a file written again
within one tick of the clock keeps its timestamps. Everything is opened folder by folder from the root's descriptor, so that paths of 4,095
bytes below a deep root still work, and without following links, also where one takes a folder's place meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from artifactmount.digest import DIGEST_LENGTH
from artifactmount.errors import NotFoundError, StagingError
from artifactmount.folders import Folders, Root
from artifactmount.ignore import IGNORE_FILE, IGNORE_LIMIT, IgnoreRules
from artifactmount.listing import FIELDS, ODD, ODD_NAMES, Listed, list_folder, unchanged
from artifactmount.lookahead import Lookahead
from artifactmount.rows import (
    DEPTH_LIMIT,
    EXECUTABLE,
    NAME_LIMIT,
    PATH_LIMIT,
    ROOT_KEY,
    Kind,
    child_key,
    path_of,
    rows_of,
    show_path,
    split_path,
)
from artifactmount.workers import Workers

#: FAT keeps times to 2 s, the coarsest file system that can hold a staging folder.
RACY_WINDOW = 2_000_000_000
_RECORD = 8 * FIELDS
#: Bytes of memory shared with a worker for one job.
_SLOT = 6 << 20
_ZERO = bytes(DIGEST_LENGTH)
_COUNT = struct.Struct("<I")
Tracked = Callable[[bytes], Container[bytes]]
"""The names that a version has already in the directory of a key: as with git, what it has is not ignored."""


def untracked(key: bytes) -> Container[bytes]:
    """Tracks nothing."""
    return ()


@dataclass(slots=True)
class Listing:
    """One directory as it was found, rows in order of their names. Times in ns, sizes in bytes.

    `digests` holds the content digest where the last scan's can be trusted, and zeros where the file must be read. `hidden`: None where the
    listing is the whole directory; else it lies over that of a version, whose rows shine through but for these names, in order.
    """

    key: bytes
    names: list[bytes]
    modes: bytearray
    records: array[int]
    digests: bytearray = field(default_factory=bytearray)
    hidden: list[bytes] | None = None

    def size(self, row: int) -> int:
        """Size in bytes; 0 for a directory."""
        return self.records[row * FIELDS + 1]

    def mtime(self, row: int) -> int:
        """Modification time in ns."""
        return self.records[row * FIELDS + 2]

    def digest(self, row: int) -> bytes | None:
        """The trusted content digest, or None."""
        digest = bytes(self.digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH])
        return None if digest == _ZERO else digest

    def learn(self, row: int, digest: bytes, record: Sequence[int] | None = None) -> None:
        """Remember what reading the file gave, and the stat record that was true while it was read."""
        self.digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH] = digest
        if record is not None:
            self.modes[row] = record[4]
            self.records[row * FIELDS : (row + 1) * FIELDS] = array("q", record)

    def record(self, row: int) -> tuple[int, ...]:
        """The stat record."""
        return tuple(self.records[row * FIELDS : (row + 1) * FIELDS])

    def sizes(self) -> bytes:
        """The sizes as a column (uint64 each)."""
        return self.records[1::FIELDS].tobytes()

    def encode(self, clock: int) -> bytes:
        """The stat-cache value. What was touched after `clock` minus the racy window is made unequal to every later stat."""
        records = array("q", self.records)
        limit = clock - RACY_WINDOW
        if len(records) and max(records[2::FIELDS].tolist() + records[3::FIELDS].tolist()) >= limit:
            for at in range(0, len(records), FIELDS):
                if max(records[at + 2], records[at + 3]) >= limit:
                    records[at] = -1
        lengths = bytes(map(len, self.names))
        return b"".join((_COUNT.pack(len(lengths)), records.tobytes(), lengths, bytes(self.digests), *self.names))

    def trust(self, value: bytes) -> None:
        """Take over the digests of the last scan's value where nothing changed since."""
        (count,) = _COUNT.unpack_from(value)
        at = _COUNT.size
        records, lengths = value[at : at + _RECORD * count], value[at + _RECORD * count : at + (_RECORD + 1) * count]
        digests_at = at + (_RECORD + 1) * count
        names = value[digests_at + DIGEST_LENGTH * count :]
        if records == self.records.tobytes() and names == b"".join(self.names) and lengths == bytes(map(len, self.names)):
            self.digests = bytearray(value[digests_at : digests_at + DIGEST_LENGTH * count])
            return
        known: dict[bytes, int] = {}
        start = 0
        for row, length in enumerate(lengths):
            known[names[start : start + length]] = row
            start += length
        mine = self.records.tobytes()
        for row, name in enumerate(self.names):
            old = known.get(name)
            if old is not None and records[old * _RECORD : (old + 1) * _RECORD] == mine[row * _RECORD : (row + 1) * _RECORD]:
                digest = value[digests_at + old * DIGEST_LENGTH : digests_at + (old + 1) * DIGEST_LENGTH]
                self.digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH] = digest


class Staged(ABC):
    """What a snapshot reads, wherever the files lie: one folder, or a tree that was put together. Paths are those in the version.

    `key`: 16 bytes, what its stats are remembered under. `whole`: whether a reference that is not in it is to go; a folder cannot hold
    any, so that there is none in it says nothing. `ignored`: how many entries the last walk left out, a folder counting as one. Threads may
    share one, but for `walk`.
    """

    key: bytes
    whole = False
    ignored = 0
    _workers: Workers | None = None
    _workers_tried = False

    def workers(self) -> Workers | None:
        """Processes that read beside this one, started when they are first asked for; None where there cannot be any."""
        if not self._workers_tried:  # once: where none can be started, each directory would try again
            self._workers, self._workers_tried = Workers.start(_SLOT), True
        return self._workers

    def dismiss(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
        self._workers, self._workers_tried = None, False

    @abstractmethod
    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """Every directory, in the order of rows, without what is ignored unless it is `tracked`. Raises StagingError.

        `expected`: about how many entries there are, where that is known.
        """

    @abstractmethod
    def clock(self) -> int:
        """The file system's own time in ns: what it would stamp on a file written now."""

    @abstractmethod
    def open(self, path: bytes) -> int:
        """A descriptor of a file. Raises StagingError naming it."""

    def located(self, key: bytes, name: bytes) -> tuple[Root, bytes, bytes] | None:
        """Where a file lies on this machine: below which root, with its directory key and name there. None where it does not."""
        return None

    @abstractmethod
    def target(self, path: bytes) -> bytes:
        """What a symlink points to, or the record of a reference. Raises StagingError."""

    @abstractmethod
    def show(self, path: bytes) -> str:
        """A path, or the root, for a message."""

    def chunk_digests(self, path: bytes, digest: bytes) -> bytes | None:
        """The digests of the chunks of a file of this content digest, one after the other, where they are known without reading it."""
        return None

    def unreadable(self, path: bytes, error: OSError) -> StagingError:
        """The error for a path that could not be read, or is no longer what it was."""
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENXIO):
            return self.changed(path)
        return StagingError(f"cannot read {self.show(path)}: {error.strerror}; nothing was committed")

    def changed(self, path: bytes) -> StagingError:
        """The error for a path that is no longer what it was."""
        return StagingError(f"{self.show(path)} changed while the snapshot was taken; nothing was committed, run it again")

    def read(self, path: bytes, limit: int) -> tuple[bytes, os.stat_result] | None:
        """All bytes of a file, and the stat that was true before and after; None when it is larger than `limit`.

        Raises StagingError after three tries.
        """
        for _ in range(3):
            descriptor = self.open(path)
            try:
                before = os.fstat(descriptor)
                if before.st_size > limit:
                    return None
                content = _read_all(descriptor, before.st_size)
                if unchanged(before, os.fstat(descriptor)) and len(content) == before.st_size:
                    return content, before
            except OSError as error:
                raise self.unreadable(path, error) from error
            finally:
                os.close(descriptor)
        raise self.restless(path)

    def restless(self, path: bytes) -> StagingError:
        """The error for a file that was written each time it was read."""
        return StagingError(f"{self.show(path)} is being written: it changed three times while it was read; nothing was committed")


class Staging(Staged):
    """An open staging folder. Use as a context manager."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        try:
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFoundError(f"no such folder: {path}") from None
        except NotADirectoryError:
            raise StagingError(f"not a folder: {path} (a snapshot takes a folder; put the file in one)") from None
        except OSError as error:
            raise StagingError(f"cannot read {path}: {error.strerror}") from error
        self._folders, self._lock = Folders(self._root), threading.Lock()
        status = os.fstat(self._root)
        self._where = Root(self.path, status.st_dev, status.st_ino)
        self.key = blake3(f"{status.st_dev} {status.st_ino} ".encode() + os.fsencode(self.path)).digest()[:16]

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()
        self._folders.close()
        os.close(self._root)

    def clock(self) -> int:
        """The staging file system's own time in ns: what it would stamp on a file written now.

        A network file system stamps with its server's clock. Where nothing can be written, this machine's clock must do.
        """
        try:
            # O_TMPFILE makes a file without a name: the folder itself is not touched.
            descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600, dir_fd=self._root)
        except OSError:
            return time.time_ns()
        try:
            os.utime(descriptor)
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)

    def open(self, path: bytes) -> int:
        """A descriptor of a file. Raises StagingError naming it."""
        try:
            # Without O_NONBLOCK, a FIFO that took the file's place since it was listed would wait for a writer for ever.
            with self._lock:
                key, name = split_path(path)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, dir_fd=self._folders.open(key))
        except OSError as error:
            raise self.unreadable(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self.changed(path)
        return descriptor

    def located(self, key: bytes, name: bytes) -> tuple[Root, bytes, bytes] | None:
        """See Staged."""
        return self._where, key, name

    def target(self, path: bytes) -> bytes:
        """What a symlink points to, as it is. Raises StagingError."""
        try:
            with self._lock:
                key, name = split_path(path)
                return os.readlink(name, dir_fd=self._folders.open(key))
        except OSError as error:
            raise self.unreadable(path, error) from error

    def show(self, path: bytes) -> str:
        """A path below the root, or the root, for a message."""
        return show_path(path) if path else self.path

    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """See Staged. Raises StagingError naming sockets, devices and FIFOs, after the whole walk."""
        refused: list[str] = []
        self.ignored, rules = 0, IgnoreRules()
        keys, outsides = [ROOT_KEY], [False]  # outside: in a folder that is ignored, and looked into for what is tracked in it
        ahead = Lookahead(self._where, self.workers, expected) if self._apart() else None
        while keys:
            listed = ahead.take(keys) if ahead is not None else None
            key, outside = keys.pop(), outsides.pop()
            found = self._entries(key) if listed is None else listed
            if ahead is not None:
                ahead.note(found)
            if not outside and (content := self._ignore_file(key, found)) is not None:
                rules.add(key, content)
            if outside or rules:
                found, below = self._sift(key, found, tracked(key), rules, outside=outside)
            else:
                below = [(child_key(key, found.names[row]), False) for row in rows_of(found.modes, Kind.DIRECTORY)]
            for inner, left_out in reversed(below):
                keys.append(inner)
                outsides.append(left_out)
            yield self._listing(key, found, refused)
        if refused:
            more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
            todo = "remove them, or name them in .artifactignore; nothing was committed"
            raise StagingError(f"cannot be versioned: {', '.join(refused[:5])}{more}; {todo}")

    def _sift(
        self, key: bytes, found: Listed, known: Container[bytes], rules: IgnoreRules, *, outside: bool
    ) -> tuple[Listed, list[tuple[bytes, bool]]]:
        """What of a directory is not ignored, and the directories in it, each with whether only what is tracked counts there."""
        rows: list[int] = []
        below: list[tuple[bytes, bool]] = []
        for row, (name, mode) in enumerate(zip(found.names, found.modes, strict=True)):
            folder = mode == Kind.DIRECTORY
            # The rules are asked last: they cost most. Of a folder that the version has they say what becomes of new files in it.
            left_out = (folder or name not in known) and (outside or rules.ignores(key, name, folder=folder))
            if left_out and name not in known:
                self._leave_out(key, name)
                continue
            rows.append(row)
            if folder:
                below.append((child_key(key, name), left_out))
        return found.select(rows), below

    def _leave_out(self, key: bytes, name: bytes) -> None:
        """Count what is ignored: it is in no listing."""
        self.ignored += 1

    def _apart(self) -> bool:
        """Whether workers can list it as well: there is no more to an entry than what the folder says."""
        return type(self)._entries is Staging._entries

    def _entries(self, key: bytes) -> Listed:
        """What lies in a directory."""
        try:
            with self._lock:
                return list_folder(self._folders.open(key))
        except OSError as error:
            raise self.unreadable(path_of(key), error) from error

    def _ignore_file(self, key: bytes, found: Listed) -> bytes | None:
        """The content of a directory's ignore file. A link is none: what it leads to is not of the folder."""
        at = bisect_left(found.names, IGNORE_FILE)
        if found.names[at : at + 1] != [IGNORE_FILE] or found.modes[at] & ~EXECUTABLE != Kind.FILE:
            return None
        return self.ignore_file(path_of(key, IGNORE_FILE))

    def ignore_file(self, path: bytes) -> bytes:
        """The content of a file of patterns. Raises StagingError when it is too large for one."""
        read = self.read(path, IGNORE_LIMIT)
        if read is None:
            raise StagingError(f"{self.show(path)} is larger than {IGNORE_LIMIT:,} bytes; nothing was committed")
        return read[0]

    def _listing(self, key: bytes, found: Listed, refused: list[str]) -> Listing:
        if max(found.modes, default=0) >= ODD:
            odd = [row for row, mode in enumerate(found.modes) if mode >= ODD]
            refused += (f"{self.show(path_of(key, found.names[row]))} ({ODD_NAMES[found.modes[row]]})" for row in odd)
            found = found.select([row for row, mode in enumerate(found.modes) if mode < ODD])
        self._check_limits(key, found.names)
        return Listing(key, found.names, found.modes, found.records, bytearray(DIGEST_LENGTH * len(found.names)))

    def _check_limits(self, key: bytes, names: list[bytes]) -> None:
        if not names:
            return  # an empty directory may stand at the very limit
        longest = max(map(len, names))
        if longest > NAME_LIMIT or len(key) + 1 + longest > PATH_LIMIT or key.count(b"\0") + 2 > DEPTH_LIMIT:
            where = self.show(path_of(key))
            raise StagingError(f"too long or too deep below {where[:200]}: paths may have {PATH_LIMIT} bytes, {DEPTH_LIMIT} levels")


def _read_all(descriptor: int, size: int) -> bytes:
    parts = []
    while part := os.read(descriptor, max(size + 1, 1)):  # one byte more: a file that grew shows in its length
        parts.append(part)
        size -= len(part)
        if size < 0:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)
