"""The cache: local, disposable, verified. Deleting its directory is always safe, also while it is in use.

An LMDB index (many processes share it) over bytes in append-only segment files; beside it whole files (runs, manifest tables) that are
mapped into memory. Only verified chunks go in, and each is verified again when it comes out, so neither a power cut nor a flipped bit can
make it lie: whatever is not right is simply not there. A full disk is never an error for who reads. Knows no stores, versions or mounts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from artifactmount.cache.environment import Environment
from artifactmount.cache.segments import Segments
from artifactmount.digest import chunk_digest
from artifactmount.private import close_folder, make_folder

_log = logging.getLogger(__name__)

DEFAULT_BUDGET = 10 << 30
#: Whole files (runs, tables) may take this share of the budget beside it.
_FILES_SHARE = 4
_TOUCH_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes held: of chunks, of whole files; and the budget for chunks."""

    chunks: int
    files: int
    budget: int


class Cache:
    """The cache in the directory `path`, with a byte budget for chunks. Threads may share one."""

    def __init__(self, path: str, budget: int = DEFAULT_BUDGET) -> None:
        self.path = os.path.realpath(path)
        self.budget = budget
        self._lock = threading.Lock()
        self._warned = False
        with contextlib.suppress(OSError):
            make_folder(self.path)
        there = _names(self.path)
        # A folder of other things stays as it is: what the cache makes in it is closed.
        close_folder(self.path, "cache", ours=not there or "index" in there)
        self.index = Environment(os.path.join(self.path, "index"), ("chunks", "members", "states", "places", "runs"))
        self._segments = Segments(os.path.join(self.path, "segments"), self.index, budget)

    def close(self) -> None:
        """Let go of files."""
        self._segments.close()
        self.index.close()

    # -- chunks --------------------------------------------------------------------------------------------------------------------
    def get_chunk(self, digest: bytes, name: Callable[[bytes], bytes] = chunk_digest) -> bytes | None:
        """A chunk's plain bytes, verified by what `name` says their digest is; None when it is not here."""
        return self._segments.get(digest, name)

    def has_chunk(self, digest: bytes) -> bool:
        """Whether a chunk is likely here (it is verified only when it is read)."""
        return self.index.get("chunks", digest) is not None

    def chunk_digests(self) -> set[bytes]:
        """All chunks that are likely here: 100 bytes of memory for each."""
        return self.index.keys("chunks")

    def put_chunks(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep these verified chunks (digest, plain bytes). Where there is no room, they are not kept, and one warning says so."""
        try:
            self._segments.put(items)
        except OSError as error:
            self._warn(f"takes nothing in ({error}); going on without it")
        if self.index.is_gone():
            self._warn("was deleted while it was in use; what this process takes in now, nobody else finds")

    def forget_chunks(self, digests: Iterable[bytes]) -> None:
        """Drop chunks, and erase their bytes."""
        self._segments.forget(digests)

    # -- small values --------------------------------------------------------------------------------------------------------------
    def state_get(self, key: bytes) -> bytes | None:
        """A small value kept under a key."""
        return self.index.get("states", key)

    def state_put(self, key: bytes, value: bytes) -> None:
        """Keep a small value."""
        if not self.index.put_many("states", [(key, value)]):
            self._warn(f"takes nothing in ({self.index.failure}); going on without it")

    def state_forget(self, key: bytes) -> None:
        """Drop a small value."""
        self.index.delete("states", key)

    # -- whole files ---------------------------------------------------------------------------------------------------------------
    def file_path(self, kind: str, name: str) -> str | None:
        """Where the file `name` of a kind ("runs", "tables") lies, if it is here."""
        path = os.path.join(self.path, kind, name)
        try:
            if time.time() - os.stat(path).st_mtime > _TOUCH_SECONDS:
                os.utime(path)  # the least recently used goes first
        except OSError:
            return None
        return path

    def put_file(self, kind: str, name: str, pieces: Iterable[bytes | bytearray | memoryview]) -> str | None:
        """Keep a file: written whole, durable, then given its name; never changed afterwards, so it may be mapped. None: no room."""
        folder = os.path.join(self.path, kind)
        path, temporary = os.path.join(folder, name), os.path.join(folder, f".{name[:32]}.{os.urandom(4).hex()}")
        try:
            make_folder(folder)
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._warn(f"takes nothing in ({error}); going on without it")
            return None
        self._sweep_files(keep=path)
        return path

    def forget_file(self, kind: str, name: str) -> None:
        """Unlink a file, if it is here; who has it mapped keeps it."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, kind, name))

    def _files(self) -> list[tuple[float, int, str]]:
        found: list[tuple[float, int, str]] = []
        for kind in ("runs", "tables"):
            with contextlib.suppress(OSError), os.scandir(os.path.join(self.path, kind)) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        found.append((status.st_mtime, status.st_size, entry.path))
        return sorted(found)

    def _sweep_files(self, keep: str) -> None:
        files = self._files()
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.budget // _FILES_SHARE:
                return
            if path != keep:
                with contextlib.suppress(OSError):
                    os.unlink(path)  # who has it mapped keeps it
                    total -= size

    # -- as a whole ----------------------------------------------------------------------------------------------------------------
    def usage(self) -> Usage:
        """What is held now."""
        return Usage(self._segments.total(), sum(size for _, size, _ in self._files()), self.budget)

    def clear(self) -> None:
        """Drop all content and what is known of it; the stats of staging folders stay."""
        self._segments.clear()
        for kind in ("runs", "tables"):
            shutil.rmtree(os.path.join(self.path, kind), ignore_errors=True)
        self.index.clear()

    def _warn(self, what: str) -> None:
        """One warning, whatever happens, for the life of this process."""
        with self._lock:
            if self._warned:
                return
            self._warned = True
        _log.warning("the cache %s %s", self.path, what)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
