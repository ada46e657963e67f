"""What each version costs: the bytes it tracks, adds, and would free. Exact, from the runs alone; nothing of content is read.

A place (a chunk in a pack) is charged to the oldest live version that names it. A version frees what no other live version names and its
successor does not take over: a row of its run that the next run leaves alone lives on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest

from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.run import Run
from artifactmount.squash import overridden
from artifactmount.state import State


@dataclass(frozen=True, slots=True)
class Sizes:
    """Plain bytes that a version tracks, adds and would free; `stored`: the bytes in the store of what it adds, as they are packed."""

    version: int
    tracks: int
    adds: int
    frees: int
    stored: int


def sizes(catalog: Catalog, cache: Cache, state: State) -> list[Sizes]:
    """The sizes of every live version, in order. What was worked out for a state is cached."""
    key = b"sizes" + state.digest
    cached = cache.state_get(key)
    if cached is None:
        found = list(_work_out(catalog, state))
        cache.state_put(key, json.dumps([asdict(item) for item in found]).encode())
        return found
    return [Sizes(**item) for item in json.loads(cached)]


def _work_out(catalog: Catalog, state: State) -> Iterator[Sizes]:
    charged: dict[bytes, int] = {}  # place -> the version it is charged to
    shared: set[bytes] = set()  # places that several live versions name
    adds: dict[int, tuple[int, int]] = {}
    for n, version in state.versions.items():
        plain = stored = 0
        for place, size, packed in _places(state, catalog.run(version), None):
            owner = charged.setdefault(place, n)
            if owner != n:
                shared.add(place)
            else:
                plain, stored = plain + size, stored + packed
        adds[n] = plain, stored
    numbers = list(state.versions)
    for n, above in zip_longest(numbers, numbers[1:]):
        run = catalog.run(state.versions[n])
        rows = None if above is None else overridden(run, catalog.run(state.versions[above]))
        gone = {place: size for place, size, _ in _places(state, run, rows) if place not in shared}
        if rows is not None and gone:
            for place, _, _ in _places(state, run, set(range(run.count)) - rows):
                gone.pop(place, None)
        counts = state.versions[n].counts
        yield Sizes(n, counts.bytes, adds[n][0], sum(gone.values()), adds[n][1])


def _places(state: State, run: Run, rows: set[int] | None) -> Iterator[tuple[bytes, int, int]]:
    """(place, plain and stored length) of what rows of a run name (None: all), each place once."""
    seen: set[bytes] = set()
    packs = {pack: b"%d/%d" % (state.resolve(pack).session, state.resolve(pack).number) for pack in run.packs}
    chunks = run.all_chunks() if rows is None else (chunk for row in sorted(rows) for chunk in run.chunks(row))
    for chunk in chunks:
        place = chunk.digest + packs[chunk.place.pack]
        if place not in seen:
            seen.add(place)
            yield place, chunk.place.plain, chunk.place.stored
