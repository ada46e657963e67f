"""Uploads and downloads of 100k x 10 KB beside what would be taken instead: row 12 of docs/performance.md.

    .venv/bin/python scripts/bench/s3.py [--rounds 5] [--small] [--peers restic,s5cmd] [--dir DIR]

All use the same S3 server, the tests' own, on this machine: a process of its own, new for each turn, so that nothing of others is in it.
It answers one request at a time and on the same cores, so who asks more often pays for it: its CPU is shown beside the contestant's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from disk import sync
from measure import OURS, Contestant, Daemon, Figure
from mounting import bucket_server
from peers import IN_BUCKET, Peer, Placed
from snapshots import check
from table import Table, run
from trees import Files, fresh, warm


def transfers(table: Table) -> None:
    """Row 12."""
    files = Files(table.place / "src" / "files", 1000 if table.small else 100_000, 10_000)
    files.make()
    out = table.place / "out"

    def contestant(peer: Peer) -> Contestant:
        def turn(counted: bool) -> Iterator[Figure]:
            with bucket_server() as server:
                words = {"bucket": server.make_bucket(), "endpoint": server.endpoint}
                placed = Placed(peer, files.top, table.place / "stores" / peer.name, table.limit, server.environment(), **words)
                placed.begin()
                warm(files.top)
                sync(table.place)
                daemon = Daemon(server.pid)
                for case, command in (("upload", peer.first), ("download", peer.restore)):
                    if case == "download" and peer.name == OURS:
                        for known in ("cache", "state"):  # as on a machine that has seen nothing of it
                            fresh(placed.store / known)
                    fresh(out)
                    busy = daemon.cpu()
                    seconds, facts = placed.take(command, counted, out=str(out))
                    yield Figure(case, seconds, facts=facts | {"server_cpu": round(daemon.cpu() - busy, 2)})
                check(files, out)
                fresh(out)

        return turn

    contestants = {peer.name: contestant(peer) for peer in table.here("12", (IN_BUCKET[name] for name in (OURS, "restic", "s5cmd", "dvc")))}
    table.results.rounds("12", contestants, table.rounds)


if __name__ == "__main__":
    sys.exit(run(__doc__, {"12": transfers}))
