"""A store in memory: for tests, and the reference for the others."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence

from artifactmount.errors import KeyMissingError
from artifactmount.store import Listed, check_key, check_prefix


class MemoryStore:
    """Keys in a dict, under a lock. `now`: its clock."""

    def __init__(self, url: str = "memory:", now: Callable[[], float] = time.time) -> None:
        self.url = self.place = url
        self._now = now
        self._lock = threading.Lock()
        self._values: dict[str, tuple[bytes, float]] = {}
        self._keys: list[str] = []

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        try:
            return self._values[check_key(key)][0][start:stop]
        except KeyError:
            raise KeyMissingError(key) from None

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        with self._lock:
            if check_key(key) in self._values:
                return False
            self._values[key] = (bytes(data), self._now())
            insort(self._keys, key)
            return True

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        with self._lock:
            found: list[Listed] = []
            # Keys that begin with the prefix are contiguous, and the prefix itself sorts in front of them.
            start = max(bisect_right(self._keys, after), bisect_right(self._keys, prefix) - (prefix in self._values and prefix > after))
            for key in self._keys[start:]:
                if not key.startswith(prefix) or len(found) == limit:
                    break
                content, modified = self._values[key]
                found.append(Listed(key, len(content), modified))
            return found

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        check_prefix(prefix)
        with self._lock:
            names = {key[len(prefix) :].split("/", 1)[0] for key in self._keys if key.startswith(prefix) and "/" in key[len(prefix) :]}
        return sorted(name for name in names if name > after)[:limit]

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        with self._lock:
            for key in keys:
                if self._values.pop(check_key(key), None) is not None:
                    self._keys.remove(key)

    def values(self) -> dict[str, tuple[bytes, float]]:
        """Everything, with the time it was written: for tests that compare whole stores."""
        return dict(self._values)

    def clock(self) -> float:
        """See Store."""
        return self._now()

    def close(self) -> None:
        """See Store."""
