"""Bytes that nobody wrote on purpose, and bytes that somebody did: every decoder gives the right value, or one of two errors.

"Right" is checked by writing the value again: every format has one form only, so the bytes must come out as they went in. What
test_pack.py and test_log.py already do (arbitrary bytes as a pack or an entry, every single flipped bit) is not repeated.
"""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactmount.acts import (
    Close,
    Commit,
    Counts,
    Metadata,
    PutVersion,
    SetAlias,
)
from artifactmount.digest import chunk_digest
from artifactmount.errors import CorruptError, UsageError
from artifactmount.fold import fold
from artifactmount.log import Entry, decode_checkpoint, decode_entry, encode_checkpoint, encode_entry
from artifactmount.manifest import Table
from artifactmount.pack import HEAD_LENGTH, Place, count_chunks, decode, decode_table, open_chunk, table_length
from artifactmount.ranges import PackId, PackRanges
from artifactmount.rows import Change, Kind, mode_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.state import State
from tests.unit.hostile import (
    ACTS,
    ENTRIES,
    FORMATS,
    JSON_FORMATS,
    META,
    REFUSALS,
    RUN,
    STATE,
    a_pack,
    accept,
    digest,
    finished,
    packs,
    run_again,
)
from tests.unit.mutations import ODD, canonical, seal, sites

FEW = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", FORMATS)
def test_a_valid_value_comes_out_as_it_went_in(name: str) -> None:
    accept(name, FORMATS[name][0])


# -- arbitrary and damaged bytes -------------------------------------------------------------------------------------------------------
MAGICS = st.sampled_from(
    [b"", b"AMRN\1\0\0\0", b"AMTB\1\0\0\0", b"AMPK\1\0\0\0", b'{"', b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"[]", b"1e999"]
)


@FEW
@given(st.sampled_from(list(FORMATS)), MAGICS, st.binary(max_size=400))
def test_arbitrary_bytes(name: str, magic: bytes, rest: bytes) -> None:
    accept(name, magic + rest)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bits(name: str, data: st.DataObject) -> None:
    damaged = bytearray(FORMATS[name][0])
    for bit in data.draw(st.sets(st.integers(0, len(damaged) * 8 - 1), min_size=1, max_size=4)):
        damaged[bit // 8] ^= 1 << bit % 8
    accept(name, bytes(damaged))


@pytest.mark.parametrize("name", FORMATS)
def test_every_single_flipped_bit(name: str) -> None:
    valid = FORMATS[name][0]
    step = 1 if len(valid) < 1000 else 3  # of the longer ones every third bit: all bits of a byte, in turn
    for bit in range(0, len(valid) * 8, step):
        damaged = bytearray(valid)
        damaged[bit // 8] ^= 1 << bit % 8
        accept(name, bytes(damaged))


@pytest.mark.parametrize("name", FORMATS)
def test_cut_short_anywhere(name: str) -> None:
    valid, again, _ = FORMATS[name]
    for length in range(len(valid)):
        with pytest.raises(REFUSALS):
            again(valid[:length])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("more", [b"\0", b" ", b"\n", b"x" * 64, b"{}"])
def test_with_something_behind(name: str, more: bytes) -> None:
    valid, again, _ = FORMATS[name]
    with pytest.raises(REFUSALS):
        again(valid + more)


@settings(max_examples=100)
@given(st.data())
def test_a_field_of_a_run_is_another(data: st.DataObject) -> None:
    """Whole fields, not bits: counts, lengths and modes that are in range and do not fit."""
    damaged = bytearray(RUN)
    width = data.draw(st.sampled_from([1, 2, 4, 8]))
    at = data.draw(st.integers(0, len(RUN) - width))
    value = data.draw(st.one_of(st.integers(0, 9), st.integers(0, (1 << 8 * width) - 1)))
    damaged[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    accept("run", bytes(damaged))


def test_a_run_names_only_packs_that_may_be() -> None:
    def run_of(place: Place) -> bytes:
        content = chunk_digest(b"x")
        builder = RunBuilder()
        builder.add(b"", b"x", Change.ADDED, mode_of(Kind.FILE), 1, 0, content, b"", content, [place])
        return builder.finish()

    good = Place(PackId(10**16 - 1, 10**8 - 1), 0, 1, 1)
    assert run_again(run_of(good)) == run_of(good)
    for bad in (good._replace(pack=PackId(10**16, 0)), good._replace(pack=PackId(0, 10**8)), good._replace(stored=(2 << 20) + 1)):
        with pytest.raises(CorruptError):
            run_again(run_of(bad))


# -- a pack's chunk --------------------------------------------------------------------------------------------------------------------
@FEW
@given(st.binary(max_size=60), st.booleans(), st.sampled_from([0, 1, 5, 60, 300, 4 << 20, (4 << 20) + 1, 1 << 60]), st.data())
def test_any_bytes_as_a_chunk(stored: bytes, frame: bool, plain: int, data: st.DataObject) -> None:
    content = bytes(300)
    if frame:
        damaged = bytearray(zstandard.ZstdCompressor().compress(content))
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        stored = bytes(damaged) + stored[: data.draw(st.integers(0, 3))]
    with suppress(CorruptError):
        assert open_chunk(stored, plain, chunk_digest(content)) == content


def test_frames_of_other_writers() -> None:
    """A checksum does no harm; a frame that does not say its size is refused, and so is one that is to be skipped."""
    content = bytes(300)
    assert open_chunk(zstandard.ZstdCompressor(write_checksum=True).compress(content), 300, chunk_digest(content)) == content
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    for stored in (silent, b"\x50\x2a\x4d\x18\4\0\0\0abcd", b""):
        with pytest.raises(CorruptError):
            open_chunk(stored, 300, chunk_digest(content))


# -- JSON that is sealed and still wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_sealed_json_with_another_value(name: str) -> None:
    """The seal is right, so each field is on its own: every one with every odd value, or missing, is refused or has one form."""
    valid, again, _ = FORMATS[name]
    fields = json.loads(valid)
    fields.pop("check", None)
    for container, key in sites(fields):
        kept = container[key]
        for value in [*ODD, None]:
            container[key] = value
            sealed = finished(name, fields)
            with suppress(*REFUSALS):
                assert again(sealed) == sealed
        container[key] = kept
        if isinstance(container, dict):
            del container[key]
            sealed = finished(name, fields)
            with suppress(*REFUSALS):  # an alias fewer is a value, too
                assert again(sealed) == sealed
            container[key] = kept


@pytest.mark.parametrize("name", ["entry 2", "entry 3", "checkpoint", "card"])
def test_deeply_nested_json(name: str) -> None:
    """As deep as can just be parsed: saying what is wrong must not go deeper than that."""
    valid, again, _ = FORMATS[name]
    fields = json.loads(valid)
    if name != "card":
        fields["check"] = "CHECK"
    wanted = {"keys", "keep", "packs", "n", "run", "name", "moved", "needs", "ops", "a"}
    for container, key in [(container, key) for container, key in sites(fields) if key in wanted]:
        kept, container[key] = container[key], "here"
        text = canonical(fields).decode()
        container[key] = kept
        for depth in range(sys.getrecursionlimit() - 160, sys.getrecursionlimit(), 2):
            nested = text.replace('"here"', "[" * depth + "]" * depth)
            check = blake3(nested.replace('"check":"CHECK",', "").encode()).hexdigest()[:32]
            sealed = nested.replace("CHECK", check).encode()
            with suppress(*REFUSALS):
                assert again(sealed) == sealed


# -- what lies about its size ----------------------------------------------------------------------------------------------------------
def peak_of(action: Callable[[], object]) -> int:
    """Bytes allocated at most while `action` is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(REFUSALS):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = (1 << 20, 1 << 31, 1 << 32, 1 << 60, (1 << 64) - 1)


@pytest.mark.parametrize("rest", [0, 100, 100_000])
def test_lying_headers_allocate_nothing(rest: int) -> None:
    for header, fields, decode_it in (
        ("<4sB3x8Q", 8, lambda data: Run(data, bytes(32))),
        ("<4sB3x5Q32x", 5, Table),
    ):
        magic = b"AMRN" if fields == 8 else b"AMTB"
        for field in range(fields):
            for claim in HUGE:
                claims = [0] * fields
                claims[field] = claim
                data = struct.pack(header, magic, 1, *claims) + bytes(rest)
                assert peak_of(lambda data=data, decode_it=decode_it: decode_it(data)) < (64 << 10) + 4 * len(data)  # type: ignore[misc]
    for claim in (1, 1000, 1 << 20, (1 << 32) - 1):
        data = struct.pack("<4sBBHI", b"AMPK", 1, 0, 0, claim) + bytes(rest)
        for decoder in (decode, decode_table):
            assert peak_of(lambda data=data, decoder=decoder: decoder(data)) < (64 << 10) + 4 * len(data)  # type: ignore[misc]


def test_columns_of_zeros_that_add_up_to_the_length() -> None:
    """The header tells the truth about the length, and nothing else does."""
    widths = [59, 6, 16, 32, 12, 1, 1, 1]
    for field, width in enumerate(widths):
        claims = [0] * 8
        claims[field] = 1000
        data = struct.pack("<4sB3x8Q", b"AMRN", 1, *claims) + bytes(1000 * width)
        assert peak_of(lambda data=data: Run(data, bytes(32))) < (64 << 10) + 4 * len(data)  # type: ignore[misc]


def test_a_table_of_contents_that_lies_about_lengths() -> None:
    """Right digests, wrong lengths: nothing is unpacked on their word."""
    frame = zstandard.ZstdCompressor().compress(bytes(4 << 20))
    for stored, plain, codec in (
        (1 << 31, 1 << 31, 0),
        (len(frame), (1 << 32) - 1, 1),
        (len(frame), (4 << 20) + 1, 1),
        (5, 4, 0),
        (0, 0, 0),
    ):
        table = struct.pack("<4sBBHI32sIIB", b"AMPK", 1, 0, 0, 1, chunk_digest(b""), stored, plain, codec) + chunk_digest(frame)
        data = table + chunk_digest(table) + frame
        assert peak_of(lambda data=data: decode(data)) < (64 << 10) + 4 * len(data)  # type: ignore[misc]
    lying = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 60) + bytes(20)  # a frame that says it is 2^60 bytes
    for plain in (300, 1 << 60):
        assert peak_of(lambda plain=plain: open_chunk(lying, plain, bytes(32))) < 64 << 10  # type: ignore[misc]


def test_moves_of_more_packs_than_may_be() -> None:
    """A few bytes could name 10^8 packs each: the sum is looked at before one is made."""
    for moves in ([[0, 0, 10**8 - 2, 1, 0]], [[n, 0, 1 << 19, 999, 0] for n in range(100)]):
        fields = json.loads(ENTRIES[3])
        del fields["check"]
        fields["act"]["commit"]["ops"] = [{"move": {"packs": moves}}]
        data = seal(fields)
        assert peak_of(lambda data=data: decode_entry(data, 7)) < (64 << 10) + 20 * len(data)  # type: ignore[misc]
        fields = json.loads(encode_checkpoint(STATE))
        del fields["check"]
        fields["moved"] = moves
        data = seal(fields)
        assert peak_of(lambda data=data: decode_checkpoint(data)) < (64 << 10) + 20 * len(data)  # type: ignore[misc]


def test_what_cannot_be_read_is_not_written() -> None:
    """An entry that every reader refuses would end the log for everybody."""
    good = Entry(7, digest("prev"), bytes(16), "2026-01-01T00:00:00Z", "me", "t/1", ACTS[3])
    put = PutVersion(2, 1, digest("c"), Counts(), META, packs(), "t" * 129)
    for bad in (
        replace(good, actor="x" * 1025),
        replace(good, act=Close(10**16)),
        replace(good, act=Commit(None, packs(), (SetAlias("x" * 129, 0),))),
        replace(good, act=Commit(4, packs((4, 0), (4, 1)), (put,))),
    ):
        with pytest.raises(UsageError):
            encode_entry(bad)


def test_wide_ranges_are_folded_as_ranges() -> None:
    """A commit that keeps and names 10^8 packs is 300 bytes, and may not cost more to fold than another."""
    session = PackRanges(((0, 0, 10**8 - 1),))
    meta = Metadata(packs((0, 0)), digest("run"), 10)
    state = State(0, digest("prev"), open=frozenset({0}))
    put = PutVersion(0, None, digest("a"), Counts(), meta, session, "t")
    tracemalloc.start()
    try:
        entry = Entry(1, state.digest, bytes(16), "", "", "", Commit(0, session, (put, SetAlias("latest", 0))))
        after, refusal = fold(state, entry, bytes(32))
        assert refusal is None and after.packs == session
        entry = replace(entry, act=Commit(0, packs((0, 0)), (put, SetAlias("latest", 0))))
        assert fold(state, entry, bytes(32))[1] is not None
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_a_head_too_short_for_its_count() -> None:
    assert table_length(1) == HEAD_LENGTH + 41 + 64
    for length in range(HEAD_LENGTH):
        with pytest.raises(CorruptError):
            count_chunks(a_pack()[:length])
