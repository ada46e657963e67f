"""Packs: what goes in comes out, and nothing else passes."""

from __future__ import annotations

import os
import struct
import tracemalloc

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.digest import chunk_digest
from artifactmount.errors import CorruptError
from artifactmount.pack import Codec, PackBuilder, compress, decode, decode_table, open_chunk, table_length

chunks = st.lists(st.one_of(st.binary(min_size=1, max_size=200), st.builds(bytes, st.integers(1, 9000))), min_size=1, max_size=6)


def build(contents: list[bytes]) -> bytes:
    builder = PackBuilder()
    for content in contents:
        builder.add(chunk_digest(content), len(content), compress(content)[1])
    pack = builder.finish()
    assert builder.size == len(pack) and builder.table() == decode(pack)
    return pack


def read(pack: bytes) -> list[bytes]:
    return [open_chunk(pack[row.offset : row.offset + row.stored], row.plain, row.digest) for row in decode(pack)]


@given(chunks)
def test_round_trip(contents: list[bytes]) -> None:
    pack = build(contents)
    assert read(pack) == contents
    assert decode_table(pack[: table_length(len(contents))]) == decode(pack)


def test_every_flipped_bit_is_noticed() -> None:
    pack = build([b"hello", bytes(300), os.urandom(20)])
    for bit in range(len(pack) * 8):
        damaged = bytearray(pack)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError):
            read(bytes(damaged))


@pytest.mark.parametrize("content", [b"hello", bytes(300)], ids=["as it is", "compressed"])
def test_another_content_is_not_the_chunk(content: bytes) -> None:
    """It opens, and has the length: only the digest tells."""
    other = b"\1" * len(content)
    assert open_chunk(compress(other)[1], len(content), chunk_digest(other)) == other
    with pytest.raises(CorruptError, match="its content has another digest"):
        open_chunk(compress(other)[1], len(content), chunk_digest(content))


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(CorruptError):
        read(data)


@given(chunks, st.data())
@settings(max_examples=50)
def test_cut_short_or_longer(contents: list[bytes], data: st.DataObject) -> None:
    pack = build(contents)
    with pytest.raises(CorruptError):
        read(pack[: data.draw(st.integers(0, len(pack) - 1))])
    with pytest.raises(CorruptError):
        read(pack + b"\0")


def test_claims_allocate_nothing() -> None:
    claims = struct.pack("<4sBBHI", b"AMPK", 1, 0, 0, 1 << 20)
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    table = struct.pack("<4sBBHI32sIIB", b"AMPK", 1, 0, 0, 1, bytes(32), len(bomb), 0xFFFFFFFF, 1) + blake3(bomb).digest()
    tracemalloc.start()
    try:
        for pack in (claims, table + blake3(table).digest() + bomb):
            with pytest.raises(CorruptError):
                read(pack)
        with pytest.raises(CorruptError):
            open_chunk(bomb, 4 << 20, bytes(32))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    noise = os.urandom(1 << 20)
    assert compress(noise) == (Codec.RAW, noise)
    assert compress(b"a") == (Codec.RAW, b"a")
    codec, stored = compress(bytes(1 << 20))
    assert codec is Codec.ZSTD and len(stored) < 1000
