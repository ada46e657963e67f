"""A pack: chunks behind a table of contents, in one stored thing. Pure bytes; must not know stores, rows or what the chunks are for.

Layout (docs/format.md, "Pack"): header, one row a chunk, BLAKE3 of all stored bytes, BLAKE3 of the table so far, then the chunks' stored
bytes back to back. A chunk's own digest covers its plain bytes only, and a zstd frame has bits that a decoder must ignore; the digest of
the stored bytes is what lets `verify` notice every flipped bit.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

import zstandard
from blake3 import blake3

from artifactmount.digest import DIGEST_LENGTH, Buffer, chunk_digest
from artifactmount.errors import CorruptError
from artifactmount.ranges import PackId

MAGIC = b"AMPK"
VERSION = 1
#: Nothing stored is larger, but for the table in front.
PACK_LIMIT = 16 << 20
#: What is read of a pack at most: its last chunk may reach a little beyond the limit.
PACK_BYTES = PACK_LIMIT + (1 << 16)
#: Packs of small files are sent at this size: one costs a request, and a reader that wants one file of it may fetch all.
TARGET = 8 << 20
PLAIN_LIMIT = 4 << 20
COUNT_LIMIT = 1 << 20
_HEADER = struct.Struct("<4sBBHI")
_ROW = struct.Struct("<32sIIB")
HEAD_LENGTH = _HEADER.size
_LEVEL = 3
_PROBE = 8 << 10
#: Chunks are collected in blocks of so many bytes: small enough to come from memory that was used before.
_BLOCK = 256 << 10
_threads = threading.local()


class Codec(IntEnum):
    """How a chunk is stored."""

    RAW = 0
    ZSTD = 1


_RAW, _ZSTD = int(Codec.RAW), int(Codec.ZSTD)  # an enum costs 0.2 µs where it is used a million times


class Place(NamedTuple):
    """Where a chunk lies: offset from the pack's first byte, and lengths in bytes as stored and plain."""

    pack: PackId
    offset: int
    stored: int
    plain: int


class TableRow(NamedTuple):
    """One chunk in a pack's table of contents; the offset counts from the pack's first byte."""

    digest: bytes
    offset: int
    stored: int
    plain: int


def compress(plain: Buffer) -> tuple[Codec, Buffer]:
    """A chunk's stored bytes: one zstd frame where that is smaller, else `plain` itself.

    Of a larger chunk the first 8 KiB and 8 KiB of its middle are tried first: 60 µs instead of 3 ms for a MiB of a JPEG.
    """
    compressor = getattr(_threads, "compressor", None)
    if compressor is None:
        # One a thread: a context may not be used by two at once, and making one costs 100 times a small chunk.
        compressor = _threads.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    length = len(plain)
    if length > 4 * _PROBE:
        view = memoryview(plain)
        middle = length // 2
        if all(len(compressor.compress(view[at : at + _PROBE])) > _PROBE * 0.95 for at in (0, middle)):
            return Codec.RAW, plain
    stored: bytes = compressor.compress(plain)
    if len(stored) < length:
        return Codec.ZSTD, stored
    return Codec.RAW, plain


def open_chunk(stored: Buffer, plain: int, digest: bytes, name: Callable[[Buffer], bytes] = chunk_digest) -> bytes:
    """The plain bytes of a chunk. Raises CorruptError unless they have this length, and this digest by `name`.

    What is unpacked, and the window for it, is bounded by `plain`, which is bounded by the format.
    """
    if plain > PLAIN_LIMIT:
        raise CorruptError(f"a chunk of {plain} bytes (limit {PLAIN_LIMIT})")
    if len(stored) == plain:
        content = bytes(stored)
    else:
        decompressor = getattr(_threads, "decompressor", None)
        if decompressor is None:
            decompressor = _threads.decompressor = zstandard.ZstdDecompressor(max_window_size=2 * PLAIN_LIMIT)
        try:
            if zstandard.get_frame_parameters(stored).content_size != plain:
                raise CorruptError(f"chunk {digest.hex()[:16]} is damaged: its frame has another size")
            content = decompressor.decompress(stored, max_output_size=plain)
        except zstandard.ZstdError as error:
            raise CorruptError(f"chunk {digest.hex()[:16]} is damaged: {error}") from None
    if len(content) != plain or name(content) != digest:
        raise CorruptError(f"chunk {digest.hex()[:16]} is damaged: its content has another digest")
    return content


class PackBuilder:
    """Collects chunks into a pack.

    An encrypted pack has other `checks` behind its table of contents, and bytes `around` each chunk (see crypto); lengths are in bytes.
    """

    def __init__(self, checks: int = 2 * DIGEST_LENGTH, around: int = 0) -> None:
        self._rows: list[tuple[bytes, int, int, int]] = []
        self._blocks: list[bytearray | bytes] = []  # what chunks were copied into, and so many bytes of each are used
        self._used: list[int] = []
        self._checks, self._around = checks, around
        #: bytes of the pack so far
        self.size = table_length(0, checks)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, digest: bytes, plain: int, stored: Buffer) -> None:
        """Add a chunk of `plain` bytes, as `compress` gave it."""
        length = len(stored)
        self._rows.append((digest, length + self._around, plain, _RAW if length == plain else _ZSTD))
        self.size += _ROW.size + length + self._around
        if length >= _BLOCK:  # nothing is zeroed first, and bytes are not even copied
            self._blocks.append(bytes(stored))
            self._used.append(length)
            return
        if not self._blocks or self._used[-1] + length > len(self._blocks[-1]):
            self._blocks.append(bytearray(_BLOCK))
            self._used.append(0)
        at = self._used[-1]
        memoryview(self._blocks[-1])[at : at + length] = stored
        self._used[-1] = at + length

    def finish(self) -> bytes:
        """The pack's bytes."""
        body, hasher = self._body(), blake3()
        for part in body:
            hasher.update(part)
        table = self.header() + self.rows() + hasher.digest()
        return b"".join((table, blake3(table).digest(), *body))

    def _body(self) -> list[memoryview]:
        return [memoryview(block)[:used] for block, used in zip(self._blocks, self._used, strict=True)]

    def header(self, flags: int = 0) -> bytes:
        """What a pack begins with."""
        return _HEADER.pack(MAGIC, VERSION, flags, 0, len(self._rows))

    def rows(self) -> bytes:
        """The rows of the table of contents."""
        return b"".join(_ROW.pack(*row) for row in self._rows)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The offset of every chunk, and its bytes as `compress` gave them."""
        blocks = iter(self._body())
        block, at = memoryview(b""), 0
        for row in self.table():
            length = row.stored - self._around
            while at + length > len(block):  # none lies in two of them
                block, at = next(blocks), 0
            end = at + length
            yield row.offset, block[at:end]
            at = end

    def table(self) -> list[TableRow]:
        """The chunks with the offsets they have in `finish`'s bytes."""
        rows: list[TableRow] = []
        at = table_length(len(self._rows), self._checks)
        for digest, stored, plain, _ in self._rows:
            rows.append(TableRow(digest, at, stored, plain))
            at += stored
        return rows


def table_length(count: int, checks: int = 2 * DIGEST_LENGTH) -> int:
    """Bytes in front of the first chunk of a pack that has `count` of them, and so many bytes of checks."""
    return _HEADER.size + _ROW.size * count + checks


def count_chunks(head: Buffer, flags: int = 0) -> int:
    """How many chunks a pack says it has, from its first HEAD_LENGTH bytes. Raises CorruptError."""
    if len(head) < _HEADER.size:
        raise CorruptError(f"a pack of {len(head)} bytes")
    magic, version, found, reserved, count = _HEADER.unpack_from(head)
    if magic != MAGIC or version != VERSION or found != flags or reserved:
        raise CorruptError("not a pack, or of an unknown version")
    if not 0 < count <= COUNT_LIMIT:
        raise CorruptError(f"a pack of {count} chunks (limit {COUNT_LIMIT})")
    return int(count)


def decode_table(front: Buffer) -> list[TableRow]:
    """The table of contents, from at least the first `table_length` bytes of a pack. Raises CorruptError."""
    count = count_chunks(front)
    end = table_length(count) - DIGEST_LENGTH
    view = memoryview(front)
    if len(view) < end + DIGEST_LENGTH or blake3(view[:end]).digest() != view[end : end + DIGEST_LENGTH]:
        raise CorruptError("a pack's table of contents is damaged")
    return decode_rows(view[_HEADER.size : end - DIGEST_LENGTH], end + DIGEST_LENGTH)


def decode_rows(packed: Buffer, at: int, around: int = 0) -> list[TableRow]:
    """The rows of a table of contents that is not damaged, of a pack whose first chunk lies at `at`. Raises CorruptError."""
    rows: list[TableRow] = []
    for digest, stored, plain, codec in _ROW.iter_unpack(packed):
        bare = stored - around
        raw = codec == Codec.RAW and bare == plain
        if not (raw or (codec == Codec.ZSTD and bare < plain)) or bare <= 0 or plain > PLAIN_LIMIT:
            raise CorruptError("a pack's table of contents contradicts itself")
        rows.append(TableRow(digest, at, stored, plain))
        at += stored
    return rows


def decode(pack: Buffer) -> list[TableRow]:
    """The table of contents of a whole pack. Raises CorruptError unless it accounts for every byte."""
    rows = decode_table(pack)
    if rows[-1].offset + rows[-1].stored != len(pack):
        raise CorruptError(f"a pack of {len(pack)} bytes whose table says {rows[-1].offset + rows[-1].stored}")
    view, start = memoryview(pack), rows[0].offset
    if blake3(view[start:]).digest() != view[start - 2 * DIGEST_LENGTH : start - DIGEST_LENGTH]:
        raise CorruptError("a pack's stored bytes are damaged")
    return rows
