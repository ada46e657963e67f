"""A folder that a download fills: nothing is written through a link, and nothing of the user's is lost. Knows no versions and no store.

Every folder is opened from its parent without following links, so a store (or another user) that plants one cannot lead a write elsewhere.
A small file is written whole before it gets a name at all (see `writing`). A large one, and every one where that is not possible, is
written under a number in a hidden folder beside, checked, and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator

from artifactmount.digest import chunk_digest
from artifactmount.errors import NotFoundError, RefusedError
from artifactmount.folders import Folders, Root
from artifactmount.run import ChunkRef
from artifactmount.writing import put_new

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS = ".artifactmount-"
_LEFT_FOLDER = re.compile(re.escape(_PARTS) + r"[a-z0-9_]{8}")
_LEFT_PART = re.compile(r"[0-9a-f]{16}")


class Target:
    """The folder `path`, made when it is missing; `name` gives chunks' digests. Use as a context manager.

    Threads may share one, but for looking at what is there already.
    """

    def __init__(self, path: str, name: Callable[[bytes], bytes] = chunk_digest) -> None:
        self.path, self._name = os.path.abspath(path), name
        with _explained(self.path):
            os.makedirs(self.path, exist_ok=True)
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders, self._lock = Folders(self._root), threading.RLock()
        self._parts: tuple[str, int] | None = None
        self._unnamed: bool | None = None  # whether files can be written without a name; None: nothing spoke against it yet
        self._sweep()
        self.empty = not os.listdir(self._root)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()
        if self._parts is not None:
            with contextlib.suppress(OSError):
                self._remove(*self._parts)
            os.close(self._parts[1])
        os.close(self._root)

    def _remove(self, name: str, folder: int) -> None:
        """Remove a folder of parts, by descriptors: a path would lead to wherever somebody turns one of its folders meanwhile."""
        for part in filter(_LEFT_PART.fullmatch, os.listdir(folder)):
            os.unlink(part, dir_fd=folder)
        os.rmdir(name, dir_fd=self._root)

    # -- folders -------------------------------------------------------------------------------------------------------------------
    def folder(self, key: bytes, *, make: bool = True) -> int:
        """A descriptor of a folder below the root, good until another one is asked for, by whatever thread. Raises NotFoundError when it is
        missing (no `make`), RefusedError when something else is in its place."""
        with _explained(self._show(key)), self._lock:
            return self._folders.open(key, make=make)

    @contextlib.contextmanager
    def _opened(self, key: bytes) -> Iterator[int]:
        """A folder below the root, made where it is missing, that stays open whatever other threads ask for."""
        with self._lock:
            descriptor = os.dup(self.folder(key))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _show(self, key: bytes) -> str:
        return os.path.join(self.path, os.fsdecode(key.replace(b"\0", b"/")))

    # -- what is there already -----------------------------------------------------------------------------------------------------
    def kind(self, key: bytes, name: bytes) -> int | None:
        """The type bits of what stands there, or None."""
        try:
            return stat.S_IFMT(os.stat(name, dir_fd=self.folder(key, make=False), follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotFoundError):
            return None

    def has_file(self, key: bytes, name: bytes, refs: Iterable[ChunkRef], size: int, executable: bool) -> bool:
        """Whether a file is there with exactly this content and executable bit."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder(key, make=False))
        except (OSError, NotFoundError):
            return False
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size or bool(status.st_mode & stat.S_IXUSR) != executable:
                return False
            offset = 0
            for ref in refs:
                if self._name(os.pread(descriptor, ref.place.plain, offset)) != ref.digest:
                    return False
                offset += ref.place.plain
            return True
        finally:
            os.close(descriptor)

    def has_times(self, key: bytes, name: bytes, size: int, executable: bool, mtime: int) -> bool:
        """Whether a file is there with this size, executable bit and time of modification (ns)."""
        try:
            status = os.stat(name, dir_fd=self.folder(key, make=False), follow_symlinks=False)
        except (OSError, NotFoundError):
            return False
        found = stat.S_ISREG(status.st_mode), status.st_size, bool(status.st_mode & stat.S_IXUSR), status.st_mtime_ns
        return found == (True, size, executable, mtime)

    def has_link(self, key: bytes, name: bytes, target: bytes) -> bool:
        """Whether this very symlink is there."""
        try:
            return os.readlink(name, dir_fd=self.folder(key, make=False)) == target
        except (OSError, NotFoundError):
            return False

    # -- writing -------------------------------------------------------------------------------------------------------------------
    def link(self, key: bytes, name: bytes, target: bytes) -> None:
        """Make a symlink, in the place of a file or link if one is there."""
        with _explained(self._show(key)), self._opened(key) as folder:
            parts = self._parts_folder()
            temporary = os.urandom(8).hex()
            os.symlink(target, temporary, dir_fd=parts)
            os.rename(temporary, name, src_dir_fd=parts, dst_dir_fd=folder)

    def _parts_folder(self) -> int:
        with self._lock:
            if self._parts is None:
                self._parts = self._make_parts_folder()
            return self._parts[1]

    def _make_parts_folder(self) -> tuple[str, int]:
        """A new folder for parts, locked for as long as this process lives: so another one knows whether it was left behind."""
        while True:
            name = _PARTS + os.urandom(4).hex()
            os.mkdir(name, 0o700, dir_fd=self._root)
            descriptor = os.open(name, _DIRECTORY, dir_fd=self._root)
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return name, descriptor
            os.close(descriptor)  # swept before it was locked

    def _sweep(self) -> None:
        """Remove the parts that a killed download left here."""
        for name in os.listdir(self._root):
            if not _LEFT_FOLDER.fullmatch(name):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(name, _DIRECTORY, dir_fd=self._root)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._remove(name, descriptor)
                finally:
                    os.close(descriptor)

    def room(self) -> int:
        """Bytes that the file system has left for us."""
        status = os.fstatvfs(self._root)
        return status.f_bavail * status.f_frsize

    def part(self, size: int, executable: bool) -> PartialFile:
        """An unnamed file of `size` zeros to write into."""
        with _explained(self.path):
            return PartialFile(self._parts_folder(), size, executable)

    def put(self, key: bytes, name: bytes, content: bytes, mtime: int, executable: bool) -> None:
        """Write a small file whole, with its time, in the place of a file or link if one is there. Raises RefusedError on a full disk."""
        if self._unnamed is not False:
            with _explained(self._show(key)), self._opened(key) as folder:
                if put_new(folder, name, content, mtime, executable):
                    return
                if self._unnamed is None:  # else every file would be written twice
                    self._unnamed = _can_name(folder)
        part = self.part(len(content), executable)
        try:
            part.write(0, content)
            self.name_part(part, key, name, mtime)
        finally:
            part.close()

    def root(self) -> Root | None:
        """The folder as worker processes open it; None where they cannot write, as a file without a name cannot be made or get one."""
        with _explained(self.path):
            if not _can_name(self._root):
                return None
            status = os.fstat(self._root)
        return Root(self.path, status.st_dev, status.st_ino)

    def name_part(self, part: PartialFile, key: bytes, name: bytes, mtime: int) -> None:
        """Give a whole file its time and name, in the place of a file or link if one is there."""
        with _explained(self._show(key)):
            os.utime(part.descriptor, ns=(mtime, mtime))
            part.close()
            with self._opened(key) as folder:
                os.rename(part.name, name, src_dir_fd=self._parts_folder(), dst_dir_fd=folder)


def _can_name(folder: int) -> bool:
    """Whether a file can be written there without a name, and get one later: not on every file system, nor where /proc is not mounted. Only
    trying tells."""
    name = (_PARTS + os.urandom(8).hex()).encode()
    if not put_new(folder, name, b"whole", 0, False):
        return False
    with contextlib.suppress(FileNotFoundError):  # somebody else tidies up
        os.unlink(name, dir_fd=folder)
    return True


class PartialFile:
    """A file that is being written. Threads may write different pieces of it."""

    def __init__(self, folder: int, size: int, executable: bool) -> None:
        self.name = os.urandom(8).hex()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self.name, flags, 0o777 if executable else 0o666, dir_fd=folder)
        if size:
            os.truncate(self.descriptor, size)

    def write(self, offset: int, content: bytes) -> None:
        """Write a piece; zeros stay a hole. Raises RefusedError on a full disk."""
        if not content.strip(b"\0"):
            return
        view = memoryview(content)
        with _explained("the download"):
            while view:
                done = os.pwrite(self.descriptor, view, offset)
                view, offset = view[done:], offset + done

    def close(self) -> None:
        """Let go of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _explained(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function
    """What the operating system refuses, as our errors, naming the path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        shown = self._path.encode("utf-8", "backslashreplace").decode()
        if error.errno == errno.ENOENT:
            raise NotFoundError(f"no such folder: {shown}") from error
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST):
            raise RefusedError(f"something else is in the way at {shown}; choose an empty folder") from error
        raise RefusedError(f"{shown}: {error.strerror}; what was downloaded so far stays, run it again to go on") from error
