"""Files of a folder store that are kept open, so that what the page cache has of them is read without waiting. Knows no packs.

A thread hop and an open for each small file cost several times what reading and verifying it does. Here `peek` never waits: it answers
from the page cache alone (preadv2, RWF_NOWAIT), and only from files that `keep` opened before, in a thread. A deleted file is not answered
from, and its bytes are held on the disk until the next `let_go` at the longest.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass

from artifactmount.store.folder import FolderStore

#: Files kept at most. With packs of 8 MiB it is 512 MiB whose small files are read without a hop.
_KEPT = 64
#: Read ahead of who comes back to a file, and in which steps: the kernel takes no more than its own window from one request.
_AHEAD = 4 << 20
_STEP = 128 << 10


@dataclass(slots=True)
class _File:
    descriptor: int
    used: bool = True
    ahead: int = 0  # bytes before this one were asked for ahead


class KeptFiles:
    """Threads may share one."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._lock = threading.Lock()  # never held while anything waits for a disk
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._able = hasattr(os, "preadv") and hasattr(os, "RWF_NOWAIT")

    def peek(self, key: str, start: int, length: int) -> bytes | None:
        """The bytes [start, start + length) of a key, where that takes no waiting; None otherwise."""
        with self._lock:
            file = self._files.get(key)
            if file is None:
                return None
            content = bytearray(length)
            try:
                if not os.fstat(file.descriptor).st_nlink:
                    self._close(key)
                    return None
                got = os.preadv(file.descriptor, [content], start, os.RWF_NOWAIT)
            except BlockingIOError:
                return None
            except OSError:  # a file system that cannot tell whether it would wait, as NFS
                self._able = False
                self._close(key)
                return None
            file.used = True
            self._files.move_to_end(key)
        return bytes(content) if got == length else None

    def keep(self, key: str, start: int) -> None:
        """Keep a key open that was just read at `start`; where it was kept already, read ahead from there. Never fails."""
        with self._lock:
            if not self._able:
                return
            file = self._files.get(key)
            descriptor = os.dup(file.descriptor) if file is not None else -1  # it may be let go of meanwhile
        try:
            if file is None:
                self._open(key)
            elif not file.ahead - _AHEAD <= start < file.ahead - _AHEAD // 2:
                file.ahead = start + _AHEAD
                for at in range(start, file.ahead, _STEP):
                    os.posix_fadvise(descriptor, at, _STEP, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, key: str) -> None:
        descriptor = os.open(self._store.path_of(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return
        with self._lock:
            if key in self._files:
                os.close(descriptor)
                return
            self._files[key] = _File(descriptor)
            if len(self._files) > _KEPT:
                self._close(next(iter(self._files)))

    def let_go(self, *, everything: bool = False) -> None:
        """Close what nobody read since this was called the last time, and what was deleted."""
        with self._lock:
            for key, file in list(self._files.items()):
                if everything or not file.used or not os.fstat(file.descriptor).st_nlink:
                    self._close(key)
                file.used = False

    def _close(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.close(self._files.pop(key).descriptor)
