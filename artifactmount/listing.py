"""What lies in the folders that a snapshot reads, as plain bytes: names, mode bytes, and what stat says.

Runs in worker processes, too. Must not know versions or stores, nor import what hashes: a worker that only lists starts in half the time.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from artifactmount.folders import Root, folders_at
from artifactmount.rows import Kind, mode_of

#: Of a stat record: inode, size, mtime, ctime, mode byte; int64 each. Times in ns.
FIELDS = 5
_DIRECTORY, _NO_RECORD = mode_of(Kind.DIRECTORY), (0,) * FIELDS
#: Mode bytes from here on are of what cannot be versioned.
ODD = 0x80
_ODD = {stat.S_IFSOCK: 0x81, stat.S_IFIFO: 0x82, stat.S_IFCHR: 0x83, stat.S_IFBLK: 0x84}
#: How an overlay marks what it hides of the lower folder: a character device 0/0.
WHITEOUT = 0x85
#: What the odd ones are, for messages.
ODD_NAMES = {ODD: "not a file", 0x81: "socket", 0x82: "FIFO", 0x83: "character device", 0x84: "block device", WHITEOUT: "character device"}

Record = tuple[int, int, int, int, int]


class Listed(NamedTuple):
    """What lies in a folder, in the order of the names: mode bytes and stat records (FIELDS int64 each; zeros for a folder).

    What is neither file, folder nor link has one of the mode bytes from ODD on.
    """

    names: list[bytes]
    modes: bytearray
    records: array[int]

    def select(self, rows: Sequence[int]) -> Listed:
        """Only these rows."""
        records = array("q")
        for row in rows:
            records += self.records[row * FIELDS : (row + 1) * FIELDS]
        return Listed([self.names[row] for row in rows], bytearray(self.modes[row] for row in rows), records)


def list_folder(descriptor: int) -> Listed:
    """What lies in an open folder. Raises OSError."""
    with os.scandir(descriptor) as entries:
        found = sorted([(entry.name, entry.stat(follow_symlinks=False)) for entry in entries])
    text = "\0".join([name for name, _ in found])
    if text.isascii():  # the order of text is that of bytes, and 0.2 of 2.8 µs an entry less
        names, statuses = text.encode("ascii").split(b"\0") if found else [], [status for _, status in found]
    else:
        ordered = sorted([(os.fsencode(name), status) for name, status in found])
        names, statuses = [name for name, _ in ordered], [status for _, status in ordered]
    modes, fields = bytearray(), list[int]()
    bits, mode = -1, ODD
    for status in statuses:
        if status.st_mode != bits or mode >= ODD:  # most are of one kind, and of the same permissions
            bits, mode = status.st_mode, _mode_byte(status)
        modes.append(mode)
        # The times of a folder say nothing about what is below.
        fields += _NO_RECORD if mode == _DIRECTORY else (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, mode)
    return Listed(names, modes, _as_records(fields))


def _mode_byte(status: os.stat_result) -> int:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFCHR and not status.st_rdev:
        return WHITEOUT
    return file_mode(status) if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) else _ODD.get(kind, ODD)


def _as_records(fields: list[int]) -> array[int]:
    try:
        return array("q", fields)
    except OverflowError:
        fields[::FIELDS] = map(_signed, fields[::FIELDS])
        return array("q", fields)


def list_folders(memory: memoryview, root: Root, keys: Sequence[bytes]) -> list[Listed | None]:
    """What lies in folders; None for one that cannot be listed."""
    return [_list(root, key) for key in keys]


def _list(root: Root, key: bytes) -> Listed | None:
    try:
        return list_folder(folders_at(root).open(key))
    except OSError:
        return None


def file_mode(status: os.stat_result) -> int:
    """The mode byte of what a stat shows: of the permission bits only the owner's executable bit is kept."""
    if stat.S_ISDIR(status.st_mode):
        return mode_of(Kind.DIRECTORY)
    if stat.S_ISLNK(status.st_mode):
        return mode_of(Kind.SYMLINK)
    return mode_of(Kind.FILE, bool(status.st_mode & stat.S_IXUSR))


def stat_record(status: os.stat_result) -> Record:
    """What tells a file from what it was: inode, size, mtime, ctime, mode byte."""
    return record_of(status, file_mode(status))


def record_of(status: os.stat_result, mode: int) -> Record:
    """A stat record with this mode byte."""
    return _signed(status.st_ino), status.st_size, status.st_mtime_ns, status.st_ctime_ns, mode


def _signed(inode: int) -> int:
    """Inodes are uint64 and the column is int64: only equality counts."""
    return inode if inode < 1 << 63 else inode - (1 << 64)


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file is what it was: regular, and the same inode, size, mtime and ctime."""
    return stat.S_ISREG(after.st_mode) and record_of(before, 0) == record_of(after, 0)
