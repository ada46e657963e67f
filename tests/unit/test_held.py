"""Pieces in memory: what is counted, what is dropped, and when bytes are copied."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from artifactmount.held import Held, Part, joined


def test_neighbours_in_one_buffer_are_joined_without_a_copy() -> None:
    buffer = bytes(range(100))
    view = joined([Part(buffer, 10, 20), Part(buffer, 20, 50)])
    assert isinstance(view, memoryview) and view.obj is buffer and bytes(view) == buffer[10:50]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=5))
def test_parts_joined_are_their_bytes_one_after_the_other(cuts: list[tuple[int, int, int]]) -> None:
    buffers = [bytes(range(30)), bytes(range(100, 130))]
    parts = [Part(buffers[which], min(a, b), max(a, b)) for which, a, b in cuts]
    assert bytes(joined(parts)) == b"".join(buffers[which][min(a, b) : max(a, b)] for which, a, b in cuts)


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_a_cut_is_what_a_slice_of_its_bytes_would_be(start: int, stop: int) -> None:
    buffer, low = bytes(range(60)), max(start, 0)
    if stop >= low:
        assert bytes(joined([Part(buffer, 10, 30).cut(start, stop)])) == buffer[10:30][low:stop]


def test_a_whole_buffer_is_dropped_when_it_is_the_least_recently_used() -> None:
    held, both, other, last = Held(100), bytes(60), bytes(40), bytes(30)
    held.put({b"a": Part(both, 0, 10), b"b": Part(both, 10, 60)})
    held.put({b"c": Part.of(other)})
    assert held.get(b"a") == Part(both, 0, 10)  # which makes its neighbour as recently used as itself
    held.put({b"d": Part.of(last)})
    assert b"a" in held and b"b" in held and b"c" not in held and b"d" in held
    held.put({b"e": Part.of(bytes(70))})
    assert held.get(b"a") is None and held.get(b"b") is None and b"d" in held and b"e" in held


def test_what_is_held_already_stays_and_what_is_too_large_is_not_held() -> None:
    held, first = Held(100), b"first"
    held.put({b"a": Part.of(first)})
    held.put({b"a": Part.of(b"again")})
    assert held.get(b"a") == Part.of(first)
    held.put({b"large": Part.of(bytes(101))})
    assert b"large" not in held and held.get(b"large") is None
