"""Between the event loop and blocking code: one thread hop for a miss, shared by all who wait for it; hits are answered inline.

The only module that spells `to_thread`. Everything between two awaits is atomic, so there are no locks here (docs/concurrency.md).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from artifactmount.blocks import Blocks
from artifactmount.errors import ArtifactError, DeniedError, ProjectMismatchError, SourceError, StoreError
from artifactmount.fetch import SMALL, Fetcher
from artifactmount.held import Held, Part, joined
from artifactmount.pieces import Pieces, pieces_of
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.rows import show_path
from artifactmount.sources.access import Access, Sources
from artifactmount.state import State
from artifactmount.store.folder import FolderStore
from artifactmount.store.kept import KeptFiles
from artifactmount.tree import File, RunSlot

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MEMORY = 32 << 20
_THREADS = 32
_OPEN_FILES = 1024
_MISSES = 4096
#: Chunks fetched ahead of a sequential reader, at most: with chunks of 1 MiB this fills a 10 Gb/s link at 10 ms.
_AHEAD = 16
_NEAR = 1 << 20  # the kernel's own read-ahead comes a little out of order
#: After a failure that took so long the same is not tried again for a moment: the kernel asks once more for what its read-ahead did not
#: get, and a program would wait for a store that answers nothing for four minutes (240.7 s measured) instead of two.
_LONG = 5.0  # seconds
_MOMENT = 1.0
#: How often packs that nobody reads any more, or that were deleted, are let go of.
_TEND_SECONDS = 5.0


@dataclass(slots=True)
class _Flight:
    """Blocking work under way, and everybody who waits for it."""

    done: trio.Event
    result: Any = None
    error: BaseException | None = None
    awaited: bool = False


@dataclass(slots=True)
class OpenFile:
    """The pieces of a file that is being read, and how it is being read."""

    slot: RunSlot
    row: int
    pieces: Pieces
    next: int = 0  # where a sequential reader goes on
    window: int = 0  # pieces ahead
    asked: int = 0  # pieces before this one were asked for ahead
    packs: set[PackId] = field(default_factory=set)  # packs asked for ahead
    said: str = ""  # the last error that was logged


class Hopper:
    """Runs blocking work in threads. One flight per key: who comes later waits for the same."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flights: dict[Hashable, _Flight] = {}
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._warned = ""

    async def hop(self, key: Hashable, work: Callable[[], T]) -> T:
        """The result of `work`, done in a thread; raises what it raises. Giving up waiting does not stop it for others."""
        flight = self.begin(key, work)
        flight.awaited = True
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        result: T = flight.result
        return result

    def is_under_way(self, key: Hashable) -> bool:
        """Whether work with this key has begun and not ended."""
        return key in self._flights

    def begin(self, key: Hashable, work: Callable[[], Any]) -> _Flight:
        """Start `work` unless it is under way; nobody has to wait for it."""
        return self._flights.get(key) or self._begin([key], work)

    def begin_ahead(self, keys: Sequence[Hashable], work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Start `work`, which has a result for each of these keys, all different, none under way; `then` gets it, in the event loop.

        Why it fails is for those to say who wait for one of them.
        """
        self._begin(keys, work, then).awaited = True

    def _begin(self, keys: Sequence[Hashable], work: Callable[[], Any], then: Callable[[Any], None] | None = None) -> _Flight:
        flight = _Flight(trio.Event())
        self._flights.update(dict.fromkeys(keys, flight))
        self._nursery.start_soon(self._fly, keys, flight, work, then)
        return flight

    async def within(self, seconds: float, key: Hashable, work: Callable[[], Any]) -> bool:
        """Wait for `work` at most so long. Whether it ended well; why it did not is logged."""
        with trio.move_on_after(seconds):
            try:
                await self.hop(key, work)
            except (ProjectMismatchError, DeniedError):
                raise  # nothing that is known may be shown (any more)
            except ArtifactError as error:
                self._warn(error)
                return False
            return True
        return False

    async def _fly(self, keys: Sequence[Hashable], flight: _Flight, work: Callable[[], Any], then: Callable[[Any], None] | None) -> None:
        try:
            flight.result = await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
            if then is not None:
                then(flight.result)
        except Exception as error:  # noqa: BLE001 - it is raised again, in everybody who waits
            flight.error = error
            if not flight.awaited:
                self._warn(error)
        finally:
            for key in keys:
                del self._flights[key]
            flight.done.set()

    def _warn(self, error: BaseException) -> None:
        """Say what nobody waits for, and what was survived; the same again and again only once."""
        if str(error) != self._warned:
            self._warned = str(error)
            _log.warning("%s", error)


class Reader:
    """Bytes of files, from memory, cache, store, or where a reference leads. Without `sources` no reference is followed."""

    def __init__(self, project: Project, hopper: Hopper, sources: Sources | None = None) -> None:
        self._project, self._hopper = project, hopper
        self._blocks = Blocks(project.cache, sources or Sources(Access(())))
        self._kept = KeptFiles(project.store) if isinstance(project.store, FolderStore) else None
        self._fetchers: dict[str, Fetcher] = {}
        self._files: OrderedDict[File, OpenFile] = OrderedDict()
        self._held = Held(_MEMORY)
        self._missed: OrderedDict[tuple[str, PackId], None] = OrderedDict()
        self._failed: dict[bytes, tuple[float, ArtifactError]] = {}  # pieces that were waited for in vain, until when

    def _fetcher(self, artifact: str) -> Fetcher:
        if artifact not in self._fetchers:
            self._fetchers[artifact] = self._make_fetcher(artifact)
        return self._fetchers[artifact]

    # -- what who counts overrides -------------------------------------------------------------------------------------------------
    def _make_fetcher(self, artifact: str) -> Fetcher:
        """What fetches the chunks of an artifact."""
        return Fetcher(self._project, artifact, self._kept)

    def _found(self, result: str, content: Part) -> None:
        """A piece was found: in "memory", on "disk" in the cache, or, a "miss", where it lies. Here nobody counts."""

    async def tend(self) -> None:
        """Let go of packs from time to time, until cancelled: a deleted one takes its place on the disk for as long as it is open.

        In a thread, as the last close of a deleted file waits for its disk. What fails is logged, and tried again the next time.
        """
        while self._kept is not None:
            await trio.sleep(_TEND_SECONDS)
            await self._hopper.begin("tend", self._kept.let_go).done.wait()

    # -- reading -------------------------------------------------------------------------------------------------------------------

    async def read(self, file: File, offset: int, size: int) -> bytes | memoryview:
        """Bytes [offset, offset + size) of a file; fewer only at its end.

        Raises GoneError (its version was deleted and the bytes with it), CorruptError, StoreError; SourceError of what it refers to.
        """
        opened = self._open_file(file)
        pieces = opened.pieces
        end = min(offset + size, pieces.size)
        if offset >= end:
            return b""
        first, last = pieces.at(offset), pieces.at(end - 1)
        self._read_ahead(opened, offset, end, last)
        parts: list[Part] = []
        for index in range(first, last + 1):
            content, start = await self._piece(opened, index), pieces.start(index)
            parts.append(content.cut(offset - start, end - start))
        return joined(parts)

    def at_once(self, file: File) -> bytes | None:
        """All of a small file, where it takes neither a store nor a hop to a thread; None otherwise."""
        slot, row = file
        ref = slot.run.only_chunk(row)
        if ref is None or ref.place.plain > SMALL:
            return None
        content = self._fetcher(slot.artifact).ready(ref)
        if content is not None:
            self._found("disk", Part.of(content))
        return content

    def cached(self, file: File) -> bool:
        """Whether a file can be read without the store."""
        pieces = self._open_file(file).pieces
        return all(pieces.name(index) in self._held or pieces.has(index) for index in range(len(pieces)))

    def _open_file(self, file: File) -> OpenFile:
        opened = self._files.get(file)
        if opened is None:
            slot = file.slot
            pieces = pieces_of(slot.run, file.row, self._fetcher(slot.artifact), partial(self._state, slot.artifact), self._blocks)
            opened = self._files[file] = OpenFile(slot, file.row, pieces)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(file)
        return opened

    async def _piece(self, opened: OpenFile, index: int) -> Part:
        name = opened.pieces.name(index)
        content = self._held.get(name)
        if content is not None:
            self._found("memory", content)
            return content
        begin = time.monotonic()
        until, failure = self._failed.get(name, (begin, None))
        if failure is not None and begin < until:
            raise failure
        try:
            content = await self._miss(opened, index, name)
        except ArtifactError as error:
            if str(error) != opened.said:  # the kernel asks for one piece several times, and programs try again
                opened.said = str(error)
                where = {"artifact": opened.slot.artifact, "version": f"v{opened.slot.version.n}", "path": _show(opened)}
                _log.error("%s:%s %s: %s", *where.values(), error, extra=where)
            self._remember_failure(name, begin, error)
            raise
        self._held.put({name: content})
        return content

    def _remember_failure(self, name: bytes, begin: float, error: ArtifactError) -> None:
        now = time.monotonic()
        self._failed = {piece: failed for piece, failed in self._failed.items() if failed[0] > now}
        # Only what is so for every file with this piece: that one version is gone says nothing of another with the same chunk.
        if now - begin > _LONG and isinstance(error, StoreError | SourceError):
            self._failed[name] = (now + _MOMENT, error)

    async def _miss(self, opened: OpenFile, index: int, name: bytes) -> Part:
        """A piece that is not in memory: from the cache, which answers at once; else from where it lies."""
        cached = opened.pieces.cached(index)
        content, result = (await self._fetch(opened, index, name), "miss") if cached is None else (Part.of(cached), "disk")
        self._found(result, content)
        return content

    async def _fetch(self, opened: OpenFile, index: int, name: bytes) -> Part:
        """One miss fetches a chunk alone; a second one in the same pack brings the whole pack, because its neighbours are wanted, too."""
        artifact, pack = opened.slot.artifact, opened.pieces.pack(index)
        if pack is not None:
            alone = self._hopper.is_under_way(("piece", name))  # the kernel asks for one piece in several requests at once
            if self._hopper.is_under_way(("pack", artifact, pack)) or (not alone and self._is_second_miss(artifact, pack)):
                contents: dict[bytes, bytes] = await self._hopper.hop(
                    ("pack", artifact, pack), partial(self._fetch_pack, artifact, pack, name)
                )
                if name in contents:
                    if not opened.pieces.has(index):  # the cache takes nothing in: then memory has to do
                        self._held.put({digest: Part.of(content) for digest, content in contents.items()})
                    return Part.of(contents[name])
        while True:
            found: Mapping[bytes, Part] = await self._hopper.hop(("piece", name), partial(_fetch_one, opened.pieces, index))
            if name in found:  # what was read ahead may lack it: then by itself, which says why
                return found[name]

    def _is_second_miss(self, artifact: str, pack: PackId) -> bool:
        if (artifact, pack) in self._missed:
            return True
        self._missed[artifact, pack] = None
        if len(self._missed) > _MISSES:
            self._missed.popitem(last=False)
        return False

    def _fetch_pack(self, artifact: str, pack: PackId, wanted: bytes) -> dict[bytes, bytes]:
        return self._fetcher(artifact).whole_pack(pack, self._state(artifact), wanted)

    def _state(self, artifact: str) -> State:
        return self._project.known(artifact) or self._project.refresh(artifact)

    # -- ahead of a sequential reader ----------------------------------------------------------------------------------------------
    def _read_ahead(self, opened: OpenFile, offset: int, end: int, last: int) -> None:
        """Where reading goes on, fetch what comes next: a window that doubles with every piece, and closes when the reader jumps.

        Never more than half of the memory where pieces go to memory, so that what was fetched ahead is not dropped before it is read.
        """
        begins = opened.next == 0  # many programs read the head of a file and no more
        sequential = not begins and abs(opened.next - offset) <= _NEAR
        opened.next = end
        if not sequential:
            opened.window, opened.asked = 0, 0
            opened.packs.clear()
            return
        pieces = opened.pieces
        if last < opened.asked - opened.window // 2 or len(pieces) < 2:
            return
        opened.window = min(max(2 * opened.window, 1), _AHEAD // 2 if pieces.pack(last) is None else _AHEAD)
        stop = min(last + 1 + opened.window, len(pieces))
        self._fetch_ahead(opened, range(max(last + 1, opened.asked), stop))
        opened.asked = max(stop, opened.asked)

    def _fetch_ahead(self, opened: OpenFile, indices: Sequence[int]) -> None:
        pieces, artifact = opened.pieces, opened.slot.artifact
        alone: dict[bytes, int] = {}  # by name: the same bytes may stand at several places of a file
        for index in indices:
            name, pack = pieces.name(index), pieces.pack(index)
            if name in self._held:
                continue
            if pack is None:
                if not self._hopper.is_under_way(("piece", name)):
                    alone.setdefault(name, index)
            elif pack not in opened.packs and not pieces.has(index):
                opened.packs.add(pack)
                self._hopper.begin(("pack", artifact, pack), partial(self._fetch_pack, artifact, pack, name))
        for group in pieces.groups(list(alone.values())):
            keys = [("piece", pieces.name(index)) for index in group]
            self._hopper.begin_ahead(keys, partial(pieces.fetch_group, group), self._held.put)


def _fetch_one(pieces: Pieces, index: int) -> dict[bytes, Part]:
    return {pieces.name(index): Part.of(pieces.fetch(index))}


def _show(opened: OpenFile) -> str:
    return show_path(opened.slot.run.path(opened.row))
