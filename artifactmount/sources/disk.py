"""References to files of this machine: unchanged while size, time of modification and inode are those recorded.

A path is opened folder by folder without following links: a link planted below what the user allows must not lead out of it. So what is
recorded is the path without links in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from artifactmount.errors import NotFoundError, RefusedError, SourceChangedError, SourceDeniedError, SourceError
from artifactmount.folders import Folders
from artifactmount.mountpoint import check_apart
from artifactmount.reference import Referent, path_of_uri, uri_of_path
from artifactmount.rows import key_of, show_path
from artifactmount.sources import Found, changed, gone

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC


class DiskSource:
    """See Source."""

    def find(self, uri: str) -> Iterator[Found]:
        """See Source. A link to a file is a reference to the file it leads to."""
        top = os.path.realpath(path_of_uri(uri))
        check_apart(os.fsdecode(top))
        try:
            status = os.stat(top)
            if not stat.S_ISDIR(status.st_mode):
                yield _found(top, b"")
                return
            pending, empty = [b""], True
            while pending:
                below = pending.pop()
                with os.scandir(os.path.join(top, below)) as entries:
                    for entry in entries:
                        path = os.path.join(below, entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(path)
                        else:
                            empty = False
                            yield _found(os.path.realpath(entry.path), path)
        except FileNotFoundError as error:
            raise NotFoundError(f"nothing at {uri}: no {_show(error.filename)}") from None
        except OSError as error:
            raise SourceDeniedError(f"cannot read {_show(error.filename)}: {error.strerror}") from error
        if empty:
            raise NotFoundError(f"no files in {uri}")

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source."""
        descriptor = self._open(referent)
        try:
            _compare(referent, size, os.fstat(descriptor))
            parts: list[bytes] = []
            while start < stop and (part := os.pread(descriptor, stop - start, start)):
                parts.append(part)
                start += len(part)
            _compare(referent, size, os.fstat(descriptor))
            if start < stop:
                raise SourceError(f"{referent.uri} ends too early")
            return b"".join(parts)
        except OSError as error:
            raise SourceError(f"{referent.uri}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def check(self, referent: Referent, size: int) -> None:
        """See Source."""
        descriptor = self._open(referent)
        try:
            _compare(referent, size, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """See Source."""

    @staticmethod
    def _open(referent: Referent) -> int:
        path = path_of_uri(referent.uri)
        try:
            check_apart(os.fsdecode(path))  # a file of a mount that refers to itself would wait for itself
        except RefusedError as error:
            raise SourceDeniedError(f"{referent.uri}: {error}") from None
        key, _, name = key_of(path[1:]).rpartition(b"\0")
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        folders = Folders(root)
        try:
            return os.open(name, _FLAGS, dir_fd=folders.open(key))
        except PermissionError as error:
            raise SourceDeniedError(f"{referent.uri}: {error.strerror}") from None
        except OSError:  # not there, or a link or something else stands where it was
            raise gone(referent) from None
        finally:
            folders.close()
            os.close(root)


def _found(path: bytes, below: bytes) -> Found:
    status = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"cannot be referenced: {_show(path)} is no file, nor a link to one")
    referent = Referent(uri_of_path(path), modified=status.st_mtime_ns, inode=status.st_ino)
    return Found(below, referent, status.st_size, status.st_mtime_ns)


def _compare(referent: Referent, size: int, status: os.stat_result) -> None:
    """Raises SourceChangedError unless this is the file that was recorded."""
    if not stat.S_ISREG(status.st_mode):
        raise SourceChangedError(f"{referent.uri} is no file any more")
    if status.st_size != size:
        raise changed(referent, size, status.st_size, "its size")
    now = status.st_mtime_ns, status.st_ino
    if referent.checked and now != (referent.modified, referent.inode):
        raise changed(referent, f"{referent.modified}, {referent.inode}", f"{now[0]}, {now[1]}", "(time in ns, inode)")


def _show(path: bytes | str) -> str:
    return show_path(os.fsencode(path))
