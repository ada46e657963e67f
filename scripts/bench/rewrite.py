"""What it costs to delete a version of many small files: 1 % scattered change, the old version deleted while somebody reads the new one.

    .venv/bin/python scripts/bench/rewrite.py [--files 100000] [--size 10240] [--changed 0.01] [--limit 1.2] [DIR]

Small files share packs, so the content of the changed ones lies scattered over nearly all packs, and the deletion writes those anew.
Printed: exact bytes in the store before and after, how long it took beside the first snapshot, and what the reader saw. The reader has a
mount and no place to cache, and reads random files of the new version, each compared with its source. Everything is made in DIR (default:
a temporary folder), which needs three times the files' bytes, and removed. Exits with 1 when the reader saw an error or a wrong byte, or
when the content that left the store is not exactly what the changed files had; with `--limit` also when the deletion took longer than so
many times the first snapshot.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PER_FOLDER = 100


class Bench:
    """One folder of files, a project, and somebody who reads it."""

    def __init__(self, folder: Path, files: int, size: int) -> None:
        self.source, self.project, self.mountpoint = folder / "source", folder / "project", folder / "mnt"
        self.files, self.size = files, size
        self.mountpoint.mkdir()
        (folder / "no cache").touch()
        self._nowhere = folder / "no cache"
        self._numbers = random.Random(1)
        self._environment = os.environ | {
            "ARTIFACTMOUNT_PROJECT": str(self.project),
            "ARTIFACTMOUNT_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def path(self, number: int) -> str:
        """A file's path in its version."""
        return f"{number // _PER_FOLDER:05d}/{number % _PER_FOLDER:03d}.bin"

    def write(self, numbers: range | list[int]) -> None:
        """Give these files content that nothing else has."""
        for number in numbers:
            path = self.source / self.path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._numbers.randbytes(self.size))

    def change(self, share: float) -> int:
        """New content for a share of the files, anywhere; how many they are."""
        chosen = self._numbers.sample(range(self.files), round(self.files * share))
        self.write(chosen)
        return len(chosen)

    def run(self, *arguments: str | Path) -> str:
        """A command's output; its failure is ours."""
        command = [sys.executable, "-m", "artifactmount", *arguments]
        return subprocess.run(command, env=self._environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def timed(self, *arguments: str | Path) -> tuple[float, Any]:
        """Seconds, and what the command says as JSON."""
        begin = time.perf_counter()
        said = self.run(*arguments, "--json")
        return time.perf_counter() - begin, json.loads(said)

    def stored(self) -> tuple[int, int]:
        """Packs in the store, and their bytes, by the store's own listing."""
        sizes = [path.stat().st_size for path in self.project.glob("artifacts/files/data/*/*")]
        return len(sizes), sum(sizes)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Meanwhile somebody reads v1."""
        self.run("--cache", self._nowhere, "mount", self.mountpoint)
        try:
            with Reader(self) as reader:
                yield reader
        finally:
            self.run("umount", self.mountpoint)


class Reader:
    """Reads random files of v1 through the mount until the block ends."""

    def __init__(self, bench: Bench) -> None:
        self.files, self.slowest = 0, 0.0
        self.wrong: list[str] = []
        self._bench, self._done = bench, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        numbers = random.Random(2)
        while not self._done.is_set():
            path = self._bench.path(numbers.randrange(self._bench.files))
            begin = time.perf_counter()
            try:
                content = (self._bench.mountpoint / "files/v1" / path).read_bytes()
            except OSError as error:
                self.wrong.append(f"{path}: {error}")
                continue
            self.slowest = max(self.slowest, time.perf_counter() - begin)
            self.files += 1
            if content != (self._bench.source / path).read_bytes():
                self.wrong.append(f"{path}: wrong bytes")


def main() -> int:
    """Make, run, print, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=10_240, help="bytes of each")
    parser.add_argument("--changed", type=float, default=0.01, help="share of the files")
    parser.add_argument(
        "--limit", type=float, help="how many times the first snapshot the deletion may take (default: any; timings are no tests)"
    )
    parser.add_argument("folder", nargs="?")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifactmount-bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options.files, options.size)
        bench.write(range(options.files))
        os.sync()  # writing the sources is not what is timed
        first, _ = bench.timed("snapshot", bench.source, "files")
        changed = bench.change(options.changed)
        second, _ = bench.timed("snapshot", bench.source, "files")
        packs, before = bench.stored()
        with bench.read() as reader:
            seconds, done = bench.timed("delete", "files:v0", "--yes")
            read_meanwhile = reader.files
        left, after = bench.stored()
        live = sum(version["stored"] for version in json.loads(bench.run("du", "files", "--json")))
        verified = bench.run("verify").strip()
    print(f"{options.files} files of {options.size} bytes; first snapshot {first:.1f} s; {changed} changed, second snapshot {second:.1f} s")
    print(f"before: {packs} packs, {before} bytes; after: {left} packs, {after} bytes; removed {before - after} bytes")
    print(f"the changed files' old content is {changed * options.size} bytes; it freed {done['freed']}; du says {live} are stored")
    print(f"delete: {seconds:.1f} s, {seconds / first:.2f} × the first snapshot, {done['rewritten']} packs written anew")
    print(
        f"meanwhile {read_meanwhile} files were read, the slowest in {reader.slowest:.2f} s; {len(reader.wrong)} errors {reader.wrong[:3]}"
    )
    print(verified)
    problems = [f"the reader: {wrong}" for wrong in reader.wrong[:3]]
    content, old = options.files * options.size, changed * options.size
    if (done["freed"], done["freed_stored"], live) != (old, old, content):  # random bytes, so compression changes nothing
        problems.append(f"freed {done['freed']}, as stored {done['freed_stored']}, and {live} are left; not {old}, {old} and {content}")
    if before - after < old:
        problems.append(f"by its listing the store lost {before - after} bytes, less than {old}")
    if options.limit is not None and seconds > options.limit * first:
        problems.append(f"the deletion took {seconds / first:.2f} × the first snapshot, more than {options.limit}")
    for problem in problems:
        print(f"WRONG: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
