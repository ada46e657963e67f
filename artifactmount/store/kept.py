"""Files of a folder store that are kept open, so that what the page cache has of them is read without waiting. Knows no packs.

A thread hop and an open for each small file cost several times what reading and verifying it does. Here `peek` never waits: it answers
from the page cache alone (preadv2, RWF_NOWAIT), and only from files that `keep` opened before, in a thread. A deleted file is not answered
from, and its bytes are held on the disk until the next `let_go` at the longest. A file system that cannot tell whether a read would wait
(NFS, FUSE) has nothing kept open.
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
        self._lock = threading.Lock()  # the event loop takes it, too: never held while anything is opened or read from a disk
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._able = hasattr(os, "preadv") and hasattr(os, "RWF_NOWAIT")

    def peek(self, key: str, start: int, length: int) -> bytes | None:
        """The bytes [start, start + length) of a key, where that takes no waiting; None otherwise."""
        if not self._able:
            return None
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
            except OSError:  # whoever fetches it says what is wrong
                self._close(key)
                return None
            file.used = True
            self._files.move_to_end(key)
        return bytes(content) if got == length else None

    def keep(self, key: str, start: int) -> None:
        """Keep a key open that was just read at `start`; where it was kept already, read ahead from there. Never fails."""
        with contextlib.suppress(OSError):  # also EMFILE: what was read is right all the same
            with self._lock:
                if not self._able:
                    return
                file = self._files.get(key)
                descriptor = -1 if file is None else os.dup(file.descriptor)  # it may be let go of meanwhile
            if file is None:
                self._open(key)
            else:
                self._read_ahead(file, descriptor, start)

    def _open(self, key: str) -> None:
        descriptor = os.open(self._store.path_of(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not self._answers(descriptor):
                return
            with self._lock:
                if key in self._files:
                    return
                self._files[key], descriptor = _File(descriptor), -1
                if len(self._files) > _KEPT:
                    self._close(next(iter(self._files)))
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _answers(self, descriptor: int) -> bool:
        """Whether its file system can tell that a read would wait. NFS and FUSE cannot: there even fstat may ask a server, and a deleted
        file that is open keeps a name (.nfs…, .fuse_hidden…) in its folder; so nothing is kept there."""
        try:
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError:
            self._able = False
        return self._able

    @staticmethod
    def _read_ahead(file: _File, descriptor: int, start: int) -> None:
        """Ask for what comes after `start`; closes the descriptor."""
        try:
            if not file.ahead - _AHEAD <= start < file.ahead - _AHEAD // 2:
                file.ahead = start + _AHEAD
                for at in range(start, file.ahead, _STEP):
                    os.posix_fadvise(descriptor, at, _STEP, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    def let_go(self, *, everything: bool = False) -> None:
        """Close what nobody read since this was called the last time, and what was deleted or cannot be asked any more."""
        with self._lock:
            gone = [key for key, file in self._files.items() if everything or not file.used or not _has_a_name(file.descriptor)]
            descriptors = [self._files.pop(key).descriptor for key in gone]
            for file in self._files.values():
                file.used = False
        for descriptor in descriptors:  # without the lock: the last close of a deleted file frees its blocks
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _close(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.close(self._files.pop(key).descriptor)


def _has_a_name(descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_nlink > 0
    except OSError:  # as ESTALE, ENOTCONN: its server or disk is gone
        return False
