"""The main job beside what users would take instead: a first and an unchanged snapshot, `find` and a sequential read of the mount.

    .venv/bin/python scripts/bench/main_job.py [--files 100000] [--size 10240] [--stream 1073741824] [--rounds 3] [DIR]

Peers are used where they are installed: restic, git. Rounds alternate between the peers, and the best of each is shown, as the machine's
noise only ever adds. Sources are in the page cache. Everything is made in DIR (default: a temporary folder) and removed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_PER_FOLDER = 100


class Bench:
    """One folder of files, the commands to time on it, and the best times so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.stream = folder, folder / "source", folder / "stream"
        self.mountpoint = folder / "mnt"
        self.mountpoint.mkdir()
        self.best: dict[str, float] = {}
        self.environment = {
            **os.environ,
            "ARTIFACTMOUNT_PROJECT": str(folder / "project"),
            "ARTIFACTMOUNT_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "RESTIC_REPOSITORY": str(folder / "restic"),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
        }

    def make(self, files: int, size: int, stream: int) -> None:
        """Incompressible files of one size, a hundred to a folder, and one large file."""
        generator = random.Random(1)
        for number in range(files):
            path = self.source / f"{number // _PER_FOLDER:05d}" / f"{number % _PER_FOLDER:03d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(generator.randbytes(size))
        self.stream.mkdir()
        with (self.stream / "blob").open("wb") as file:
            for _ in range(stream >> 20):
                file.write(generator.randbytes(1 << 20))

    def run(self, *command: str | Path) -> None:
        """A command, silent; its failure is ours."""
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def time(self, what: str, work: Callable[[], None]) -> None:
        """Do it, and keep the time if it is the best so far."""
        begin = time.perf_counter()
        work()
        self.best[what] = min(time.perf_counter() - begin, self.best.get(what, float("inf")))

    def timed(self, what: str, *command: str | Path) -> None:
        """Time one command."""
        self.time(what, lambda: self.run(*command))

    def remove(self, *names: str) -> None:
        """Start afresh."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _artifactmount(*arguments: str | Path) -> tuple[str | Path, ...]:
    return (sys.executable, "-m", "artifactmount", *arguments)


def _snapshots(bench: Bench) -> None:
    bench.remove("project", "cache", "state")
    snapshot = _artifactmount("snapshot", bench.source, "files")
    bench.timed("first snapshot         artifactmount", *snapshot)
    time.sleep(2.1)  # until the files are older than the racy window: the usual case
    bench.run(*snapshot)
    bench.timed("unchanged snapshot     artifactmount", *snapshot)


def _restic(bench: Bench) -> None:
    bench.remove("restic", "restic-cache")
    bench.run("restic", "init")
    bench.timed("first snapshot         restic backup", "restic", "backup", "--quiet", bench.source)
    bench.timed("unchanged snapshot     restic backup", "restic", "backup", "--quiet", bench.source)


def _git(bench: Bench) -> None:
    git = ("git", "-C", bench.source, f"--git-dir={bench.folder / 'git'}", "--work-tree=.")
    if not (bench.folder / "git").exists():
        bench.run(*git, "init", "--quiet")
        bench.run(*git, "add", ".")
        bench.run(*git, "-c", "user.name=b", "-c", "user.email=b@b", "commit", "--quiet", "-m", "all")
    bench.timed("unchanged              git status", *git, "status", "--porcelain")


def _read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _mount(bench: Bench) -> None:
    bench.run(*_artifactmount("snapshot", bench.stream, "stream"))
    bench.timed("mount, until it lists  artifactmount", *_artifactmount("mount", bench.mountpoint))
    try:
        version = bench.mountpoint / "files" / "v0"
        bench.timed("find, cold             mount", "find", f"{version}/")
        bench.timed("find, warm             mount", "find", f"{version}/")
        bench.time("sequential GiB, cold   mount", lambda: _read(bench.mountpoint / "stream" / "v0" / "blob"))
        bench.time("sequential GiB, warm   mount", lambda: _read(bench.mountpoint / "stream" / "v0" / "blob"))
    finally:
        bench.run(*_artifactmount("umount", bench.mountpoint))
    bench.timed("find, warm             ext4", "find", f"{bench.source}/")
    bench.time("sequential GiB, warm   ext4", lambda: _read(bench.stream / "blob"))


def main() -> None:
    """Make, run, print, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--stream", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("folder", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifactmount-bench-", dir=arguments.folder) as folder:
        bench = Bench(Path(folder))
        bench.make(arguments.files, arguments.size, arguments.stream)
        for number in range(arguments.rounds):
            _snapshots(bench)
            if shutil.which("restic"):
                _restic(bench)
            if shutil.which("git"):
                _git(bench)
            _mount(bench)
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        for what, seconds in sorted(bench.best.items()):
            print(f"{what:40} {seconds:8.3f} s")


if __name__ == "__main__":
    main()
