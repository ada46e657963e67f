"""Requests as values: the protocol is written as generators that yield what they need and are sent the answer.

So the same code runs against a real store (`drive`), and in a simulator that interleaves clients, loses answers and crashes between any
two requests. A generator never touches a store itself. This module must not know what is in the log or in a pack.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from artifactmount.errors import ArtifactError, KeyMissingError
from artifactmount.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key. Answer: its bytes, at most `limit` of them: who decodes them sees that there were more. Raises KeyMissingError."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class GetMany:
    """Read several keys at once. Answer: a list of their bytes, at most `limit` of each; None for a missing one."""

    keys: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Create:
    """Put a key if absent. Answer: whether it was created; anything but an answer means the outcome is unknown."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete keys. Missing ones are fine."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListKeys:
    """The keys under a prefix after one, in order. Answer: a list of `Listed`; it may be stale, so it may cost time but decides nothing."""

    prefix: str
    after: str = ""
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Clock:
    """Ask what time it is at the store. Answer: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before trying again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Local:
    """Work on this machine: read staging, build a table. Answer: what it returns."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Spawn:
    """Run other steps beside these. No answer; what they return, or raise, comes with the next `Join`."""

    steps: Generator[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for everything spawned. Answer: the list of what they returned, in the order of their start; raises the first error."""


Step = Get | GetMany | Create | Delete | ListKeys | Clock | Pause | Local | Spawn | Join
Steps = Generator[Step, Any, T]

_PARALLEL = 16
#: Spawned steps at work at once. Each may hold a pack of 16 MiB, so this bounds the memory of uploads.
_SPAWNED = 6


def drive(store: Store, steps: Steps[T]) -> T:
    """Run the generator to its end against a store, blocking. Errors, ^C included, are raised inside it, where it waits."""
    crew = _Crew(store)
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                answer, error = crew.perform(step), None
            except (ArtifactError, OSError, KeyboardInterrupt) as failure:
                answer, error = None, failure
    finally:
        crew.close()


class _Crew:
    """The threads that do what was spawned: made when first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool: ThreadPoolExecutor | None = None
        self._room = threading.BoundedSemaphore(_SPAWNED)
        self._spawned: list[Future[Any]] = []

    def perform(self, step: Step) -> Any:
        if isinstance(step, Spawn):
            self._pool = self._pool or ThreadPoolExecutor(_SPAWNED)
            self._room.acquire()  # waits while enough are at work
            future = self._pool.submit(drive, self._store, step.steps)
            future.add_done_callback(lambda _: self._room.release())
            self._spawned.append(future)
            return None
        if isinstance(step, Join):
            spawned, self._spawned = self._spawned, []
            wait(spawned)
            return [future.result() for future in spawned]
        return perform(self._store, step)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def perform(store: Store, step: Step) -> Any:
    """Do one step against a store, and wait for it."""
    match step:
        case Get(key, limit):
            return store.get(key, 0, limit)
        case GetMany(keys, limit):
            return _get_many(store, keys, limit)
        case Create(key, data):
            return store.create(key, data)
        case Delete(keys):
            return store.delete(keys)
        case ListKeys(prefix, after, limit):
            return store.list_keys(prefix, after, limit)
        case Clock():
            return store.clock()
        case Pause(seconds):
            return time.sleep(seconds)
        case Local(call):
            return call()
        case Spawn() | Join():
            raise TypeError("only a driver can run steps side by side")


def _get_many(store: Store, keys: tuple[str, ...], limit: int) -> list[bytes | None]:
    def get(key: str) -> bytes | None:
        try:
            return store.get(key, 0, limit)
        except KeyMissingError:
            return None

    if len(keys) == 1:
        return [get(keys[0])]
    with ThreadPoolExecutor(min(len(keys), _PARALLEL)) as pool:
        return list(pool.map(get, keys))
