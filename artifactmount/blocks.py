"""Blocks of referenced files: from the cache, or read through from the source, checked there. Blocking code; knows no versions or mounts.

A block is cached like a chunk, under the digest of its bytes; beside it stands which block (of which record) that is. The record has the
ETag, so what was cached for one is never taken for another. What has nothing to be checked by is not cached.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from artifactmount.cache import Cache
from artifactmount.digest import DIGEST_LENGTH, chunk_digest
from artifactmount.held import Part
from artifactmount.ranges import PackId
from artifactmount.reference import BLOCK, Referent, block_name
from artifactmount.sources.access import Sources

_CHECK = 8  # bytes: the cache's index proves nothing of itself


class Blocks:
    """Threads may share one."""

    def __init__(self, cache: Cache, sources: Sources) -> None:
        self._cache, self._sources = cache, sources

    def of(self, record: bytes, size: int) -> ReferencedFile:
        """The file of a record and size as a row has them. Raises CorruptError, NeedsNewerError."""
        return ReferencedFile(self, Referent.decode(record), record, size)

    def cached(self, name: bytes) -> bytes | None:
        """A block that the cache holds, verified."""
        digest = self._digest(name)
        return None if digest is None else self._cache.get_chunk(digest)

    def has(self, name: bytes) -> bool:
        """Whether the cache likely holds a block."""
        digest = self._digest(name)
        return digest is not None and self._cache.has_chunk(digest)

    def read(self, name: bytes, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """The bytes [start, stop) from the source, which are the block `name`. Raises SourceError and what is below it."""
        content = self._sources.read(referent, size, start, stop)
        if referent.checked:
            digest = chunk_digest(content)
            self._cache.put_chunks([(digest, content)])
            self._cache.state_put(_key(name), digest + _check(name, digest))
        return content

    def _digest(self, name: bytes) -> bytes | None:
        value = self._cache.state_get(_key(name))
        if value is None or value[DIGEST_LENGTH:] != _check(name, value[:DIGEST_LENGTH]):
            return None
        return value[:DIGEST_LENGTH]


class ReferencedFile:
    """One referenced file, cut into blocks of a fixed size: see Pieces (in `pieces`)."""

    def __init__(self, blocks: Blocks, referent: Referent, record: bytes, size: int) -> None:
        self.referent, self.size = referent, size
        self._blocks, self._record = blocks, record

    def __len__(self) -> int:
        return (self.size + BLOCK - 1) // BLOCK

    @staticmethod
    def at(offset: int) -> int:
        """The block that holds the byte at `offset`."""
        return offset // BLOCK

    @staticmethod
    def start(number: int) -> int:
        """The offset of a block."""
        return number * BLOCK

    def name(self, number: int) -> bytes:
        """What a block is called."""
        return block_name(self._record, self.size, number)

    def cached(self, number: int) -> bytes | None:
        """A block that can be had without asking the source."""
        return self._blocks.cached(self.name(number))

    def has(self, number: int) -> bool:
        """Whether it likely can."""
        return self._blocks.has(self.name(number))

    def fetch(self, number: int) -> bytes:
        """A block, from the source. Raises SourceChangedError, SourceDeniedError, SourceError."""
        start = number * BLOCK
        return self._blocks.read(self.name(number), self.referent, self.size, start, min(start + BLOCK, self.size))

    @staticmethod
    def pack(_: int) -> PackId | None:
        """Each block is fetched by itself."""
        return None

    @staticmethod
    def fetch_pack(_: int) -> dict[bytes, bytes]:
        """There is none."""
        return {}

    @staticmethod
    def groups(numbers: Sequence[int]) -> list[list[int]]:
        """Each by itself: a source may take its time."""
        return [[number] for number in numbers]

    def fetch_group(self, numbers: Sequence[int]) -> dict[bytes, Part]:
        """Blocks, from the cache or the source. Raises what `fetch` raises."""
        found: dict[bytes, Part] = {}
        for number in numbers:
            cached = self.cached(number)
            found[self.name(number)] = Part.of(self.fetch(number) if cached is None else cached)
        return found


def _key(name: bytes) -> bytes:
    return b"block" + name


def _check(name: bytes, digest: bytes) -> bytes:
    return blake3(name + digest).digest(_CHECK)
