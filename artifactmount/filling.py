"""The small files of a download: fetched in pieces of packs, some ahead, and written by worker processes where there are many.

What a worker left undone, or would have done when it was lost, is done here, so only here is it said what is wrong. Blocking code, for one
thread. Must not know versions.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter

from artifactmount.crypto import Cipher
from artifactmount.errors import CorruptError
from artifactmount.fetch import GAP, Fetcher, Stretch
from artifactmount.folders import Root
from artifactmount.pack import Place
from artifactmount.progress import Progress
from artifactmount.ranges import PackId
from artifactmount.rows import path_of, show_path
from artifactmount.run import ChunkRef
from artifactmount.state import State
from artifactmount.target import Target
from artifactmount.workers import Job, WorkerLostError, Workers
from artifactmount.writing import Small, write_files

#: So much is looked through for what lies together in a pack, and fetched ahead: bytes, files, and pieces of packs.
_BATCH_BYTES = 32 << 20
_BATCH_FILES = 1 << 13
_AHEAD = 8
#: What a worker gets at once: bytes of a pack (a whole one of small files), files, and the room for both.
_JOB_BYTES = 9 << 20
_JOB_FILES = 1 << 10
_SLOT = 10 << 20
#: Worker processes take 0.2 s to start, as much as two of them save with so many files (0.1 ms each).
_MANY = 4000
_OFFSET = itemgetter(4)  # of a Small


@dataclass(frozen=True, slots=True)
class _Group:
    """Files whose chunks lie close to each other in one pack, in the order of their offsets; all said by one run."""

    run: bytes
    pack: PackId
    files: list[Small]

    def ref(self, index: int) -> ChunkRef:
        """The chunk of a file."""
        _, _, _, _, offset, stored, plain, digest = self.files[index]
        return ChunkRef(digest, Place(self.pack, offset, stored, plain))


class Filling:
    """Small files on their way. `new`: how many there will be that have no predecessor at their place. Use as a context manager."""

    def __init__(
        self, pool: ThreadPoolExecutor, fetcher: Fetcher, cipher: Cipher, state: State, target: Target, progress: Progress, new: int
    ) -> None:
        self._pool, self._fetcher, self._cipher, self._state = pool, fetcher, cipher, state
        self._target, self._progress = target, progress
        self._root = target.root() if new >= _MANY else None
        self._workers = Workers.start(_SLOT) if self._root is not None else None
        self._batch: dict[tuple[bytes, PackId], list[Small]] = {}
        self._held = self._count = 0
        self._fetching: deque[tuple[_Group, Future[Stretch]]] = deque()
        self._writing: deque[tuple[_Group, Stretch, Job]] = deque()

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *_: object) -> None:
        for _group, stretch in self._fetching:
            stretch.cancel()
        if self._workers is not None:
            self._workers.close()

    def add(self, run: bytes, pack: PackId, file: Small) -> None:
        """Write a file whose chunk the run of this digest says to be in this pack, now or soon. Raises what `finish` raises, for this
        file or one before."""
        self._batch.setdefault((run, pack), []).append(file)
        self._held += file[5]
        self._count += 1
        if self._held >= _BATCH_BYTES or self._count >= _BATCH_FILES:
            self._dispatch()

    def finish(self) -> None:
        """Write what is left. Raises CorruptError naming a file, RefusedError, StoreError, GoneError."""
        self._dispatch()
        while self._fetching:
            self._next()
        while self._writing:
            self._settle(*self._writing.popleft())

    def _dispatch(self) -> None:
        batch, self._batch, self._held, self._count = self._batch, {}, 0, 0
        for (run, pack), files in batch.items():
            files.sort(key=_OFFSET)
            for group in (_Group(run, pack, part) for part in _cut(files)):
                if len(self._fetching) == _AHEAD:
                    self._next()
                ends = [group.ref(0), group.ref(-1)]
                self._fetching.append((group, self._pool.submit(self._fetcher.stretch, ends, self._state)))

    def _next(self) -> None:
        """Have those written whose bytes were asked for first."""
        group, fetched = self._fetching.popleft()
        stretch = fetched.result()
        if self._workers is not None and self._root is not None:
            if len(self._writing) == self._workers.room:
                self._settle(*self._writing.popleft())
            try:
                self._writing.append((group, stretch, self._give(self._workers, self._root, group, stretch)))
                return
            except WorkerLostError:
                pass
        self._done(group, stretch, range(len(group.files)))

    def _give(self, workers: Workers, root: Root, group: _Group, stretch: Stretch) -> Job:
        files = pickle.dumps(group.files, pickle.HIGHEST_PROTOCOL)
        about = self._cipher, root, group.pack, stretch.offset, len(stretch.stored), len(files)
        return workers.give(write_files, *about, content=(stretch.stored, files))

    def _settle(self, group: _Group, stretch: Stretch, job: Job) -> None:
        """Wait for a worker, and do what it left undone."""
        try:
            undone: Iterable[int] = job.wait()
        except WorkerLostError:
            undone = range(len(group.files))
        self._done(group, stretch, undone)

    def _done(self, group: _Group, stretch: Stretch, undone: Iterable[int]) -> None:
        """Do what was not done of a group, and tell of all of it."""
        for index in undone:
            key, name, mtime, executable, _, _, _, _ = group.files[index]
            try:
                content = self._fetcher.take(stretch, group.ref(index), self._state, group.run)
            except CorruptError as error:
                path = show_path(path_of(key, name))
                raise CorruptError(f"{path}: {error}; `artifactmount verify` tells what else is damaged") from error
            self._target.put(key, name, content, mtime, executable)
        self._progress.advance(sum(plain for _, _, _, _, _, _, plain, _ in group.files), len(group.files))


def _cut(files: list[Small]) -> Iterator[list[Small]]:
    """Files of a pack, in the order of their offsets, in groups that one request brings and one worker takes."""
    start = begin = end = 0
    for index, (_, _, _, _, offset, stored, _, _) in enumerate(files):
        if index == 0:
            begin = end = offset
        if index - start == _JOB_FILES or (index > start and (offset + stored - begin > _JOB_BYTES or offset - end > GAP)):
            yield files[start:index]
            start, begin = index, offset
        end = offset + stored
    yield files[start:]
