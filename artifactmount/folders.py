"""Folders below a root, each opened from its parent without following links: nobody who plants one can lead a read or write elsewhere.

Knows no versions. Errors of the operating system go out as they are.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from artifactmount.rows import ROOT_KEY, child_key, split_key

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = 128
_ROOTS = 4  # each with up to 128 folders open, of the 1,024 files that a process may have


class Root(NamedTuple):
    """A folder as another process can open it: only while the path leads to this inode."""

    path: str
    device: int
    inode: int

    def open(self) -> int:
        """A descriptor. Raises OSError, also where the path leads elsewhere now."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            os.close(descriptor)
            raise FileNotFoundError(self.path)
        return descriptor


class Folders:
    """The folders below the descriptor `root`, which stays the caller's. The last few stay open; NOT for several threads at once."""

    def __init__(self, root: int) -> None:
        self._open: dict[bytes, int] = {ROOT_KEY: root}

    def close(self) -> None:
        """Close all but the root."""
        for key in list(self._open)[1:]:
            os.close(self._open.pop(key))

    def open(self, key: bytes, *, make: bool = False) -> int:
        """A descriptor of a folder, good until the next call. `make`: what is missing on the way is made. Raises OSError."""
        missing: list[bytes] = []
        at = key
        while at not in self._open:
            at, name = split_key(at)
            missing.append(name)
        descriptor = self._open[at]
        for name in reversed(missing):
            at = child_key(at, name)
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            descriptor = self._open[at] = os.open(name, _FLAGS, dir_fd=descriptor)
            if len(self._open) > _OPEN:
                self._shut()
        return descriptor

    def _shut(self) -> None:
        """Close those that were opened first, but the root: a path may have more levels than a process may have files open."""
        for key in list(self._open)[1 : _OPEN // 2]:
            os.close(self._open.pop(key))


_roots: dict[Root, tuple[int, Folders]] = {}


def folders_at(root: Root) -> Folders:
    """The folders below a root, which a process opens once; NOT for several threads at once.

    Raises OSError, also where the path leads elsewhere now.
    """
    if root not in _roots:
        while len(_roots) >= _ROOTS:
            descriptor, folders = _roots.pop(next(iter(_roots)))
            folders.close()
            os.close(descriptor)
        descriptor = root.open()
        _roots[root] = descriptor, Folders(descriptor)
    return _roots[root][1]
