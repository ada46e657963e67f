"""Snapshots, downloads and deletions in a folder project, beside what would be taken instead. Rows of docs/performance.md:

1 first snapshot of 100k x 10 KB     2 unchanged, 300k files       3 one file changed of 300k
4 first snapshot of 4 x 1 GiB        6 download of 100k x 10 KB   13 deletion of a version of 1 % of 100k files
5 bytes that a second version of 16 x 256 MiB adds

    .venv/bin/python scripts/bench/snapshots.py [--row N] [--rounds 5] [--small] [--peers restic,git] [--dir DIR]

Sources are in the page cache, stores new. In rows 1 and 4 what is left for `sync` is timed, too: some make all durable by themselves,
others nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from disk import stored, sync
from measure import OURS, Contestant, FailedError, Figure
from peers import PEERS, Placed
from table import Table, run
from trees import Files, change_models, fresh, warm


def _placed(table: Table, row: str, source: Files, *names: str) -> dict[str, Placed]:
    found = table.here(row, (PEERS[name] for name in (OURS, *names)))
    return {peer.name: Placed(peer, source.top, table.place / "stores" / peer.name, table.limit) for peer in found}


def _tree(table: Table, count: int, size: int) -> Files:
    files = Files(table.place / "src" / "files", count // 100 if table.small else count, size)
    files.make()
    return files


def _large(table: Table, count: int, mebibytes: int) -> Files:
    files = Files(table.place / "src" / "files", count, (mebibytes << 20) // (100 if table.small else 1))
    files.make()
    return files


def first(table: Table, row: str, files: Files, *names: str) -> None:
    """A first snapshot, with what is left to sync."""

    def contestant(placed: Placed) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            placed.begin()
            warm(files.top)
            sync(table.place)
            seconds, facts = placed.take(placed.peer.first, counted)
            begin = time.perf_counter()
            sync(table.place)
            left = round(time.perf_counter() - begin, 4)
            yield Figure("first snapshot", round(seconds + left, 4), facts=facts | {"sync": left, "stored": stored(placed.kept)})
            fresh(placed.store)

        return turn

    placed = _placed(table, row, files, *names)
    table.results.rounds(row, {name: contestant(each) for name, each in placed.items()}, table.rounds)


def first_small(table: Table) -> None:
    """Row 1."""
    first(table, "1", _tree(table, 100_000, 10_000), "restic", "git", "dvc")


def first_large(table: Table) -> None:
    """Row 4."""
    first(table, "4", _large(table, 4, 1024), "cp")


def _stored_once(table: Table, row: str, placed: dict[str, Placed], *, settled: bool = False) -> dict[str, Placed]:
    """Those whose first snapshot went well; it is not timed. `settled`: what was written in the seconds before it was read once more."""
    done: dict[str, Placed] = {}
    for name, each in placed.items():
        try:
            each.begin()
            each.run(each.peer.first)
            if each.peer.after:
                each.run(each.peer.after)
            if settled:
                each.run(each.peer.again or each.peer.first)
            done[name] = each
        except FailedError as error:
            if name == OURS:
                raise
            table.results.add(row, name, 0, Figure("failed", None), error=str(error))
    return done


def unchanged(table: Table) -> None:
    """Row 2: nothing changed since the last time."""
    files = _tree(table, 300_000, 1000)
    placed = _stored_once(table, "2", _placed(table, "2", files, "git", "restic"), settled=True)

    def contestant(each: Placed) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            sync(table.place)
            seconds, facts = each.take(each.peer.again or each.peer.first, counted)
            yield Figure("unchanged", seconds, facts=facts)

        return turn

    table.results.rounds("2", {name: contestant(each) for name, each in placed.items()}, table.rounds)


def one_changed(table: Table) -> None:
    """Row 3: one file of many, against an unchanged snapshot of the same round."""
    files = _tree(table, 300_000, 1000)
    each = _stored_once(table, "3", _placed(table, "3", files), settled=True)[OURS]
    generations = iter(range(1, 1_000_000))

    def turn(counted: bool) -> Iterator[Figure]:
        sync(table.place)
        same, _ = each.take(each.peer.first, False)
        before = _listed(each)
        number = next(generations)
        files.write(number * 7919 % files.count, number)
        sync(table.place)
        seconds, facts = each.take(each.peer.first, counted)
        yield Figure("beyond unchanged", round(seconds - same, 4), facts=facts | {"wall": seconds, "unchanged": same})
        yield Figure("new metadata", _listed(each) - before - files.size, "B")

    table.results.rounds("3", {OURS: turn}, table.rounds)


def _listed(placed: Placed) -> int:
    """Bytes in the store, as its listing has them."""
    return sum(path.stat().st_size for path in placed.kept.rglob("*") if path.is_file())


def second_models(table: Table) -> None:
    """Row 5: one round, as bytes do not vary."""
    models = _large(table, 16, 256)
    placed = _stored_once(table, "5", _placed(table, "5", models, "restic", "dvc"))
    change_models(models)
    for name, each in placed.items():
        try:
            before = stored(each.kept)
            seconds, facts = each.take(each.peer.first, False)
            sync(table.place)
            table.results.add("5", name, 0, Figure("added", stored(each.kept) - before, "B", facts | {"wall": seconds}))
        except FailedError as error:
            table.results.add("5", name, 0, Figure("failed", None), error=str(error))


def download(table: Table) -> None:
    """Row 6."""
    files = _tree(table, 100_000, 10_000)
    placed = _stored_once(table, "6", _placed(table, "6", files, "restic"))
    out = table.place / "out"

    def contestant(each: Placed) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            fresh(out)
            warm(each.kept)
            sync(table.place)
            seconds, facts = each.take(each.peer.restore, counted, out=str(out))
            check(files, out)
            yield Figure("download", seconds, facts=facts)
            fresh(out)

        return turn

    table.results.rounds("6", {name: contestant(each) for name, each in placed.items()}, table.rounds)


def check(files: Files, out: Path) -> None:
    """The first and the last file are what they were. Raises FailedError."""
    for number in (0, files.count - 1):
        path = files.path(number)
        if [found.read_bytes() for found in out.rglob(f"{path.parent.name}/{path.name}")] != [path.read_bytes()]:
            raise FailedError(f"{path.parent.name}/{path.name} did not come back as it was")


def delete(table: Table) -> None:
    """Row 13: the newest version, of one file of a hundred changed."""
    files = _tree(table, 100_000, 10_000)
    placed = _stored_once(table, "13", _placed(table, "13", files, "restic"))
    generations = dict.fromkeys(placed, 0)

    def contestant(name: str, each: Placed) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            generations[name] += 1
            files.change(generations[name])
            each.run(each.peer.first)
            sync(table.place)
            seconds, facts = each.take(each.peer.delete, counted)
            files.undo(generations[name])
            yield Figure("deletion", seconds, facts=facts | {"stored": stored(each.kept)})

        return turn

    table.results.rounds("13", {name: contestant(name, each) for name, each in placed.items()}, table.rounds)


ROWS = {"1": first_small, "2": unchanged, "3": one_changed, "4": first_large, "5": second_models, "6": download, "13": delete}

if __name__ == "__main__":
    sys.exit(run(__doc__, ROWS))
