"""The stat cache: one value for each directory of a staging folder, in an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable

from blake3 import blake3

from artifactmount.cache.environment import Environment


class StatCache:
    """What the last scans saw. Use as a context manager."""

    def __init__(self, cache_path: str) -> None:
        self._index = Environment(os.path.join(cache_path, "stat"), ("directories",))

    def __enter__(self) -> StatCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()

    def get(self, staging: bytes, directory: bytes) -> bytes | None:
        """The value of a directory of a staging folder."""
        return self._index.get("directories", _key(staging, directory))

    def put_many(self, staging: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep values of directories, in one transaction. Where there is no room, the next scan reads more: no harm."""
        self._index.put_many("directories", ((_key(staging, directory), value) for directory, value in items))


def _key(staging: bytes, directory: bytes) -> bytes:
    # LMDB's keys end at 511 bytes, a directory's at 4,095.
    return blake3(staging + directory).digest()
