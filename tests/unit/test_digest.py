"""The cut points and digests are part of the format: these vectors may never change."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.digest import CHUNK_LIMIT, chunk_digest, content_digest, cut, directory_digest


def noise(length: int) -> bytes:
    """The same incompressible bytes in every run and on every machine."""
    return b"".join(hashlib.sha256(number.to_bytes(4, "little")).digest() for number in range(length // 32))


def cuts(buffer: bytes) -> list[int]:
    view, lengths = memoryview(buffer), []
    while view:
        lengths.append(cut(view))
        view = view[lengths[-1] :]
    return lengths


def test_cut_points_are_pinned() -> None:
    assert cuts(noise(8 << 20)) == [637477, 2010659, 1255910, 2097152, 367687, 1706391, 313332]


@pytest.mark.parametrize("length", [0, 1, 262143, 262144, 262145, 2097151, 2097152])
def test_cut_of_zeros_is_whole_up_to_the_limit(length: int) -> None:
    assert cut(bytes(length)) == length


def test_cut_of_more_zeros_is_the_limit() -> None:
    assert cut(bytes(CHUNK_LIMIT + 1)) == CHUNK_LIMIT


def test_content_digest_of_the_pinned_file() -> None:
    data, digests, start = noise(8 << 20), [], 0
    for length in cuts(data):
        digests.append(chunk_digest(data[start : start + length]))
        start += length
    assert content_digest(digests).hex() == "0b55ec9d0efaba3dbfe6f103fef10800cb61518aca62db0be0c976a7316202e8"


def test_digests_are_pinned() -> None:
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    a, b = chunk_digest(b"a"), chunk_digest(memoryview(b"b"))
    assert chunk_digest(b"").hex() == content_digest([]).hex() == empty
    assert content_digest([a]) == a
    assert content_digest([a, b]).hex() == "37827a1dfecd54bb079470ff135385389f5404f8f4480e284d52b6a70e1a187e"
    assert content_digest([b, a]) != content_digest([a, b])
    assert directory_digest(0, b"", b"", b"", b"", b"").hex() == ("417a0c0db64a4d281969ee48e45533f1c32e21b17a9d57ed5b8be82bc01258d4")
    two = directory_digest(2, b"\1\1", bytes(16), b"\1\1", b"ab", bytes(64))
    assert two.hex() == "9fff462d6956dfc760d0f23a4e401e5bd5e3e604f4dd237734732dd4137f7139"


@settings(max_examples=20)
@given(st.binary(max_size=200), st.integers(0, 3 << 20))
def test_a_cut_depends_on_no_byte_beyond_the_limit(tail: bytes, length: int) -> None:
    buffer = (NOISE + tail)[: length + len(tail)]
    assert cut(buffer) == cut(buffer[:CHUNK_LIMIT]) == cut(bytearray(buffer))


NOISE = noise(3 << 20)
