"""What is done to a staging folder beside the main thread, one call for many files: list them; read, hash and compress them.

Runs in worker processes, so it takes and gives plain bytes. Whatever is odd about a file (gone, grown, written just now, not to be opened)
is not judged here: it is left unread, and who asked reads it again by himself, and tells the user. Must not know versions or stores.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from artifactmount.digest import DIGEST_LENGTH, SINGLE_LIMIT, Buffer, Chunking, content_digest
from artifactmount.folders import Folders, Root
from artifactmount.pack import Codec, compress
from artifactmount.rows import Kind, mode_of

#: Of a stat record: inode, size, mtime, ctime, mode byte; int64 each. Times in ns.
FIELDS = 5
#: The stored length of a file that was not read.
UNREAD = -1
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
_NONE = bytes(DIGEST_LENGTH)
_EMPTY = content_digest([])
_ROOTS, _KINDS = 4, 256  # each root with up to 128 folders open, of the 1,024 files that a process may have
_KIND_MASK = 0o170000
_FILE, _EXECUTABLE, _SYMLINK = mode_of(Kind.FILE), mode_of(Kind.FILE, True), mode_of(Kind.SYMLINK)
_DIRECTORY, _NO_RECORD = mode_of(Kind.DIRECTORY), (0,) * FIELDS
#: Mode bytes from here on are of what cannot be versioned.
ODD = 0x80
_ODD = {stat.S_IFSOCK: 0x81, stat.S_IFIFO: 0x82, stat.S_IFCHR: 0x83, stat.S_IFBLK: 0x84}
#: How an overlay marks what it hides of the lower folder: a character device 0/0.
WHITEOUT = 0x85
#: What the odd ones are, for messages.
ODD_NAMES = {ODD: "not a file", 0x81: "socket", 0x82: "FIFO", 0x83: "character device", 0x84: "block device", WHITEOUT: "character device"}

Record = tuple[int, int, int, int, int]


class Folder(NamedTuple):
    """Files to be read, of one folder below a root: its directory key, and their names."""

    root: Root
    key: bytes
    names: list[bytes]


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


class Reads(NamedTuple):
    """Of each file: its stat record as int64 (FIELDS of them), its digest, and the length of its stored bytes as int32 (or UNREAD).

    The stored bytes lie back to back in the memory that was given.
    """

    records: bytes
    digests: bytes
    lengths: bytes


def list_folder(descriptor: int) -> Listed:
    """What lies in an open folder. Raises OSError."""
    with os.scandir(descriptor) as entries:
        found = sorted([(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries])
    modes, fields = bytearray(), list[int]()
    for _, status in found:
        kind = status.st_mode & _KIND_MASK
        if kind == stat.S_IFREG:
            mode = _EXECUTABLE if status.st_mode & stat.S_IXUSR else _FILE
        elif kind == stat.S_IFDIR:
            modes.append(_DIRECTORY)
            fields += _NO_RECORD  # its own times say nothing about what is below
            continue
        elif kind == stat.S_IFLNK:
            mode = _SYMLINK
        else:
            mode = WHITEOUT if kind == stat.S_IFCHR and not status.st_rdev else _ODD.get(kind, ODD)
        modes.append(mode)
        fields += record_of(status, mode)
    return Listed([name for name, _ in found], modes, array("q", fields))


def list_folders(memory: memoryview, root: Root, keys: Sequence[bytes]) -> list[Listed | None]:
    """What lies in folders; None for one that cannot be listed."""
    return [_list(root, key) for key in keys]


def _list(root: Root, key: bytes) -> Listed | None:
    try:
        return list_folder(_folders(root).open(key))
    except OSError:
        return None


def read_files(memory: memoryview, chunking: Chunking, folders: Sequence[Folder]) -> Reads:
    """Read files of one chunk."""
    records, digests, lengths, at = array("q"), bytearray(), array("i"), 0
    for folder in folders:
        try:
            descriptor = _folders(folder.root).open(folder.key)
        except OSError:
            descriptor = -1
        for name in folder.names:
            content, status = _read(descriptor, name) or (b"", None)
            stored = _compress(name, content) if content else b""
            if status is None or at + len(stored) > len(memory):
                records.extend(_NO_RECORD)
                digests += _NONE
                lengths.append(UNREAD)
                continue
            memory[at : at + len(stored)] = stored
            at += len(stored)
            records.extend(record_of(status, _EXECUTABLE if status.st_mode & stat.S_IXUSR else _FILE))
            digests += chunking.digest(content) if content else _EMPTY
            lengths.append(len(stored))
    return Reads(records.tobytes(), bytes(digests), lengths.tobytes())


def _compress(name: bytes, plain: bytes) -> Buffer:
    """As `pack.compress`, which takes a third of the time that a small file takes. Where the last files of this kind did not become smaller
    (images, say), only one of eight is tried."""
    _, kind = os.path.splitext(name)
    failed = _stubborn.get(kind, 0)
    if failed >= 8 and failed % 8:
        _stubborn[kind] = failed + 1
        return plain
    codec, stored = compress(plain)
    if codec is Codec.ZSTD:
        _stubborn.pop(kind, None)
    elif kind in _stubborn or len(_stubborn) < _KINDS:
        _stubborn[kind] = failed + 1
    return stored


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
    # Inodes are uint64 and the column is int64: only equality counts.
    inode = status.st_ino if status.st_ino < 1 << 63 else status.st_ino - (1 << 64)
    return inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, mode


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file is what it was: regular, and the same inode, size, mtime and ctime."""
    return stat.S_ISREG(after.st_mode) and record_of(before, 0) == record_of(after, 0)


def _read(folder: int, name: bytes) -> tuple[bytes, os.stat_result] | None:
    """A file's bytes and the stat that was true before and after; None when anything is odd about it."""
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        before = os.fstat(descriptor)
        size = before.st_size
        if size > SINGLE_LIMIT or before.st_mode & _KIND_MASK != stat.S_IFREG:
            return None
        content = os.read(descriptor, size + 1)
        after = os.fstat(descriptor)
        same = after.st_mtime_ns == before.st_mtime_ns and after.st_ctime_ns == before.st_ctime_ns and after.st_size == size
        return (content, before) if same and len(content) == size else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


_stubborn: dict[bytes, int] = {}
_open: dict[Root, tuple[int, Folders]] = {}


def _folders(root: Root) -> Folders:
    """The folders below a root, which is opened once. Raises OSError, also where the path leads elsewhere now."""
    if root not in _open:
        while len(_open) >= _ROOTS:
            descriptor, folders = _open.pop(next(iter(_open)))
            folders.close()
            os.close(descriptor)
        descriptor = root.open()
        _open[root] = descriptor, Folders(descriptor)
    return _open[root][1]
