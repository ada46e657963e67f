"""The directories of a large tree, listed by worker processes before their turn. Knows nothing of what is done with a directory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from artifactmount.folders import Root
from artifactmount.listing import Listed, list_folders
from artifactmount.workers import Job, WorkerLostError, Workers

#: So many entries are listed by who walks: workers take 0.1 s of CPU to start, as much as listing these.
_MANY = 10_000
#: Directories that are listed before their turn at most, and entries in them; how many are one job, unless they are large.
_AHEAD, _ENTRIES, _AT_ONCE, _LARGE = 32, 200_000, 4, 4_000


class Lookahead:
    """For one walk through the folder `root`. `workers`: asked for when the tree turns out to be large."""

    def __init__(self, root: Root, workers: Callable[[], Workers | None], expected: int = 0) -> None:
        """`expected`: about how many entries there are. Where that is many, the workers start while the first are listed by who walks."""
        self._root, self._workers = root, workers
        self._asked: deque[tuple[Job, list[bytes]]] = deque()
        self._under_way: set[bytes] = set()
        self._ready: dict[bytes, Listed | None] = {}
        self._seen = self._held = self._largest = 0
        if expected >= 2 * _MANY:
            workers()

    def take(self, keys: Sequence[bytes]) -> Listed | None:
        """The entries of the directory whose turn it is, the last of `keys`; those before it come later, in reverse.

        None where it was not listed, or cannot be: who walks does it.
        """
        workers = self._workers() if self._seen >= _MANY else None
        if workers is not None and len(self._ready) < _AHEAD and self._held < _ENTRIES:
            with suppress(WorkerLostError):
                self._ask(keys, workers)
        key = keys[-1]
        while key in self._under_way:
            job, asked = self._asked.popleft()
            self._under_way.difference_update(asked)
            with suppress(WorkerLostError):
                for one, found in zip(asked, job.wait(), strict=True):
                    self._ready[one] = found
                    self._held += _count(found)
        found = self._ready.pop(key, None)
        self._held -= _count(found)
        return found

    def note(self, found: Listed) -> None:
        """So much was listed, by whomever."""
        self._seen += _count(found)
        self._largest = max(self._largest, _count(found))

    def _ask(self, keys: Sequence[bytes], workers: Workers) -> None:
        wanted = [key for key in keys[: -_AHEAD - 1 : -1] if key not in self._ready and key not in self._under_way]
        step = 1 if self._largest > _LARGE else _AT_ONCE
        for at in range(0, len(wanted), step):
            if len(self._asked) == workers.room:
                return
            some = wanted[at : at + step]
            self._asked.append((workers.give(list_folders, self._root, some), some))
            self._under_way.update(some)


def _count(found: Listed | None) -> int:
    return 0 if found is None else len(found.names)
