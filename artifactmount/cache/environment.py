"""One LMDB environment that cannot fail: a damaged one is made anew, a full disk is an answer, not an exception.

Keys and values are bytes in a few named tables. LMDB is safe between processes, after a kill, and, as writes are synced, a power cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import lmdb

from artifactmount.private import make_folder

T = TypeVar("T")

#: Reserved address space, not disk: the file grows with what is in it.
_MAP_SIZE = 32 << 30
_READERS = 1024
#: LMDB maps its lock file writable and touches it at once: where the disk is full, a hole in it is a SIGBUS. A reader's slot is 64 bytes.
_LOCK_BYTES = 64 * (_READERS + 64)
#: What LMDB says of damaged files. Anything else (no memory, no disk, no reader slot) is not their fault.
_DAMAGE = (
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)

_open: dict[str, tuple[Any, dict[str, Any], int]] = {}  # LMDB must not be opened twice by one process: path -> environment, tables, users
_open_lock = threading.Lock()
_inherited: list[Any] = []  # environments of a parent process: never used, and never closed, which would be felt there


def _after_fork() -> None:
    """In a forked child: what the parent has open is the parent's, and who needs it here opens it anew."""
    _inherited.extend(env for env, _, _ in _open.values())
    _open.clear()
    _open_lock.release()


os.register_at_fork(before=_open_lock.acquire, after_in_parent=_open_lock.release, after_in_child=_after_fork)


class Environment:
    """The environment in `path` with these tables. Never raises for what is on disk: what cannot be read is not there."""

    def __init__(self, path: str, tables: Sequence[str]) -> None:
        self.path, self._names = os.path.realpath(path), tuple(tables)
        self.failure: Exception | None = None
        self._env: Any = None
        self._tables: dict[str, Any] = {}
        self._file: tuple[int, int] | None = None
        with _open_lock:
            if self.path in _open and os.path.exists(os.path.join(self.path, "data.mdb")):
                self._env, self._tables, users = _open[self.path]
                _open[self.path] = (self._env, self._tables, users + 1)
                return
            try:
                self._start()
            except (lmdb.Error, OSError) as error:
                self.failure = error
                with contextlib.suppress(lmdb.Error, OSError):
                    if isinstance(error, _DAMAGE):
                        self._remove()  # it is only a cache
                        self._start()

    def _start(self) -> None:
        make_folder(self.path)
        _allocate(os.path.join(self.path, "lock.mdb"))
        # No writemap: on a full disk it is SIGBUS. One reader slot a thread; slots of dead processes are cleared here.
        env = lmdb.open(
            self.path,
            map_size=_MAP_SIZE,
            max_dbs=len(self._names),
            max_readers=_READERS,
            mode=0o600,
            metasync=False,
            writemap=False,
        )
        try:
            env.reader_check()
            self._tables = {name: env.open_db(name.encode()) for name in self._names}
        except lmdb.Error:
            env.close()
            raise
        self._env, self._file = env, _identity(self.path)
        _open[self.path] = (env, self._tables, 1)

    def close(self) -> None:
        """Let go of the files, when nobody in this process uses them any more."""
        with _open_lock:
            if self._env is None or self.path not in _open or _open[self.path][0] is not self._env:
                return
            env, tables, users = _open[self.path]
            self._env = None
            if users > 1:
                _open[self.path] = (env, tables, users - 1)
            else:
                del _open[self.path]
                env.close()

    def is_gone(self) -> bool:
        """Whether somebody deleted the files that are in use."""
        return self._file is not None and self._file != _identity(self.path)

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        value: bytes | None = self._read(lambda txn: txn.get(key, db=self._tables[table]), None)
        return value

    def items(self, table: str, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Everything whose key begins with `prefix`, in order."""
        return self._read(lambda txn: list(_scan(txn, self._tables[table], prefix)), [])

    def keys(self, table: str) -> set[bytes]:
        """All keys of a table."""
        return self._read(lambda txn: set(txn.cursor(db=self._tables[table]).iternext(values=False)), set())

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]], *, overwrite: bool = True) -> bool:
        """Put values, all or none; False (and `failure`) when it could not be done."""

        def put(txn: Any) -> None:
            for key, value in items:
                txn.put(key, value, db=self._tables[table], overwrite=overwrite)

        return self.change(put)

    def delete(self, table: str, key: bytes) -> None:
        """Drop a value, if it is there and can be dropped."""
        if self.get(table, key) is not None:
            self.change(lambda txn: txn.delete(key, db=self._tables[table]))

    def delete_prefix(self, txn: Any, table: str, prefix: bytes) -> None:
        """Within a change: delete everything whose key begins with `prefix`."""
        cursor = txn.cursor(db=self._tables[table])
        while cursor.set_range(prefix) and cursor.key().startswith(prefix):
            cursor.delete()

    def table(self, name: str) -> Any:
        """The handle of a table, for a change."""
        return self._tables[name]

    def change(self, work: Callable[[Any], None]) -> bool:
        """Do `work(transaction)`, all of it or nothing; False (and `failure`) when it could not be done."""
        if self._env is None:
            return False
        try:
            # ENOSPC comes as an error of put, or only of the commit: both end here.
            with self._env.begin(write=True) as txn:
                work(txn)
        except lmdb.Error as error:
            self._failed(error)
            return False
        return True

    def clear(self) -> None:
        """Empty all tables."""

        def drop(txn: Any) -> None:
            for table in self._tables.values():
                txn.drop(table, delete=False)

        self.change(drop)

    def _read(self, work: Callable[[Any], T], otherwise: T) -> T:
        if self._env is None:
            return otherwise
        try:
            with self._env.begin(buffers=False) as txn:
                return work(txn)
        except lmdb.Error as error:
            self._failed(error)
            return otherwise

    def _failed(self, error: lmdb.Error) -> None:
        """Remember why. Damaged files are taken away, so that who opens them next makes them anew; those who have them open go on."""
        self.failure = error
        if isinstance(error, _DAMAGE) and self._file is not None and self._file == _identity(self.path):
            self._file = None
            self._remove()

    def _remove(self) -> None:
        """Both files at once: a lock file that outlives its data would tell the next process of transactions that never were."""
        aside = f"{self.path}.{os.urandom(4).hex()}"
        with contextlib.suppress(OSError):
            os.rename(self.path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(os.path.join(path, "data.mdb"))
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _allocate(path: str) -> None:
    """Give a lock file its blocks. Raises OSError where there is no room."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(descriptor)
        length = status.st_size or _LOCK_BYTES
        if status.st_blocks * 512 < length:
            os.posix_fallocate(descriptor, 0, length)
    finally:
        os.close(descriptor)


def _scan(txn: Any, table: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor(db=table)
    found = cursor.set_range(prefix)
    while found and cursor.key().startswith(prefix):
        yield cursor.item()
        found = cursor.next()
