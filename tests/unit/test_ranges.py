"""Sets of packs as ranges, against plain sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactmount.errors import CorruptError
from artifactmount.ranges import PackId, PackRanges

packs = st.sets(st.builds(PackId, st.integers(0, 3), st.integers(0, 9)))


@given(packs, packs)
def test_it_is_a_set(a: set[PackId], b: set[PackId]) -> None:
    x, y = PackRanges.of(a), PackRanges.of(b)
    assert set(x) == a and list(x) == sorted(a) and len(x) == len(a) and bool(x) == bool(a)
    assert set(x | y) == a | b and set(x - y) == a - b and (x <= y) == (a <= b)
    assert all((PackId(s, n) in x) == (PackId(s, n) in a) for s in range(5) for n in range(11))
    assert PackRanges.from_json((x | y).to_json()) == PackRanges.of(a | b)
    assert (x - y) == PackRanges.of(a - b)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [[0]],
        [[0, 1, "2"]],
        [[0, 2, 1]],
        [[-1, 0, 0]],
        [[0, 0, 10**8]],
        [[0, 0, 1], [0, 2, 3]],
        [[1, 0, 0], [0, 0, 0]],
        [[0, True, 1]],
    ],
)
def test_what_is_not_canonical_is_refused(value: object) -> None:
    with pytest.raises(CorruptError):
        PackRanges.from_json(value)
