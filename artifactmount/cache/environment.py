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

T = TypeVar("T")

#: Reserved address space, not disk: the file grows with what is in it.
_MAP_SIZE = 32 << 30
_READERS = 1024

_open: dict[str, tuple[Any, dict[str, Any], int]] = {}  # LMDB must not be opened twice by one process: path -> environment, tables, users
_open_lock = threading.Lock()


class Environment:
    """The environment in `path` with these tables. Never raises for what is on disk: what cannot be read is not there."""

    def __init__(self, path: str, tables: Sequence[str]) -> None:
        self.path, self._names = os.path.realpath(path), tuple(tables)
        self.failure: Exception | None = None
        self._env: Any = None
        self._tables: dict[str, Any] = {}
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
                    if not isinstance(error, OSError):  # damaged: it is only a cache
                        shutil.rmtree(self.path, ignore_errors=True)
                        self._start()

    def _start(self) -> None:
        os.makedirs(self.path, mode=0o700, exist_ok=True)
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
        self._env = env
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

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        value: bytes | None = self._read(lambda txn: txn.get(key, db=self._tables[table]), None)
        return value

    def get_many(self, table: str, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values in the order of the keys, None for a missing one."""
        wanted = list(keys)
        return self._read(lambda txn: [txn.get(key, db=self._tables[table]) for key in wanted], [None] * len(wanted))

    def items(self, table: str, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Everything whose key begins with `prefix`, in order."""
        return self._read(lambda txn: list(_scan(txn, self._tables[table], prefix)), [])

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]], *, overwrite: bool = True) -> bool:
        """Put values, all or none; False (and `failure`) when it could not be done."""

        def put(txn: Any) -> None:
            for key, value in items:
                txn.put(key, value, db=self._tables[table], overwrite=overwrite)

        return self.change(put)

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
            self.failure = error
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
            self.failure = error
            return otherwise


def _scan(txn: Any, table: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor(db=table)
    found = cursor.set_range(prefix)
    while found and cursor.key().startswith(prefix):
        yield cursor.item()
        found = cursor.next()
