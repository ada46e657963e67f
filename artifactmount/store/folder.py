"""A store in a folder. A key is a file that appears whole: written under another name, made durable, then linked to its own.

Never O_EXCL and then write: a crash in between would leave a torn file in its place, and a torn log entry would block the project for good.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence

from artifactmount.errors import DeniedError, KeyMissingError, NotSentError, StoreError, StoreFullError
from artifactmount.store import Listed, check_key, check_prefix

_TEMPORARY = ".tmp"
_TEMPORARY_NAME = re.compile(r"[0-9]+-[0-9a-z]+")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class FolderStore:
    """The folder `path`. It need not exist: then it is empty, and the first create makes it."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.url, self.place = self.path, os.path.realpath(path)
        self._temporary = os.path.join(self.path, _TEMPORARY)
        self._swept = False
        self._durable: set[str] = set()  # folders whose names, and those of the folders above, this process made durable

    def path_of(self, key: str) -> str:
        """The file of a key, for readers that read it in place."""
        return os.path.join(self.path, check_key(key))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        try:
            self._refuse_links(key)
            # Without O_NONBLOCK, a FIFO in the place of a key would wait for a writer for ever.
            descriptor = os.open(self.path_of(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyMissingError(key) from None
        except OSError as error:
            raise self._translate(error, key) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyMissingError(key)
            end = status.st_size if stop is None else min(stop, status.st_size)
            parts: list[bytes] = []
            while start < end and (part := os.pread(descriptor, end - start, start)):
                parts.append(part)
                start += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise self._translate(error, key) from error
        finally:
            os.close(descriptor)

    def create(self, key: str, data: bytes) -> bool:
        """See Store. Durable when it returns: the file, its name, and the folders above it."""
        path = self.path_of(key)
        try:
            self._refuse_links(key)
            if os.path.lexists(path):  # spares the writing; the link below decides
                self._sync(os.path.dirname(path))
                return False
            self._refuse_links(_TEMPORARY + "/")
            self._make_folders(self._temporary)
            self._sweep()
            with _temporary_file(self._temporary) as (descriptor, temporary):
                _write(descriptor, data)
                return self._link(temporary, path)
        except OSError as error:
            raise self._translate(error, key) from error

    def _link(self, temporary: str, path: str) -> bool:
        folder = os.path.dirname(path)
        for _ in range(10):
            self._make_folders(folder)
            try:
                os.link(temporary, path, follow_symlinks=False)
            except FileExistsError:
                # Who asks again after an error takes "exists" for "stored": it MUST be durable, too, whoever made it.
                self._sync(folder)
                return False
            except FileNotFoundError:
                continue  # somebody deleted the last key of this folder, and the folder with it
            except OSError as error:
                if error.errno in _FULL or error.errno in _DENIED:
                    raise
                # NFS may have lost the answer: two names means that the link was made (link(2), "Bugs"). One name means nothing: the
                # request may still be on its way.
                if not _has_two_names(temporary):
                    raise StoreError(f"{path}: {error.strerror}; it may have been made all the same") from error
            try:
                self._sync(folder)
            except OSError as error:
                raise StoreError(f"{path}: made, but perhaps not durable: {error.strerror}") from error
            return True
        raise NotSentError(f"{folder} is removed again and again")

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        found: list[Listed] = []
        for key in self._walk("", prefix, after):
            if len(found) >= limit:
                break
            try:
                status = os.lstat(os.path.join(self.path, key))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                raise self._translate(error, key) from error
            if stat.S_ISREG(status.st_mode):  # a symlink is no key: `get` does not follow it
                found.append(Listed(key, status.st_size, status.st_mtime))
        return found

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[str]:
        """Keys in byte order. Where a name is a folder it sorts as if it ended with a slash, as the keys below it do."""
        for name in self._names(folder):
            key = folder + name
            if key.endswith("/"):
                # A folder is entered only when keys in it can begin with the prefix and stand behind `after`.
                if (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
                    yield from self._walk(key, prefix, after)
            elif key.startswith(prefix) and key > after:
                yield key

    def _names(self, folder: str) -> list[str]:
        try:
            self._refuse_links(folder)
            with os.scandir(os.path.join(self.path, folder)) as entries:
                names = [entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._translate(error, folder) from error
        return sorted(name for name in names if folder or name != _TEMPORARY + "/")

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        names = (name[:-1] for name in self._names(check_prefix(prefix)) if name.endswith("/"))
        return sorted(name for name in names if name > after)[:limit]

    def delete(self, keys: Sequence[str]) -> None:
        """See Store. Folders that become empty go, too, and what killed writers left beside the keys."""
        self._sweep()
        folders: set[str] = set()
        for key in keys:
            try:
                self._refuse_links(key)
                os.unlink(self.path_of(key))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                raise self._translate(error, key) from error
            folders.add(os.path.dirname(self.path_of(key)))
        for folder in folders:
            while folder != self.path:
                self._durable.discard(folder)  # another process may make it again
                try:
                    _sync_folder(folder)
                    os.rmdir(folder)
                except OSError:
                    break
                folder = os.path.dirname(folder)

    def clock(self) -> float:
        """See Store."""
        return time.time()

    def close(self) -> None:
        """See Store."""

    def _refuse_links(self, key: str) -> None:
        """Raise NotADirectoryError when a folder above a key is a link: who can plant one must not lead a write or a deletion elsewhere."""
        at = key.find("/")
        while at >= 0:
            path = os.path.join(self.path, key[:at])
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISLNK(os.lstat(path).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "is a link, which a store does not follow", path)
            at = key.find("/", at + 1)

    def _make_folders(self, folder: str) -> None:
        """Make a folder and those above it. Inside the store `_sync` makes them durable, above it nobody else does."""
        missing: list[str] = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for path in reversed(missing):
            # Not found: the folder above was removed again meanwhile. The caller tries again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(path, 0o700 if path == self.path else 0o777)  # what is inside is for whoever may enter the store
            if len(path) < len(self.path):
                with contextlib.suppress(FileNotFoundError):
                    _sync_folder(os.path.dirname(path))

    def _sync(self, folder: str) -> None:
        """Make the names in a folder durable; the first time also its own and those above it, up to the store's.

        Also of folders that were there: who made one may not have come to sync the one above. Called when a key is in the folder, so nobody
        can remove and make it again in between. Three more syncs for each session, as only the folder of the key itself is remembered.
        """
        _sync_folder(folder)
        if folder in self._durable:
            return
        above = folder
        while above != self.path:
            above = os.path.dirname(above)
            _sync_folder(above)
        with contextlib.suppress(PermissionError):  # what is above the store need not be readable
            _sync_folder(os.path.dirname(self.path))
        self._durable.add(folder)

    def _sweep(self) -> None:
        """Once: remove the files that killed writers left. Nobody can reach them by a key, but their bytes are there to be read."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):
            # By descriptor, never through a link, and only what is called as ours are: in a folder that others write to, too, this
            # would else delete whatever is old where somebody's link leads.
            folder = os.open(self._temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for name in filter(_TEMPORARY_NAME.fullmatch, os.listdir(folder)):
                    with contextlib.suppress(OSError):
                        _remove_unless_locked(name, folder)
            finally:
                os.close(folder)

    def _translate(self, error: OSError, key: str) -> StoreError:
        what = f"{os.path.join(self.path, key)}: {error.strerror}"
        if error.errno in _FULL:
            return StoreFullError(f"{what}; free some space and run the command again")
        if error.errno in _DENIED:
            return DeniedError(f"{what}; the project's folder must be readable, and for changes writable, for you")
        return NotSentError(what)


@contextlib.contextmanager
def _temporary_file(folder: str) -> Iterator[tuple[int, str]]:
    """A new file, open and locked, and its path: whoever sweeps sees by the lock that its writer lives. Removed in the end."""
    while True:
        path = os.path.join(folder, f"{os.getpid()}-{os.urandom(8).hex()}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else it was swept before it was locked
                yield descriptor, path
                return
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def _remove_unless_locked(name: str, folder: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _has_two_names(path: str) -> bool:
    try:
        return os.stat(path).st_nlink == 2
    except OSError:
        return False


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
