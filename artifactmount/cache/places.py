"""Where the chunks of an artifact's live runs lie: the index that dedupe asks.

Processes that know older and newer states of an artifact share it. So each place carries the run that names it, and counts only for who
knows that run to be live: whatever others put in or take out, it may cost an upload, and never leads to a dead place.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import Any

from blake3 import blake3

from artifactmount.cache import Cache
from artifactmount.pack import Place
from artifactmount.ranges import PackId

_PLACE = struct.Struct("<QIIII32s")  # session, number, offset, stored and plain length; the digest of the run
_CHECK = 8  # bytes of BLAKE3 behind it: the index proves nothing of itself, and a place goes into a commit


class PlaceIndex:
    """The places of one artifact, named by a 16-byte key, that the runs with the digests `live` name."""

    def __init__(self, cache: Cache, artifact: bytes, live: Collection[bytes]) -> None:
        self._index, self._artifact, self._live = cache.index, artifact, live
        self._memory: dict[bytes, Place] | None = None  # where the cache takes nothing in

    def synced_runs(self) -> set[bytes]:
        """The digests of the runs whose places are all here."""
        return {key[len(self._artifact) :] for key, _ in self._index.items("runs", self._artifact)}

    def reset(self) -> None:
        """Forget everything."""
        self._memory = None

        def forget(txn: Any) -> None:
            self._index.delete_prefix(txn, "runs", self._artifact)
            self._index.delete_prefix(txn, "places", self._artifact)

        self._index.change(forget)

    def add_run(self, run: bytes, chunks: Iterable[tuple[bytes, Place]]) -> None:
        """Add all places that a run names, and the mark that they are here, at once. The first live place of a digest stays."""
        found = list(chunks)

        def add(txn: Any) -> None:
            places = self._index.table("places")
            for digest, place in found:
                key = self._artifact + digest
                if self._open(key, txn.get(key, db=places)) is None:
                    value = _PLACE.pack(place.pack.session, place.pack.number, place.offset, place.stored, place.plain, run)
                    txn.put(key, value + _check(key, value), db=places)
            txn.put(self._artifact + run, b"", db=self._index.table("runs"))

        if not self._index.change(add):
            self._memory = {**dict(found), **(self._memory or {})}

    def find(self, digest: bytes) -> Place | None:
        """A live place of a chunk, or None."""
        if self._memory is not None and digest in self._memory:
            return self._memory[digest]
        if not self._live:
            return None
        key = self._artifact + digest
        return self._open(key, self._index.get("places", key))

    def _open(self, key: bytes, value: bytes | None) -> Place | None:
        if value is None or len(value) != _PLACE.size + _CHECK or value[_PLACE.size :] != _check(key, value[: _PLACE.size]):
            return None
        session, number, offset, stored, plain, run = _PLACE.unpack_from(value)
        return Place(PackId(session, number), offset, stored, plain) if run in self._live else None


def _check(key: bytes, value: bytes) -> bytes:
    return blake3(key + value).digest(_CHECK)
