"""The small files of a download: fetched in pieces of packs, some ahead, and written by worker processes where there are many.

Where there are no workers, threads write them. What a worker left undone, or would have done when it was lost, is fetched again and done by
threads, too, so only here is it said what is wrong. Blocking code, for one thread. Must not know versions.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter

from artifactmount.crypto import Cipher
from artifactmount.errors import CorruptError
from artifactmount.fetch import GAP, Fetcher, Stretch
from artifactmount.pack import Place
from artifactmount.progress import Progress
from artifactmount.ranges import PackId
from artifactmount.rows import path_of, show_path
from artifactmount.run import ChunkRef
from artifactmount.state import State
from artifactmount.target import Target
from artifactmount.workers import Job, WorkerLostError, Workers
from artifactmount.writing import Small, write_files

#: So much is looked through for what lies together in a pack: bytes of packs (not in memory yet), and files.
_BATCH_BYTES = 32 << 20
_BATCH_FILES = 1 << 13
#: What is fetched at once (a whole pack of small files), and what may be on its way or in memory: bytes of packs, and pieces of them.
_PIECE_BYTES = 9 << 20
_HELD_BYTES = 64 << 20
_AHEAD = 16
#: What a worker gets at once: bytes of a pack, files, and the room for both. A slot that was used once stays in memory; a worker has three.
_JOB_BYTES = 3 << 20
_JOB_FILES = 1 << 10
_SLOT = 4 << 20
#: Worker processes take 0.2 s to start, as much as two of them save with so many files (0.1 ms each).
_MANY = 4000
_OFFSET, _PLAIN = itemgetter(4), itemgetter(6)  # of a Small


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

    def only(self, files: list[Small]) -> _Group:
        """A part of it."""
        return _Group(self.run, self.pack, files)

    @property
    def start(self) -> int:
        """Where the first chunk begins in the pack."""
        return self.files[0][4]

    @property
    def length(self) -> int:
        """Bytes of the pack from there to the end of the last chunk."""
        _, _, _, _, offset, stored, _, _ = self.files[-1]
        return offset + stored - self.start

    @property
    def plain(self) -> int:
        """Bytes of all files."""
        return sum(map(_PLAIN, self.files))


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
        self._bytes = self._count = 0  # of the batch
        self._held = 0  # bytes of what follows
        self._fetching: deque[tuple[_Group, Future[Stretch]]] = deque()  # for workers
        self._given: deque[tuple[_Group, Job]] = deque()  # to workers
        self._here: deque[tuple[_Group, Future[None]]] = deque()  # fetched and written by threads
        self._over = False

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for _group, fetched in self._fetching:
            fetched.cancel()
        for _group, written in self._here:
            written.cancel()
        if self._workers is not None:
            self._workers.close()

    def add(self, run: bytes, pack: PackId, file: Small) -> None:
        """Write a file whose chunk the run of this digest says to be in this pack, now or soon. Raises what `finish` raises, for this
        file or one before."""
        self._batch.setdefault((run, pack), []).append(file)
        self._bytes += file[5]
        self._count += 1
        if self._bytes >= _BATCH_BYTES or self._count >= _BATCH_FILES:
            self._dispatch()

    def finish(self) -> None:
        """Write what is left. Raises CorruptError naming a file, RefusedError, StoreError, GoneError."""
        self._dispatch()
        while self._fetching or self._given or self._here:
            self._step()

    def _dispatch(self) -> None:
        batch, self._batch, self._bytes, self._count = self._batch, {}, 0, 0
        for (run, pack), files in batch.items():
            files.sort(key=_OFFSET)
            for group in (_Group(run, pack, part) for part in _cut(files, _PIECE_BYTES)):
                while len(self._fetching) + len(self._here) >= _AHEAD or self._held > max(_HELD_BYTES - group.length, 0):
                    self._step()
                if self._workers is None:
                    self._write_here(group)
                    continue
                self._held += group.length
                self._fetching.append((group, self._pool.submit(self._fetcher.stretch, [group.ref(0), group.ref(-1)], self._state)))

    def _step(self) -> None:
        """Have something of what is under way go on, or wait for it: what is there already, before what is still to come."""
        ready = bool(self._fetching) and self._fetching[0][1].done() and self._has_room()
        if ready or not (self._given or self._here):
            self._give_next()
        elif self._given:
            self._settle()
        else:
            group, written = self._here.popleft()
            written.result()
            self._held -= group.length
            self._progress.advance(group.plain, len(group.files))

    # -- by workers ------------------------------------------------------------------------------------------------------------------
    def _has_room(self) -> bool:
        return self._workers is not None and len(self._given) < self._workers.room

    def _give_next(self) -> None:
        """Have workers write what was asked for first."""
        group, fetched = self._fetching.popleft()
        stretch = fetched.result()
        self._held -= group.length
        for part in map(group.only, _cut(group.files, _JOB_BYTES)):
            while not self._has_room():
                self._settle()
            try:
                job = self._give(part, stretch)
            except WorkerLostError:
                self._write_here(part)
            else:
                self._held += part.length
                self._given.append((part, job))

    def _give(self, group: _Group, stretch: Stretch) -> Job:
        assert self._workers is not None and self._root is not None
        at = group.start - stretch.offset
        stored, files = stretch.stored[at : at + group.length], pickle.dumps(group.files, pickle.HIGHEST_PROTOCOL)
        about = self._cipher, self._root, group.pack, group.start, len(stored), len(files)
        return self._workers.give(write_files, *about, content=(stored, files))

    def _settle(self) -> None:
        """Wait for a worker, and have done what it left undone. That is fetched again: memory for all jobs is too much for what is rare."""
        group, job = self._given.popleft()
        try:
            undone = group.only([group.files[index] for index in job.wait()])
        except WorkerLostError:
            undone = group
        self._held -= group.length
        self._progress.advance(group.plain - undone.plain, len(group.files) - len(undone.files))
        if undone.files:
            self._write_here(undone)

    # -- by threads ------------------------------------------------------------------------------------------------------------------
    def _write_here(self, group: _Group) -> None:
        self._held += group.length
        self._here.append((group, self._pool.submit(self._write, group)))

    def _write(self, group: _Group) -> None:
        """Fetch and write files, in a thread of the pool. What it raises is found by who waits for the group."""
        stretch = self._fetcher.stretch([group.ref(0), group.ref(-1)], self._state)
        for index, (key, name, mtime, executable, _, _, _, _) in enumerate(group.files):
            if self._over:  # another one failed: nobody waits for this one
                return
            try:
                content = self._fetcher.take(stretch, group.ref(index), self._state, group.run)
            except CorruptError as error:
                path = show_path(path_of(key, name))
                raise CorruptError(f"{path}: {error}; `artifactmount verify` tells what else is damaged") from error
            self._target.put(key, name, content, mtime, executable)


def _cut(files: list[Small], most: int) -> Iterator[list[Small]]:
    """Files of a pack, in the order of their offsets, in groups that lie close together and are not too large."""
    start = begin = end = 0
    for index, (_, _, _, _, offset, stored, _, _) in enumerate(files):
        if index == 0:
            begin = end = offset
        if index > start and (index - start == _JOB_FILES or offset + stored - begin > most or offset - end > GAP):
            yield files[start:index]
            start, begin = index, offset
        end = offset + stored
    yield files[start:]
