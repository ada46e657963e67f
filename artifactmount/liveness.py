"""What of an artifact's content lives on when versions go, from the runs alone: nothing of content is read, and nothing is changed.

Liveness is of a place, never of a digest: a chunk in a pack is live while the run of a live version names it there. A pack is kept whole or
not at all, so a pack that dies in part shows in the runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from blake3 import blake3

from artifactmount.catalog import Catalog
from artifactmount.ranges import PackId
from artifactmount.run import Run
from artifactmount.squash import squash
from artifactmount.state import State

#: A chunk's place as far as liveness goes: the pack where it is now, and its digest; with its plain bytes.
Places = dict[PackId, dict[bytes, int]]


@dataclass(slots=True)
class Plan:
    """A deletion worked out on one state: the new runs of versions whose base goes, what is still live of packs that die in part, and what
    dies, with its bytes as they are packed. Of the packs that were looked at: what each version is charged for, and what of it passed to it
    from those that go."""

    gone: list[int]
    runs: dict[int, Run]
    partly: dict[PackId, frozenset[bytes]]
    dead: Places
    stored: int
    charged: dict[int, int]
    passed: dict[int, int]


def plan_deletion(state: State, catalog: Catalog, gone: list[int]) -> Plan:
    """What the deletion of these live versions (ascending) comes to. Raises KeyMissingError when a newer state no longer has a run."""
    catalog.load(state.versions.values())
    runs, old = _squashed(state, catalog, gone)
    before: Places = {}
    for run in old:
        _add(before, _places(state, run, None))
    left: dict[PackId, dict[bytes, int]] = {}  # place -> the lowest version that goes and names it
    for n in gone:
        for pack, chunks in _places(state, catalog.run(state.versions[n]), before).items():
            left[pack] = dict.fromkeys(chunks, n) | left.get(pack, {})
    after: Places = {}
    charged, passed = Counter[int](), Counter[int]()
    going = set(gone)
    for n, version in state.versions.items():
        if n in going:
            continue
        for pack, chunks in _places(state, runs.get(n) or catalog.run(version), before).items():
            mine, theirs = after.setdefault(pack, {}), left.get(pack, {})
            for digest, size in chunks.items():
                if digest not in mine:
                    mine[digest] = size
                    charged[n] += size
                    passed[n] += size if theirs.get(digest, n) < n else 0
    dead = {pack: {d: size for d, size in chunks.items() if d not in after.get(pack, {})} for pack, chunks in before.items()}
    dead = {pack: chunks for pack, chunks in dead.items() if chunks}
    partly = {pack: frozenset(after[pack]) for pack in dead if after.get(pack)}
    return Plan(gone, runs, partly, dead, _stored(state, old, dead), charged, {n: more for n, more in passed.items() if more})


def live_bytes(state: State, catalog: Catalog) -> tuple[int, int]:
    """The bytes of all live places: plain, and as they are packed."""
    catalog.load(state.versions.values())
    runs = [catalog.run(version) for version in state.versions.values()]
    places: Places = {}
    for run in runs:
        _add(places, _places(state, run, None))
    return sum(sum(chunks.values()) for chunks in places.values()), _stored(state, runs, places)


def _squashed(state: State, catalog: Catalog, gone: list[int]) -> tuple[dict[int, Run], list[Run]]:
    """The new runs of the versions right above deleted ones, and the old runs that go."""
    runs: dict[int, Run] = {}
    old: list[Run] = []
    waiting: list[Run] = []
    going = set(gone)
    for n, version in state.versions.items():
        if n in going:
            waiting.append(catalog.run(version))
        elif waiting:
            waiting.append(catalog.run(version))
            old += waiting
            runs[n] = _squash_all(waiting)
            waiting = []
    return runs, old + waiting


def _places(state: State, run: Run, only: Collection[PackId] | None) -> Places:
    """The places that a run names, as (pack where it is now, digest) with the chunk's plain length; of these packs only."""
    now = [state.resolve(pack) for pack in run.packs]
    places: Places = {pack: {} for pack in now if only is None or pack in only}
    if places:
        chunks = [places.get(pack) for pack in now]
        for _, digest, pack, _, _, plain in run.places():
            if (found := chunks[pack]) is not None:
                found[digest] = plain
    return places


def _stored(state: State, runs: Iterable[Run], places: Places) -> int:
    """The bytes of these places as they are packed. A pass of its own through the runs that name them: 0.9 µs a chunk, and no memory for it
    in `Places`, which hold every chunk of the artifact."""
    waiting = {pack: set(chunks) for pack, chunks in places.items()}
    total = 0
    for run in runs:
        chunks = [waiting.get(state.resolve(pack), set()) for pack in run.packs]
        for _, digest, pack, _, stored, _ in run.places():
            if digest in chunks[pack]:
                chunks[pack].remove(digest)
                total += stored
    return total


def _add(places: Places, more: Places) -> None:
    for pack, chunks in more.items():
        places.setdefault(pack, {}).update(chunks)


def _squash_all(runs: list[Run]) -> Run:
    """Runs that follow each other as one: pair by pair, so that a row is copied once for each doubling."""
    while len(runs) > 1:
        pairs = [runs[i : i + 2] for i in range(0, len(runs), 2)]
        runs = [pair[0] if len(pair) == 1 else _as_run(squash(pair[0], pair[1])) for pair in pairs]
    return runs[0]


def _as_run(columns: bytes) -> Run:
    return Run(columns, blake3(columns).digest(), check=False)
