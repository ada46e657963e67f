"""Mounts, beside ext4 and what else can be mounted. Rows of docs/performance.md:

7 `find` over 300k files    8 sequential read of 1 GiB    9 10k small files, each opened, read and closed
10 until a mount is ready, with 1,000 artifacts, and with 1,000 versions of 10k files
11 the daemon's private memory after `find` over 1M files, of a folder project and of one in a bucket

    .venv/bin/python scripts/bench/mounts.py [--row N] [--rounds 5] [--small] [--peers squashfuse,borg] [--dir DIR]

Needs root for rows 7 to 9: nobody else can empty the kernel's caches. Timed are mounts without metrics; ours is mounted once more in the
end to count what it was asked.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from disk import sync
from measure import OURS, ROOT, Contestant, FailedError, Figure, since
from mounting import Mounted, bucket_server, everything_cold, mounted
from peers import IN_BUCKET, PEERS, Peer, Placed
from table import Table, run
from trees import Files, fresh

_EXT4 = "ext4"
_MADE_UP = ROOT / "scripts/bench/made_up.py"
Opened = Callable[[bool], AbstractContextManager[Mounted]]


def _stored(table: Table, peer: Peer, files: Files) -> Placed:
    """A peer that has the files in its store."""
    placed = Placed(peer, files.top, table.place / "stores" / peer.name, table.limit)
    placed.begin()
    placed.run(peer.first)
    return placed


def _mounts(table: Table, row: str, files: Files, *names: str) -> dict[str, Opened]:
    """How each contestant's tree is come by: ours, ext4 itself, and these peers."""

    def mount(placed: Placed) -> Opened:
        return lambda counted: mounted(placed, table.place / "mnt", counted, table.limit)

    @contextmanager
    def plain(_: bool) -> Iterator[Mounted]:
        yield Mounted(files.top, None, table.limit)

    ways: dict[str, Opened] = {}
    for peer in table.here(row, (PEERS[name] for name in (OURS, *names))):
        try:
            ways[peer.name] = mount(_stored(table, peer, files))
        except FailedError as error:
            if peer.name == OURS:
                raise
            table.results.add(row, peer.name, 0, Figure("failed", None), error=str(error))
    sync(table.place)
    return ways | {_EXT4: plain}


def finding(table: Table) -> None:
    """Row 7."""
    files = Files(table.place / "src" / "files", 3000 if table.small else 300_000, 1000)
    files.make()

    def contestant(opened: Opened) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            everything_cold()
            with opened(counted) as tree:
                yield tree.figure("find, fresh", f"find {tree.top} -type f")
                yield tree.figure("find, again", f"find {tree.top} -type f")

        return turn

    table.results.rounds("7", {name: contestant(way) for name, way in _mounts(table, "7", files).items()}, table.rounds)


def sequential(table: Table) -> None:
    """Row 8."""
    size = (10 << 20) if table.small else (1 << 30)
    files = Files(table.place / "src" / "files", 1, size)
    files.make()
    packs = table.place / "stores" / OURS / "project"

    def contestant(name: str, opened: Opened) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            with opened(counted) as tree:
                path = next(tree.top.rglob("*.bin"))
                read = f"dd if={path} of=/dev/null bs=1M status=none"
                everything_cold()
                yield tree.figure("all cold", read, size=size)
                if name == OURS:
                    everything_cold()
                    subprocess.run(["sh", "-c", f"find {packs} -type f -exec cat {{}} + > /dev/null"], check=True)
                    yield tree.figure("packs warm", read, size=size)
                yield tree.figure("all warm", read, size=size)

        return turn

    ways = _mounts(table, "8", files)
    table.results.rounds("8", {name: contestant(name, way) for name, way in ways.items()}, table.rounds)


def small_files(table: Table) -> None:
    """Row 9."""
    count = 100 if table.small else 10_000
    files = Files(table.place / "src" / "files", count, 10_000, count // 10)
    files.make()
    paths = [str(files.path(number).relative_to(files.top)) for number in range(count)]

    def reads(tree: Mounted, case: str, folder: Path, prefix: str = "") -> Iterator[Figure]:
        named = table.place / "names"
        named.write_text("\0".join(prefix + path for path in paths))
        command = f"xargs -0 cat < {named}"
        everything_cold()
        yield tree.figure(f"{case}cold", command, folder)
        yield tree.figure(f"{case}warm", command, folder)

    def contestant(name: str, opened: Opened) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            with opened(counted) as tree:
                if name != OURS:
                    yield from reads(tree, "", tree.top)
                    return
                yield from reads(tree, "by version, ", tree.top.parent, "v0/")
            with opened(counted) as tree:
                yield from reads(tree, "through latest, ", tree.top.parent, "latest/")

        return turn

    with ExitStack() as stack:
        ways = _mounts(table, "9", files, "squashfuse", "restic", "borg") | _bucket_mounts(table, files, stack)
        table.results.rounds("9", {name: contestant(name, way) for name, way in ways.items()}, table.rounds)


def _bucket_mounts(table: Table, files: Files, stack: ExitStack) -> dict[str, Opened]:
    """Mounts of a bucket that has the files as its objects."""
    peers = table.here("9", (PEERS[name] for name in ("rclone", "s3fs")))
    if not peers:
        return {}
    server = stack.enter_context(bucket_server())
    bucket = server.make_bucket()
    for number in range(files.count):
        path = files.path(number)
        server.client.put_object(Bucket=bucket, Key=f"files/{path.relative_to(files.top)}", Body=path.read_bytes())

    def mount(peer: Peer) -> Opened:
        store = fresh(table.place / "stores" / peer.name)
        placed = Placed(peer, files.top, store, table.limit, server.environment(), bucket=bucket, endpoint=server.endpoint)
        return lambda counted: mounted(placed, table.place / "mnt", counted, table.limit)

    return {peer.name: mount(peer) for peer in peers}


def ready(table: Table) -> None:
    """Row 10: by the command as it is typed, from nothing to the first listing of a version."""
    scale = 100 if table.small else 1
    placed = Placed(PEERS[OURS], table.place, table.place / "stores" / OURS, table.limit)
    placed.begin()
    _make_up(placed, "artifacts", 1000 // scale)
    _make_up(placed, "versions", 1000 // scale, 10_000 // scale)
    mountpoint = table.place / "mnt"
    mountpoint.mkdir()

    def turn(counted: bool) -> Iterator[Figure]:
        for case, version in (("1,000 artifacts", "artifact0005/v0"), ("1,000 versions", f"versions/v{1000 // scale - 1}")):
            for cache in ("", ", empty cache"):
                if cache:
                    placed.environment["ARTIFACTMOUNT_CACHE"] = str(fresh(table.place / "other cache"))
                else:
                    placed.environment["ARTIFACTMOUNT_CACHE"] = str(placed.store / "cache")
                yield _listed(placed, case + cache, mountpoint, version, counted, table.limit)

    table.results.rounds("10", {OURS: turn}, table.rounds)


def _listed(placed: Placed, case: str, mountpoint: Path, version: str, counted: bool, limit: float) -> Figure:
    if counted:
        with mounted(placed, mountpoint, counted, limit, version) as tree:
            return Figure(case, None, "s", since({}, tree.daemon.requests()) if tree.daemon else {})
    try:
        done = placed.run(f"{{python}} -m artifactmount mount {{mnt}} && ls {{mnt}}/{version}", mnt=shlex.quote(str(mountpoint)))
    finally:
        subprocess.run(
            [sys.executable, "-m", "artifactmount", "umount", str(mountpoint)], check=False, capture_output=True, env=_whole(placed)
        )
    return Figure(case, round(done.wall, 4), "s", {"cpu": round(done.cpu, 3)})


def _whole(placed: Placed) -> Mapping[str, str]:
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **placed.environment}


def _make_up(placed: Placed, what: str, *numbers: int) -> None:
    print(f"making up {numbers[0]} {what}", flush=True)
    placed.run(f"{{python}} {_MADE_UP} {what} {' '.join(map(str, numbers))}")


def memory(table: Table) -> None:
    """Row 11."""
    count = 10_000 if table.small else 1_000_000

    def contestant(case: str, placed: Placed) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            placed.environment["ARTIFACTMOUNT_CACHE"] = str(fresh(table.place / "other cache"))
            with mounted(placed, table.place / "mnt", counted, table.limit) as tree:
                assert tree.daemon is not None
                with tree.daemon.peak() as peak:
                    found = tree.figure(case, f"find {tree.top} -type f")
                yield Figure(case, tree.daemon.private(), "MiB", {**found.facts, "peak": peak[0], "wall": found.value})

        return turn

    with bucket_server() as server:
        in_folder = Placed(PEERS[OURS], table.place, table.place / "stores" / "folder", table.limit)
        words = {"bucket": server.make_bucket(), "endpoint": server.endpoint}
        in_bucket = Placed(IN_BUCKET[OURS], table.place, table.place / "stores" / "bucket", table.limit, server.environment(), **words)
        for case, placed in (("folder", in_folder), ("bucket", in_bucket)):
            placed.begin()
            _make_up(placed, "files", count)
            table.results.rounds("11", {OURS: contestant(case, placed)}, table.rounds)


ROWS = {"7": finding, "8": sequential, "9": small_files, "10": ready, "11": memory}

if __name__ == "__main__":
    sys.exit(run(__doc__, ROWS))
