"""A store: dumb bytes by key, and the two properties that everything else rests on.

*Create-if-absent is atomic*, and *a get returns the bytes once created*. Listings may be stale, requests may be late or lost, deletes may
fail: that costs a leak or time, never data. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from artifactmount.errors import DeniedError, RefusedError, StoreError, UsageError

_PROBES = 6
_FIRST_PAUSE = 0.1  # seconds
_KEY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@dataclass(frozen=True, slots=True)
class Listed:
    """A key in a listing: its size in bytes, and when it was written, in seconds since 1970 by the store's own clock."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """All calls may raise StoreError; threads may share one store."""

    url: str
    place: str  # the URL, and the server where that is not said by it: what tells two stores apart

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a key; fewer only where the key ends. Raises KeyMissingError.

        A body that the network cut short is an error, never a result.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Put a key if it is absent. True: created. False: a key of that name exists.

        Raises NotSentError when it surely had no effect; any other StoreError means that it may have had.
        """
        ...

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """The keys that begin with `prefix` and stand behind `after`, in byte order, at most `limit`."""
        ...

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """The names between `prefix` (empty, or a key with a slash behind) and the next slash, behind `after`, in byte order.

        The order is that of the names, not of the keys below them: `a` stands before `a-b`, though `a-b/x` stands before `a/x`.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete keys, with every old version the store keeps of them. Missing ones are fine."""
        ...

    def clock(self) -> float:
        """The store's own time, which it stamps on what is written: seconds since 1970. It decides when to try something, never what."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def check_key(key: str) -> str:
    """`key`, or UsageError: a key of another form could lead a folder store outside its folder."""
    if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise UsageError(f"not a key: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix`, or UsageError: of a listing of names, for the same reason."""
    if prefix and not prefix.endswith("/"):
        raise UsageError(f"not a prefix: {prefix!r}")
    if prefix:
        check_key(prefix[:-1])
    return prefix


def probe(store: Store, key: str, data: bytes) -> None:
    """Make sure that the store refuses to create a key that exists: by creating `key` again with the very bytes it has.

    Some servers accept `If-None-Match` and ignore it. Raises RefusedError for one of those; nothing was harmed. A store that is busy, or
    whose answer is lost, is asked again: a command must not fail for the one request that is only a question. Raises StoreError.
    """
    if _creates(store, key, data):
        raise RefusedError(
            f"{store.url} overwrites what must not be overwritten (it ignores If-None-Match), so two writers would lose data there; "
            'nothing was changed. README, "Which stores", lists those that work'
        )


def _creates(store: Store, key: str, data: bytes) -> bool:
    pause = _FIRST_PAUSE
    for _ in range(_PROBES - 1):
        try:
            return store.create(key, data)
        except DeniedError:
            raise
        except StoreError:
            time.sleep(pause)
            pause *= 2
    return store.create(key, data)
