"""Folders, files and variables that are for their user alone: made so, closed when they are not, or refused. Knows nothing of what is in
them."""

from __future__ import annotations

import ctypes
import logging
import os
import stat

from artifactmount.errors import RefusedError

_log = logging.getLogger(__name__)

_OTHERS = 0o077


def make_folder(path: str) -> None:
    """Make a folder, and those missing above it, with mode 0700. (`os.makedirs` gives its mode to the last one only.) Raises OSError."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        above = os.path.dirname(path)
        if above == path:
            break
        path = above
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise


def make_file(path: str, content: bytes) -> None:
    """A new file that its owner alone can read, durable when this returns. Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def close_folder(path: str, what: str, *, ours: bool = True) -> None:
    """Take the rights of other users from a folder of this user's, and say so; `what` it is: "cache". One that is not there is fine.

    `ours`: whether the program made it, or may take it over; another one is not changed.
    Raises RefusedError for a folder that is somebody else's, that everybody shares (/tmp), or that cannot be closed: what lies in it is
    nobody's own.
    """
    try:
        status = os.stat(path)
    except OSError:
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_ISVTX and mode & stat.S_IWOTH:
        raise RefusedError(f"the {what} folder cannot be {path}, which everybody may write to; name a folder of your own")
    if not _may_own(status):
        raise RefusedError(f"the {what} folder cannot be {path}, which belongs to user {status.st_uid}; name a folder of your own")
    if not ours or not mode & _OTHERS:
        return
    try:
        os.chmod(path, mode & ~_OTHERS)
    except OSError as error:
        raise RefusedError(
            f"the {what} folder {path} is open to other users (mode {mode:03o}), and cannot be closed ({error.strerror}); name another one"
        ) from None
    _log.warning("the %s folder %s was open to other users (mode %03o) and is closed now", what, path, mode)


def _may_own(status: os.stat_result) -> bool:
    """Whether the owner is this user; or root, who can do everything anyway."""
    return status.st_uid in (os.geteuid(), 0)


def read_file(path: str, limit: int) -> bytes:
    """The first `limit` bytes of a file that only its user may read.

    Raises RefusedError for one that others may, that is somebody else's, or that is no regular file; OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a FIFO would wait for a writer for ever
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{path} is no regular file: refused")
        if not _may_own(status):
            raise RefusedError(f"{path} belongs to user {status.st_uid}: refused; use a file of your own")
        if mode & _OTHERS:
            raise RefusedError(f"{path} is open to other users (mode {mode:03o}): refused; close it: chmod 600 {path}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def forget_variable(name: str) -> None:
    """Take a variable from the environment, and its text from where it was handed over, as /proc/PID/environ shows that to the end."""
    find = ctypes.CDLL(None).getenv
    find.argtypes, find.restype = (ctypes.c_char_p,), ctypes.c_void_p
    if (address := find(os.fsencode(name))) is not None:
        ctypes.memset(address, 0, len(ctypes.string_at(address)))
    os.environ.pop(name, None)
