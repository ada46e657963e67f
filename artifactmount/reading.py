"""What is done to a staging folder's files beside the main thread, one call for many of them: read, hash, compress.

Runs in worker processes, so it takes and gives plain bytes. Whatever is odd about a file (gone, grown, written just now, not to be opened)
is not judged here: it is left unread, and who asked reads it again by himself, and tells the user. Must not know versions or stores.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from artifactmount.digest import DIGEST_LENGTH, SINGLE_LIMIT, Chunking, content_digest
from artifactmount.folders import Folders
from artifactmount.pack import compress
from artifactmount.rows import Kind, mode_of

#: Of a stat record: inode, size, mtime, ctime, mode byte; int64 each. Times in ns.
FIELDS = 5
#: The stored length of a file that was not read.
UNREAD = -1
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
_NONE = bytes(DIGEST_LENGTH)
_EMPTY = content_digest([])
_ROOTS = 16

Record = tuple[int, int, int, int, int]


class Root(NamedTuple):
    """A folder as it can be opened again: only while the path leads to this inode."""

    path: str
    device: int
    inode: int


class Folder(NamedTuple):
    """Files to be read, of one folder below a root: its directory key, and their names."""

    root: Root
    key: bytes
    names: list[bytes]


class Reads(NamedTuple):
    """Of each file: its stat record as int64 (FIELDS of them), its digest, and the length of its stored bytes as int32 (or UNREAD).

    The stored bytes lie back to back in the memory that was given.
    """

    records: bytes
    digests: bytes
    lengths: bytes


def read_files(memory: memoryview, chunking: Chunking, folders: Sequence[Folder]) -> Reads:
    """Read files of one chunk."""
    records, digests, lengths, at = array("q"), bytearray(), array("i"), 0
    for folder in folders:
        try:
            descriptor = _folders(folder.root).open(folder.key)
        except OSError:
            descriptor = -1
        for name in folder.names:
            found = _read(descriptor, name)
            if found is None:
                records.extend((0,) * FIELDS)
                digests += _NONE
                lengths.append(UNREAD)
                continue
            content, status = found
            stored = compress(content)[1] if content else b""
            if at + len(stored) > len(memory):
                records.extend((0,) * FIELDS)
                digests += _NONE
                lengths.append(UNREAD)
                continue
            memory[at : at + len(stored)] = stored
            at += len(stored)
            records.extend(stat_record(status))
            digests += chunking.digest(content) if content else _EMPTY
            lengths.append(len(stored))
    return Reads(records.tobytes(), bytes(digests), lengths.tobytes())


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
        if size > SINGLE_LIMIT or not stat.S_ISREG(before.st_mode):
            return None
        content = os.read(descriptor, size + 1)
        return (content, before) if len(content) == size and unchanged(before, os.fstat(descriptor)) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


_open: dict[Root, tuple[int, Folders]] = {}


def _folders(root: Root) -> Folders:
    """The folders below a root, which is opened once. Raises OSError, also where the path leads elsewhere now."""
    if root not in _open:
        while len(_open) >= _ROOTS:
            descriptor, folders = _open.pop(next(iter(_open)))
            folders.close()
            os.close(descriptor)
        descriptor = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (root.device, root.inode):
            os.close(descriptor)
            raise FileNotFoundError(root.path)
        _open[root] = descriptor, Folders(descriptor)
    return _open[root][1]
