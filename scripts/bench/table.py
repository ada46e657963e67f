"""What the programs that measure have in common: their arguments, a place to work in, and who competes."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from disk import workplace
from measure import OURS, ROOT, FailedError, Figure, Results
from peers import Peer, install

RESULTS = ROOT / ".bench/results.jsonl"


@dataclass(frozen=True, slots=True)
class Table:
    """One run of a program. `limit`: seconds for a command; `peers`: who may compete; `versions`: of those that are here."""

    place: Path
    rounds: int
    small: bool
    limit: float
    results: Results
    peers: frozenset[str] | None
    versions: dict[str, str]
    _failed: dict[str, str] = field(default_factory=dict)

    def here(self, row: str, peers: Iterable[Peer]) -> list[Peer]:
        """Those that compete: asked for, and installed. A line says who could not be."""
        found: list[Peer] = []
        for peer in peers:
            if peer.name != OURS and self.peers is not None and peer.name not in self.peers:
                continue
            if peer.name not in self.versions and peer.name not in self._failed:
                try:
                    self.versions[peer.name] = install(peer)
                except FailedError as error:
                    self._failed[peer.name] = str(error)
            if peer.name in self._failed:
                self.results.add(row, peer.name, 0, Figure("failed", None), error=self._failed[peer.name])
            else:
                found.append(peer)
        return found


def _prepare() -> None:
    """Make sure that the tests' libraries are here: their S3 server is what buckets lie in, and one of them counts requests."""
    if find_spec("moto") is None or find_spec("prometheus_client") is None:
        subprocess.run(["bash", "-c", 'source "$0" && prepare_environment test', str(ROOT / "scripts/environment.sh")], check=True)


def run(about: str | None, rows: Mapping[str, Callable[[Table], None]]) -> int:
    """The program: measure the rows that the command line asks for, each even where another failed. Returns the exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=list(rows), help="only this row; may be repeated")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="of each contestant (default 5; with --small 1)")
    parser.add_argument("--small", action="store_true", help="a trial with a hundredth of everything, in seconds")
    parser.add_argument("--peers", metavar="A,B", help="only beside these; '' for none. Default: all, installed where they are missing")
    parser.add_argument("--dir", type=Path, help="where to work. Default: as root a new ext4 on a loop device below $TMPDIR, else $TMPDIR")
    parser.add_argument("--gib", type=int, default=0, help="of the new ext4 (default 28; with --small 2)")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="for one command of a contestant (default 3600)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="appended to (default .bench/results.jsonl)")
    options = parser.parse_args()
    if options.dir is not None and shlex.quote(str(options.dir)) != str(options.dir):
        parser.error(f"the shell is given paths below {options.dir}: choose one without special characters")
    if shutil.which("time") is None:
        print("GNU time is not here, so no peak of memory is told; on Debian: sudo apt-get install time", file=sys.stderr)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else ours, and all of Python, are compiled anew at each start: 0.2 s
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that mounts and servers end, too
    _prepare()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    versions: dict[str, str] = {}
    results = Results(options.results, options.small, versions)
    peers = None if options.peers is None else frozenset(filter(None, options.peers.split(",")))
    broken: list[str] = []
    rounds = options.rounds or (1 if options.small else 5)
    for row in options.row or rows:
        try:
            with workplace(options.dir, options.gib or (2 if options.small else 28)) as place:  # a new one for each: disks age
                print(f"row {row} in {place}", flush=True)
                rows[row](Table(place, rounds, options.small, options.limit, results, peers, versions))
        except Exception as error:  # noqa: BLE001 - nobody watches: whatever one row met, the others are measured
            results.add(row, OURS, 0, Figure("failed", None), error=f"{type(error).__name__}: {error}"[:400])
            broken.append(row)
    if broken:
        print(f"not measured: row {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))
