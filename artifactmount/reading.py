"""The files of a staging folder, read, hashed and compressed beside the main thread, many by one call.

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
from artifactmount.folders import Root, folders_at
from artifactmount.listing import FIELDS, stat_record
from artifactmount.pack import Codec, compress

#: The stored length of a file that was not read.
UNREAD = -1
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
_NONE = bytes(DIGEST_LENGTH)
_EMPTY = content_digest([])
_NO_RECORD = (0,) * FIELDS
_KINDS = 256  # of files, by the ends of their names, that may be remembered


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
            descriptor = folders_at(folder.root).open(folder.key)
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
            records.extend(stat_record(status))
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
        after = os.fstat(descriptor)
        same = after.st_mtime_ns == before.st_mtime_ns and after.st_ctime_ns == before.st_ctime_ns and after.st_size == size
        return (content, before) if same and len(content) == size else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


_stubborn: dict[bytes, int] = {}
