"""What each version costs: the bytes it tracks, adds, and would free. Exact, from the runs alone; nothing of content is read.

A place (a chunk in a pack) is charged to the oldest live version that names it. A version frees what no other live version names and its
successor does not take over: a row of its run that the next run leaves alone lives on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import zip_longest

from blake3 import blake3

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
    """The sizes of every live version, in order. What was worked out last is cached, one value an artifact, and holds for every state with
    the same live runs and moved packs: an alias or another's session changes nothing."""
    artifact = catalog.artifact
    key = b"sizes" + blake3(f"{artifact.project_id} {artifact.name}".encode()).digest()
    runs = [(n, version.metadata.run) for n, version in state.versions.items()]
    live = blake3(repr((runs, sorted(state.moved.items()))).encode()).hexdigest()  # sorted: a state from the log has them in another order
    known = _decode(cache.state_get(key), live)
    if known is None:
        known = list(_work_out(catalog, state))
        cache.state_put(key, json.dumps({"of": live, "sizes": [astuple(item) for item in known]}).encode())
    return known


def _decode(value: bytes | None, live: str) -> list[Sizes] | None:
    """What the cache holds, if it is of these runs; it may be damaged."""
    try:
        fields = json.loads(value or b"{}")
        return [Sizes(*map(int, item)) for item in fields["sizes"]] if fields["of"] == live else None
    except (ValueError, KeyError, TypeError):
        return None


def _work_out(catalog: Catalog, state: State) -> Iterator[Sizes]:
    catalog.load(state.versions.values())
    charged: dict[bytes, int] = {}  # place -> the version it is charged to
    shared: set[bytes] = set()  # places that several live versions name
    adds: dict[int, tuple[int, int]] = {}
    for n, version in state.versions.items():
        plain = stored = 0
        for _, place, size, packed in _places(state, catalog.run(version)):
            owner = charged.get(place)
            if owner is None:
                charged[place] = n
                plain, stored = plain + size, stored + packed
            elif owner != n:
                shared.add(place)
        adds[n] = plain, stored
    numbers = list(state.versions)
    for n, above in zip_longest(numbers, numbers[1:]):
        run = catalog.run(state.versions[n])
        gone: dict[bytes, int] = {}
        kept: set[bytes] = set()
        rows = range(run.count) if above is None else overridden(run, catalog.run(state.versions[above]))
        for row, place, size, _ in _places(state, run) if rows else ():
            if row not in rows:
                kept.add(place)
            elif place not in shared:
                gone[place] = size
        counts = state.versions[n].counts
        yield Sizes(n, counts.bytes, adds[n][0], sum(size for place, size in gone.items() if place not in kept), adds[n][1])


def _places(state: State, run: Run) -> Iterator[tuple[int, bytes, int, int]]:
    """(row, place, plain and stored length) of what a run names, a place as often as it is named."""
    packs = [b"%d/%d" % (pack.session, pack.number) for pack in map(state.resolve, run.packs)]
    return ((row, digest + packs[pack], plain, stored) for row, digest, pack, _, stored, plain in run.places())
