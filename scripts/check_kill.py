"""Snapshots killed (-9) at random moments: after each kill `verify` finds all good, and in the end a snapshot completes.

    .venv/bin/python scripts/check_kill.py [--kills 100] [--seed N] [URL]

The project is made anew below URL (`s3://bucket/prefix`, with the usual AWS variables, or a folder); default: a temporary folder. Prints a
summary; exits with 1 on any failure. What it made in a folder is removed; what it made in a bucket is left, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

_MARGIN = 1.1  # of the time an undisturbed snapshot takes: some kills come too late, so the whole of it is hit
_SECONDS = 300


class Failure(Exception):  # noqa: N818 - what this program finds
    """Something that must not be."""


class Check:
    """One project, and a folder that is snapshotted into it again and again."""

    def __init__(self, home: Path, url: str, seed: int) -> None:
        self.home, self.url, self.random = home, url, random.Random(seed)
        self.staging = home / "staging"
        self.staging.mkdir()
        self.environment = {
            **os.environ,
            "ARTIFACTMOUNT_PROJECT": url,
            "ARTIFACTMOUNT_CACHE": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
        }
        self.seen = Counter[str]()
        self.known: list[dict[str, Any]] = []  # what `versions` said last

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [sys.executable, "-m", "artifactmount", *arguments]
        return subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str | Path) -> str:
        """Its output. Raises Failure when it fails."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=_SECONDS)
        if process.returncode:
            raise Failure(
                f"{' '.join(map(str, arguments))}: exit code {process.returncode}: {(out + err).decode(errors='replace').strip()}"
            )
        return out.decode()

    def edit(self) -> None:
        """What a user would do between two snapshots: a few small files, one of some MB, a removal."""
        for name in self.random.sample([f"{n:02d}" for n in range(40)], 12):
            path = self.staging / name
            if path.exists() and self.random.random() < 0.3:
                path.unlink()
            else:
                path.write_bytes(self.random.randbytes(self.random.choice((0, 100, 20_000, 300_000))))
        (self.staging / "large").write_bytes(self.random.randbytes(3_000_000))

    def versions(self) -> list[dict[str, Any]]:
        """What never changes of each version: all but its aliases."""
        return [{**version, "aliases": None} for version in json.loads(self.run("ls", "killed", "--json"))]

    def kill_one(self, seconds: float) -> None:
        """Start a snapshot, kill it after up to so long, and look at what is left."""
        before = self.known or self.versions()
        delay = self.random.uniform(0, seconds)
        self.edit()
        with self.start("snapshot", self.staging, "killed") as process:
            try:
                process.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        if process.returncode > 0:
            raise Failure(f"a snapshot that was not killed in time failed with {process.returncode}")
        self.run("verify")
        after = self.known = self.versions()
        if after[: len(before)] != before:
            raise Failure(f"versions changed: {before} became {after}")
        if [version["version"] for version in after] != [f"v{n}" for n in range(len(after))] or len(after) - len(before) not in (0, 1):
            raise Failure(f"versions are missing: {[version['version'] for version in after]}")
        if process.returncode == 0:
            self.seen["too late"] += 1
        else:
            self.seen["after its commit" if len(after) > len(before) else "before its commit"] += 1

    def complete(self, options: tuple[str, ...] = ()) -> None:
        """A snapshot that is let alone, and what it made, read back."""
        said = json.loads(self.run(*options, "snapshot", self.staging, "killed", "--json"))
        with tempfile.TemporaryDirectory(dir=self.home) as out:
            self.run(*options, "download", f"killed:{said['version']}", out)
            there = {path.name: path.read_bytes() for path in Path(out).iterdir()}
        if there != {path.name: path.read_bytes() for path in self.staging.iterdir()}:
            raise Failure(f"{said['version']} is not what was snapshotted")
        self.run("verify")


def check(home: Path, url: str, kills: int, seed: int) -> Counter[str]:
    """The whole check: how many kills came when. Raises Failure."""
    made = Check(home, url, seed)
    made.run("init")
    for _ in range(2):  # the first one may find nothing in the page cache
        made.edit()
        begin = time.monotonic()
        made.run("snapshot", made.staging, "killed")
        seconds = time.monotonic() - begin
    for n in range(kills):
        try:
            made.kill_one(seconds * _MARGIN)
        except Failure as failure:
            raise Failure(f"kill {n} (seed {seed}): {failure}") from failure
    made.complete()
    made.edit()
    made.complete(("--cache", str(home / "another cache")))
    made.seen["versions"] = len(made.versions())
    return made.seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help="where to make the project")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check-kill-") as folder:
        home = Path(folder)
        url = f"{options.url.rstrip('/')}/check-kill-{secrets.token_hex(4)}" if options.url else str(home / "project")
        begin = time.monotonic()
        try:
            seen = check(home, url, options.kills, options.seed)
        except Failure as failure:
            print(f"FAILED: {failure}\nthe project: {url}", file=sys.stderr)
            return 1
        took = time.monotonic() - begin
    moments = ", ".join(f"{seen[moment]} {moment}" for moment in ("before its commit", "after its commit", "too late"))
    print(f"{options.kills} kills in {took:.0f} s, seed {options.seed}: {moments}; {seen['versions']} versions, all good: {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
