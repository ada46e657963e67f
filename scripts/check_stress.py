"""Snapshotters, deleters, a sweeper and readers on one artifact at once, each killed (-9) at random moments: nothing may be lost or wrong.

    .venv/bin/python scripts/check_stress.py [--seconds 300] [--seed N] [PROJECT]

PROJECT: an empty folder or s3://bucket/prefix (default: a temporary folder). Every tree is made from a number that stands in it, so each
version that is read says by itself what it must be. At the end `verify` is clean, every live version reads back right, and after
`gc --grace 0s` the store holds exactly what is live. Exits with 1 and says what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ARTIFACT = "stressed"
_SHARED = 8  # contents that trees have in common: deduplicated, come back, and must survive
_GONE = (3, 4)  # not found, refused: somebody deleted it meanwhile


def content(tree: int, name: int) -> bytes:
    """A file of a tree: sometimes its own, sometimes one that other trees have, too."""
    chance = random.Random(tree * 1000 + name)
    source = random.Random(chance.randrange(_SHARED)) if chance.random() < 0.6 else chance
    return source.randbytes(source.choice((0, 100, 5_000, 40_000, 1_300_000)))


def write_tree(folder: Path, tree: int) -> None:
    """Make a folder the tree of this number."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "tree").write_text(str(tree))
    for name in range(random.Random(tree).randrange(3, 12)):
        (folder / f"d{name % 3}").mkdir(exist_ok=True)
        (folder / f"d{name % 3}" / str(name)).write_bytes(content(tree, name))


def wrong_in(folder: Path) -> str | None:
    """What is wrong in a downloaded tree."""
    tree = int((folder / "tree").read_text())
    expected = {f"d{name % 3}/{name}" for name in range(random.Random(tree).randrange(3, 12))} | {"tree"}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    if found != expected:
        return f"tree {tree}: {sorted(found ^ expected)}"
    return next((path for path in expected - {"tree"} if (folder / path).read_bytes() != content(tree, int(Path(path).name))), None)


class Stress:
    """The run: workers in threads, each command a process that may be killed."""

    def __init__(self, project: str, folder: Path, seed: int, seconds: float) -> None:
        self.folder, self.seed, self.until = folder, seed, time.monotonic() + seconds
        self.environment = os.environ | {"ARTIFACTMOUNT_PROJECT": project, "XDG_STATE_HOME": str(folder / "state")}
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()

    def run(self, worker: str, *arguments: str, kill: float | None = None, allowed: tuple[int, ...] = ()) -> str | None:
        """A command's output; None when it was killed, or ended as it may."""
        environment = self.environment | {"ARTIFACTMOUNT_CACHE": str(self.folder / f"cache-{worker}")}
        command = [sys.executable, "-m", "artifactmount", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=kill)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.done["killed"] += 1
            return None
        if process.returncode == 0:
            self.done[arguments[0]] += 1
            return out
        if process.returncode not in allowed:
            self.problems.append(f"{' '.join(arguments)}: exit {process.returncode}: {err.strip()}")
        return None

    def versions(self, worker: str) -> list[str]:
        """The live versions now."""
        out = self.run(worker, "ls", ARTIFACT, "--json", allowed=_GONE)
        return [version["version"] for version in json.loads(out)] if out else []

    def snapshotter(self, worker: str, chance: random.Random) -> None:
        """A new tree each time; after a kill mostly the same one again, so that it is resumed."""
        staging = self.folder / f"staging-{worker}"
        tree = chance.randrange(1 << 30)
        while time.monotonic() < self.until:
            write_tree(staging, tree)
            kill = chance.uniform(0.1, 1.2) if chance.random() < 0.3 else None
            if self.run(worker, "snapshot", str(staging), ARTIFACT, kill=kill, allowed=(4,)) is not None or chance.random() < 0.3:
                tree = chance.randrange(1 << 30)

    def deleter(self, worker: str, chance: random.Random) -> None:
        """Any versions but the newest few."""
        while time.monotonic() < self.until:
            old = self.versions(worker)[:-3]
            if len(old) > 3:
                chosen = [f"{ARTIFACT}:{version}" for version in chance.sample(old, min(len(old), chance.choice((1, 1, 2, 5))))]
                kill = chance.uniform(0.1, 1.0) if chance.random() < 0.3 else None
                self.run(worker, "delete", *chosen, "--yes", kill=kill, allowed=_GONE)

    def sweeper(self, worker: str, chance: random.Random) -> None:
        """Takes everybody for dead after a second."""
        while time.monotonic() < self.until:
            self.run(worker, "gc", ARTIFACT, "--grace", "1s", kill=chance.uniform(0.1, 2) if chance.random() < 0.3 else None, allowed=_GONE)
            time.sleep(chance.uniform(0, 1))

    def reader(self, worker: str, chance: random.Random) -> None:
        """Right bytes, or a version that is gone."""
        target = self.folder / f"read-{worker}"
        while time.monotonic() < self.until:
            versions = self.versions(worker)
            if versions:
                self.read(worker, target, chance.choice(versions))

    def read(self, worker: str, target: Path, version: str) -> bool:
        """Download a version and look at every byte of it."""
        shutil.rmtree(target, ignore_errors=True)
        if self.run(worker, "download", f"{ARTIFACT}:{version}", str(target), allowed=_GONE) is None:
            return False
        if wrong := wrong_in(target):
            self.problems.append(f"{version}: {wrong} is not what was snapshotted")
        return True

    def at_the_end(self) -> None:
        """Everything live reads back right, and nothing else is left."""
        self.run("end", "gc", ARTIFACT, "--grace", "0s")
        self.run("end", "verify")
        for version in self.versions("end"):
            if not self.read("end", self.folder / "read-end", version):
                self.problems.append(f"{version} cannot be read")
        self.problems += self.leftovers()

    def leftovers(self) -> list[str]:
        """Keys of content that are not live, asked of the store itself."""
        from artifactmount.cache import Cache
        from artifactmount.project import Project, open_store

        os.environ.update(self.environment)
        store = open_store(self.environment["ARTIFACTMOUNT_PROJECT"])
        project = Project(store, Cache(str(self.folder / "cache-end")), str(self.folder / "state"))
        state, artifact = project.refresh(ARTIFACT), project.artifact(ARTIFACT)
        keys = {item.key for item in store.list_keys(f"{artifact.prefix}data/", limit=1_000_000)}
        return [f"not exactly what is live: {key}" for key in keys ^ {artifact.pack_key(pack) for pack in state.packs}]


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("project", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifactmount-stress-") as name:
        folder = Path(name)
        stress = Stress(arguments.project or str(folder / "project"), folder, arguments.seed, arguments.seconds)
        stress.run("end", "init")
        works: list[Callable[[str, random.Random], None]] = [stress.sweeper]
        works += [stress.snapshotter] * 4
        works += [stress.deleter] * 2
        works += [stress.reader] * 4
        threads = [
            threading.Thread(target=work, args=(f"worker-{number}", random.Random(arguments.seed + number)))
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stress.at_the_end()
    for problem in stress.problems:
        print(problem)
    done = ", ".join(f"{count} {what}" for what, count in sorted(stress.done.items()))
    print(f"seed {arguments.seed}: {done}: " + (f"{len(stress.problems)} problems" if stress.problems else "all good"))
    return int(bool(stress.problems))


if __name__ == "__main__":
    sys.exit(main())
