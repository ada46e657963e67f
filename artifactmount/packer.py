"""Chunks into packs: what one snapshot uploads, and where each chunk of it lies.

Small files share packs in path order; a large file has packs of its own, because it mostly dies whole. Yields steps; knows no staging and
no manifest.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from blake3 import blake3

from artifactmount.acts import Metadata
from artifactmount.artifact import Artifact, put
from artifactmount.catalog import pieces_of
from artifactmount.crypto import copy_chunks
from artifactmount.digest import Buffer
from artifactmount.pack import PACK_LIMIT, TARGET, PackBuilder, Place, TableRow
from artifactmount.ranges import PackId, PackRanges
from artifactmount.session import Session
from artifactmount.steps import Join, Local, Spawn, Steps

#: Numbers of packs that are reserved at once: it is waited for, and takes 50 ms on a disk at work on packs. One by one, and with what
#: was stored made durable, 2 GiB of two large files took 10.0 s instead of 7.9.
_RESERVED = 64


@dataclass(slots=True)
class _Upload:
    """One pack of this session: its chunks, and its id once it is stored."""

    rows: list[TableRow]
    pack: PackId | None = None


class Packer:
    """The packs of one session, which is opened by the first upload."""

    def __init__(self, artifact: Artifact, session: Session) -> None:
        self._artifact, self._session, self._journal = artifact, session, session.journal
        self._numbers, self._reserved, self._reserving = count(), 0, threading.Lock()
        self._shared, self._own = artifact.cipher.builder(), artifact.cipher.builder()
        self._pending: set[bytes] = set()  # in a pack that is not finished, or on its way
        self._uploads: list[_Upload] = []
        self._joined = 0
        self._where: dict[bytes, tuple[int, int]] = {}  # digest -> upload, chunk in it
        self._metadata: dict[bytes, Metadata] = {}
        self.used: list[PackId] = []  # every pack stored, metadata packs too

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._pending or digest in self._where

    def restore(self) -> None:
        """Go on with the packs that the journal says an interrupted command stored in this session, which was resumed."""
        assert self._session.id is not None
        self._numbers = count(self._journal.next)
        for number, rows in sorted(self._journal.packs.items()):
            pack = PackId(self._session.id, number)
            self._where.update((row.digest, (len(self._uploads), i)) for i, row in enumerate(rows))
            self._uploads.append(_Upload(rows, pack))
            self.used.append(pack)
        self._joined = len(self._uploads)

    def add(self, digest: bytes, plain: int, stored: Buffer, *, large: bool = False) -> Steps[None]:
        """Add a chunk this session has not. `large`: it belongs to a large file, whose chunks come one after the other."""
        builder = self._own if large else self._shared
        if builder.size + len(stored) > (PACK_LIMIT if large else TARGET) and len(builder):
            yield from self._send(large)
            builder = self._own if large else self._shared
        builder.add(digest, plain, stored)
        self._pending.add(digest)

    def end_large(self) -> Steps[None]:
        """The large file is done: its last pack goes."""
        yield from self._send(True)

    def finish(self) -> Steps[None]:
        """Send what is left and wait until everything is stored."""
        yield from self._send(False)
        yield from self._send(True)
        stored = yield Join()
        for upload, pack in zip(self._uploads[self._joined :], stored, strict=True):
            upload.pack = pack
            self.used.append(pack)
        for index in range(self._joined, len(self._uploads)):
            self._where.update((row[0], (index, i)) for i, row in enumerate(self._uploads[index].rows))
        self._joined = len(self._uploads)
        self._pending.clear()

    def place(self, digest: bytes) -> Place:
        """Where this session stored a chunk that it holds (after `finish`)."""
        index, chunk = self._where[digest]
        upload = self._uploads[index]
        assert upload.pack is not None
        return Place(upload.pack, *upload.rows[chunk][1:])

    def store_metadata(self, card: bytes, delta: bytes, full: bytes) -> Steps[Metadata]:
        """Store a version's card, run and whole manifest (or nothing) in packs of their own; the same ones again are stored once."""
        key = blake3(b"".join(blake3(part).digest() for part in (card, delta, full))).digest()
        if key not in self._metadata:
            packs = yield from self._store(
                [piece for part in (card, delta, full) for piece in pieces_of(part, self._artifact.cipher.chunking)]
            )
            whole = blake3(full).digest() if full else None
            self._metadata[key] = Metadata(PackRanges.of(packs), blake3(delta).digest(), len(delta), whole, len(full))
        return self._metadata[key]

    def _store(self, chunks: Sequence[tuple[Buffer, bytes, int]]) -> Steps[list[PackId]]:
        """Store these in packs whose numbers have their order: in that they are read."""
        while True:
            builder = self._artifact.cipher.builder()
            for stored, digest, plain in chunks:
                if builder.size + len(stored) > PACK_LIMIT and len(builder):
                    yield from self._spawn(builder)
                    builder = self._artifact.cipher.builder()
                builder.add(digest, plain, stored)
            yield from self._spawn(builder)
            packs = yield from self.collect()
            if packs == sorted(packs):
                return packs  # else one found its number taken; what was stored in vain goes with the session's other leftovers

    def send(self, builder: PackBuilder) -> Steps[None]:
        """Store a pack as it is; `collect` tells which it became."""
        yield from self._spawn(builder)

    def collect(self) -> Steps[list[PackId]]:
        """Wait for what was sent: the packs, in order. Nothing else may be on its way."""
        packs: list[PackId] = yield Join()
        self.used += packs
        return packs

    def forget_partly_used(self, used: set[bytes]) -> list[PackId]:
        """Forget every pack of which not all chunks are used; returns them.

        A pack is kept whole or not at all, so that "partly dead" follows from the runs alone (docs/protocol.md).
        """
        forgotten: list[PackId] = []
        for index, upload in enumerate(self._uploads):
            if upload.pack is None or used.issuperset(row.digest for row in upload.rows):
                continue
            for digest, *_ in upload.rows:
                if self._where.get(digest, (-1, 0))[0] == index:
                    del self._where[digest]
            forgotten.append(upload.pack)
            upload.rows = []
        return forgotten

    def _send(self, large: bool) -> Steps[None]:
        builder = self._own if large else self._shared
        if not len(builder):
            return
        if large:
            self._own = self._artifact.cipher.builder()
        else:
            self._shared = self._artifact.cipher.builder()
        rows = yield from self._spawn(builder)
        self._uploads.append(_Upload(rows))

    def _spawn(self, builder: PackBuilder) -> Steps[list[TableRow]]:
        session = yield from self._session.open()
        rows = builder.table()
        yield Spawn(self._put(PackId(session, next(self._numbers)), builder, rows))  # what is spawned begins in no order
        return rows

    def _put(self, pack: PackId, builder: PackBuilder, rows: list[TableRow]) -> Steps[PackId]:
        cipher = self._artifact.cipher
        while True:
            yield Local(partial(self._reserve, pack.number))
            content = cipher.pack(pack, builder)
            builder = cipher.builder()  # its bytes are held once: while they are sent, as content
            if (yield from put(self._artifact.pack_key(pack), content)):
                yield Local(partial(self._journal.stored, pack.number, rows))
                return pack
            copy_chunks(cipher, pack, content, cipher.whole(pack, content), builder)
            pack = PackId(pack.session, next(self._numbers))  # that one is taken by what an earlier process of this session stored

    def _reserve(self, number: int) -> None:
        """Have it written down, durably, that this number is used: never again for other bytes."""
        with self._reserving:
            if number >= self._reserved:
                self._journal.reserve(number + _RESERVED - 1)
                self._reserved = number + _RESERVED
