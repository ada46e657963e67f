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


def open_folder(path: str) -> int:
    """A descriptor (to be closed) of a folder that its user alone may use: not a link to one, so that what is opened below it is his, too.

    Raises RefusedError for one that is somebody else's or open to others, and for what is no folder; FileNotFoundError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            status = os.lstat(path)
        except OSError:
            raise FileNotFoundError(path) from error
        if _may_own(status) and not stat.S_ISDIR(status.st_mode):
            raise RefusedError(f"{path} is no folder: refused; remove it") from None
        raise RefusedError(f"{path} belongs to user {status.st_uid} and cannot be opened ({error.strerror}): refused") from None
    try:
        _check_own(path, os.fstat(descriptor), 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_own(path: str, status: os.stat_result, closed: int) -> None:
    """Raises RefusedError for what is somebody else's, or open to others; `closed`: the mode that it should have."""
    mode = stat.S_IMODE(status.st_mode)
    if not _may_own(status):
        raise RefusedError(f"{path} belongs to user {status.st_uid}: refused; use one of your own, or work as that user")
    if mode & _OTHERS:
        raise RefusedError(f"{path} is open to other users (mode {mode:03o}): refused; close it: chmod {closed:o} {path}")


def read_file(path: str, limit: int, *, folder: int | None = None) -> bytes:
    """The first `limit` bytes of a file that only its user may read. `folder`: a descriptor of the one that it lies in; no link is followed
    then.

    Raises RefusedError for one that others may, that is somebody else's, or that is no regular file; OSError.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # else a FIFO would wait for a writer for ever
    descriptor = os.open(path, flags if folder is None else flags | os.O_NOFOLLOW, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{path} is no regular file: refused")
        _check_own(path, status, 0o600)
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
