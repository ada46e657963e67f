"""Files of one chunk, verified and written: what worker processes do for a download. Must not know versions or stores.

A file is written without a name, in the folder where it will be, and gets its name when it is whole: nobody sees half of one, and of a
killed download nothing is left. That is also less work for the file system than a name elsewhere and a rename: 71 µs of system time instead
of 84 (ext4, 10 KB), and renames between folders wait for each other.
"""

from __future__ import annotations

import os
import pickle
from functools import cache

from artifactmount.crypto import Cipher
from artifactmount.errors import CorruptError
from artifactmount.folders import Folders, Root
from artifactmount.ranges import PackId

#: A file of one chunk: the key of its folder, its name, time of modification (ns) and whether it may be executed; offset, stored and plain
#: length of its chunk in a pack, and the digest. A bare tuple: a million of them are made in one process, to be written by others.
Small = tuple[bytes, bytes, int, bool, int, int, int, bytes]


def put_new(folder: int, name: bytes, content: bytes, mtime: int, executable: bool) -> bool:
    """Write a file into the folder of this descriptor, with its time of modification (ns). Zeros become a hole.

    False, and nothing is there, where it cannot be done like this: the name is taken, the disk is full, the file system has no files
    without names.
    """
    try:
        descriptor = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o777 if executable else 0o666, dir_fd=folder)
    except OSError:
        return False
    try:
        if not content.strip(b"\0"):
            os.truncate(descriptor, len(content))
        elif os.write(descriptor, content) != len(content):
            return False
        os.utime(descriptor, ns=(mtime, mtime))
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def write_files(memory: memoryview, cipher: Cipher, root: Root, pack: PackId, start: int, stored: int, files: int) -> list[int]:
    """Write files below a root. The memory holds `stored` bytes of a pack from `start` on, and then, in `files` bytes, the list of them.

    Gives the places in that list of those that were not written, for whatever reason.
    """
    wanted: list[Small] = pickle.loads(memory[stored : stored + files])  # noqa: S301 - written by our own parent
    try:
        folders = _folders(root)
    except OSError:
        return list(range(len(wanted)))
    return [index for index, file in enumerate(wanted) if not _write(folders, cipher, pack, memory[:stored], start, file)]


def _write(folders: Folders, cipher: Cipher, pack: PackId, front: memoryview, start: int, file: Small) -> bool:
    key, name, mtime, executable, offset, stored, plain, digest = file
    try:
        content = cipher.chunk(pack, offset, front[offset - start : offset - start + stored], plain, digest)
        return put_new(folders.open(key, make=True), name, content, mtime, executable)
    except (CorruptError, OSError):
        return False


@cache
def _folders(root: Root) -> Folders:
    """The folders below a root, open for as long as this worker lives. Raises OSError, also where the path leads elsewhere now."""
    return Folders(root.open())
