"""Where a chunk's bytes come from, and what is done when they are not where a run says. Blocking code; must not know files or mounts.

A place is a hint and a digest is the truth: whatever comes back was verified. Deletion may move or remove a pack under a reader, so a
miss is first taken for news: the head is read again, and only when it does not advance is it a loss (docs/protocol.md, "Readers").
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from artifactmount.errors import CorruptError, GoneError, KeyMissingError
from artifactmount.held import Part
from artifactmount.pack import HEAD_LENGTH, PACK_BYTES, TableRow
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.run import ChunkRef
from artifactmount.state import State
from artifactmount.store.folder import FolderStore
from artifactmount.store.kept import KeptFiles

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Chunks of a pack that lie closer than this are read in one request.
GAP = 1 << 20
_REFRESHES = 16
_TABLES = 256
_TABLE_ROWS = 1 << 19  # of all tables kept: 300 bytes each
_UNPACKED = 64 << 20
#: A chunk up to this size is verified where it is asked for, at once: 60 µs at most. A hop to a thread costs more.
SMALL = 64 << 10


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a pack from `offset` on, as they came; nothing when the pack is not (any more) where a run says."""

    offset: int
    stored: bytes


def stretches(wanted: Iterable[T], ref_of: Callable[[T], ChunkRef]) -> list[list[T]]:
    """What is wanted, in groups that one request brings: close to each other in one pack, in the order of their offsets."""
    by_pack: dict[PackId, list[T]] = {}
    for item in wanted:
        by_pack.setdefault(ref_of(item).place.pack, []).append(item)
    groups: list[list[T]] = []
    for items in by_pack.values():
        items.sort(key=lambda item: ref_of(item).place.offset)
        end = -GAP - 1
        for item in items:
            place = ref_of(item).place
            if place.offset - end > GAP:
                groups.append([])
            groups[-1].append(item)
            end = max(end, place.offset + place.stored)
    return groups


class Fetcher:
    """Chunks of one artifact. Threads may share one."""

    def __init__(self, project: Project, name: str, kept: KeptFiles | None = None) -> None:
        """`kept`: keeps packs of a folder project open, so that small chunks are read in place at once."""
        self._project, self._artifact, self._kept = project, project.artifact(name), kept
        self.in_place = isinstance(project.store, FolderStore)  # packs are read where they lie, and nothing is copied to the cache
        self._lock = threading.Lock()
        self._tables: OrderedDict[PackId, dict[bytes, TableRow]] = OrderedDict()
        self._last: tuple[State | None, PackId | None, str] = None, None, ""  # the pack that `at_hand` found in a state, and its key

    def cached(self, digest: bytes) -> bytes | None:
        """A chunk that the cache holds, verified."""
        return self._project.cache.get_chunk(digest, self._artifact.cipher.chunking.digest)

    def ready(self, ref: ChunkRef) -> bytes | None:
        """A chunk that can be had without a store or, of a folder project, without waiting for its disk; None otherwise."""
        if self.in_place:
            return self.at_hand(ref)
        content = self.cached(ref.digest)
        # A run may name a chunk of another length than its file has: whoever fetches it says so.
        return content if content is not None and len(content) == ref.place.plain else None

    def at_hand(self, ref: ChunkRef) -> bytes | None:
        """A small chunk, verified, where its pack was read before and the page cache still has it; never waits. None otherwise."""
        place = ref.place
        if self._kept is None or place.plain > SMALL or place.stored > SMALL:
            return None
        state = self._project.proven(self._artifact.name)
        known, pack, key = self._last
        if state is not known or place.pack != pack:
            if state is None or place.pack not in state.packs:  # moved or deleted; a copy of the project by hard links may have it still
                return None
            key = self._artifact.pack_key(place.pack)
            self._last = state, place.pack, key
        stored = self._kept.peek(key, place.offset, place.stored)
        try:
            return None if stored is None else self._artifact.cipher.chunk(place.pack, place.offset, stored, place.plain, ref.digest)
        except CorruptError:
            return None  # whoever fetches it says so

    def has(self, digest: bytes) -> bool:
        """Whether the cache likely holds a chunk."""
        return self._project.cache.has_chunk(digest)

    def chunk(self, ref: ChunkRef, state: State, run: bytes) -> bytes:
        """The verified bytes of a chunk that the run of this digest names.

        Raises GoneError when it is gone and its run with it; CorruptError when a live run's chunk cannot be had; StoreError.
        """
        for attempt in range(_REFRESHES):
            try:
                return self._chunk(ref, state)
            except (KeyMissingError, CorruptError) as error:
                newer = self._project.refresh(self._artifact.name)
                if newer.seq == state.seq or attempt == _REFRESHES - 1:
                    return self._by_table(ref, newer, run, error)
                state = newer
        raise AssertionError("unreachable")

    def _chunk(self, ref: ChunkRef, state: State) -> bytes:
        pack = state.resolve(ref.place.pack)
        if pack != ref.place.pack:  # its offset says nothing in the new pack
            return self._from_table(pack, ref.digest)
        stored = self._read(pack, ref.place.offset, ref.place.stored)
        content = self._artifact.cipher.chunk(pack, ref.place.offset, stored, ref.place.plain, ref.digest)
        if not self.in_place:
            self._project.cache.put_chunks([(ref.digest, content)])
        elif self._kept is not None and ref.place.plain <= SMALL:
            self._kept.keep(self._artifact.pack_key(pack), ref.place.offset)
        return content

    def _by_table(self, ref: ChunkRef, state: State, run: bytes, error: Exception) -> bytes:
        """The last resort: the pack's own table of contents. What cannot be had then is gone, or lost."""
        try:
            return self._from_table(state.resolve(ref.place.pack), ref.digest)
        except (KeyMissingError, CorruptError):
            if all(run not in (v.metadata.run, v.metadata.full) for v in state.versions.values()):
                raise GoneError(f"{self._artifact.name}: the version was deleted while it was read") from error
            raise CorruptError(f"chunk {ref.digest.hex()} in pack {self._artifact.pack_key(ref.place.pack)}: {error}") from error

    # -- many at once ----------------------------------------------------------------------------------------------------------------
    def stretch(self, refs: Sequence[ChunkRef], state: State) -> Stretch:
        """The bytes from the first to the last of these chunks, which lie in one pack in this order. Raises StoreError."""
        first, last = refs[0].place, refs[-1].place
        if state.resolve(first.pack) != first.pack:
            return Stretch(0, b"")
        try:
            return Stretch(
                first.offset, self._project.store.get(self._artifact.pack_key(first.pack), first.offset, last.offset + last.stored)
            )
        except KeyMissingError:  # moved or deleted meanwhile: whoever takes a chunk out of it finds out
            return Stretch(0, b"")

    def take(self, stretch: Stretch, ref: ChunkRef, state: State, run: bytes) -> bytes:
        """A chunk out of a stretch, verified; where that is not what it should be, looked for by itself. Raises what `chunk` raises."""
        place, start = ref.place, ref.place.offset - stretch.offset
        try:
            return self._artifact.cipher.chunk(
                place.pack, place.offset, stretch.stored[start : start + place.stored], place.plain, ref.digest
            )
        except CorruptError:
            return self.chunk(ref, state, run)

    def neighbours(self, refs: Sequence[ChunkRef], state: State) -> dict[bytes, Part]:
        """Chunks that lie one behind the other in one pack, read in one go: those that are right, by digest. Raises StoreError.

        Where they are stored as they are, all stay in the one buffer that they were read to.
        """
        stretch, found, cipher = self.stretch(refs, state), dict[bytes, Part](), self._artifact.cipher
        view = memoryview(stretch.stored)
        for ref in refs:
            place, start = ref.place, ref.place.offset - stretch.offset
            stored = view[start : start + place.stored]
            if cipher.stores_plain(stored, place.plain, ref.digest):
                found[ref.digest] = Part(stretch.stored, start, start + place.stored)
                continue
            with suppress(CorruptError):
                found[ref.digest] = Part.of(cipher.chunk(place.pack, place.offset, stored, place.plain, ref.digest))
        return found

    # -- from packs ----------------------------------------------------------------------------------------------------------------
    def _read(self, pack: PackId, offset: int, length: int) -> bytes:
        stored = self._project.store.get(self._artifact.pack_key(pack), offset, offset + length)
        if len(stored) != length:
            raise CorruptError(f"{self._artifact.pack_key(pack)} is cut short")
        return stored

    def whole_pack(self, pack: PackId, state: State, wanted: bytes) -> dict[bytes, bytes]:
        """The chunks of a pack that are right, by digest, verified and put into the cache: those from the `wanted` one on, 64 MiB at most.

        A pack's 16 MiB may unpack to 100 GB, of honest logs or of somebody's bomb; what is left out is fetched when it is asked for.
        Nothing when the pack is not there or not to be understood: then each chunk is looked for by itself. Raises StoreError.
        """
        cipher, pack = self._artifact.cipher, state.resolve(pack)
        try:
            stored = self._project.store.get(self._artifact.pack_key(pack), 0, PACK_BYTES)
            rows = cipher.table(pack, stored)
        except (KeyMissingError, CorruptError):
            return {}
        good: dict[bytes, bytes] = {}
        left = _UNPACKED
        first = 0 if sum(row.plain for row in rows) <= left else next((i for i, row in enumerate(rows) if row.digest == wanted), 0)
        for row in islice(rows, first, None):
            left -= row.plain
            if left < 0:
                break
            with suppress(CorruptError):  # a damaged chunk must not cost its neighbours
                good[row.digest] = cipher.chunk(pack, row.offset, stored[row.offset : row.offset + row.stored], row.plain, row.digest)
        self._project.cache.put_chunks(good.items())
        return good

    def _from_table(self, pack: PackId, digest: bytes) -> bytes:
        table, cipher = self._tables.get(pack), self._artifact.cipher
        if table is None:
            length = cipher.front_length(cipher.count(self._read(pack, 0, HEAD_LENGTH)))
            if length > PACK_BYTES:
                raise CorruptError(f"{self._artifact.pack_key(pack)} says it is larger than a pack may be")
            table = {row.digest: row for row in cipher.table(pack, self._read(pack, 0, length))}
            with self._lock:
                self._tables[pack] = table
                while len(self._tables) > _TABLES or sum(map(len, self._tables.values())) > max(_TABLE_ROWS, len(table)):
                    self._tables.popitem(last=False)
        row = table.get(digest)
        if row is None:
            raise CorruptError(f"{self._artifact.pack_key(pack)} does not hold chunk {digest.hex()}")
        return cipher.chunk(pack, row.offset, self._read(pack, row.offset, row.stored), row.plain, row.digest)
