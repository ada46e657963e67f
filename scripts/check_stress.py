"""Snapshotters, deleters, a sweeper and readers on one artifact at once, each killed (-9) at random moments: nothing may be lost or wrong.

    .venv/bin/python scripts/check_stress.py [--seconds 300] [--versions N] [--seed N] [--s3 | PROJECT]

PROJECT: an empty folder or s3://bucket/prefix (default: a temporary folder; `--s3`: a bucket of a server started for this). Every tree is
made from a number that stands in it, so each version that is read says by itself what it must be. At the end `verify` is clean, every
version that was acknowledged and that nobody deleted is there and reads back right, and after `gc --grace 0s` the store holds exactly what
is live, the log and its checkpoints: of all keys, and in a folder also beside them. Exits with 1 and says what is wrong.
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
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifactmount.cache import Cache
from artifactmount.document import PROJECT_KEY
from artifactmount.log import CHECKPOINT_EVERY
from artifactmount.project import Project, open_store
from artifactmount.store.folder import FolderStore
from tests.store.servers import s3_server

ARTIFACT = "stressed"
_SHARED = 8  # contents that trees have in common: deduplicated, come back, and must survive
_GONE = (3, 4)  # not found, refused: somebody deleted it meanwhile
_KILLED = 0.3  # the share of the commands that are killed
_SECONDS = 1.0  # how long a command may take, before one of its kind has ended by itself
_EACH = ("snapshot", "delete", "gc", "download")  # what has to have ended well at least once
_LONGER = 60.0  # seconds that it may go on for that on a slow machine
_LATEST = 1.3  # of the time such a command took last: some kills come too late, so the whole of it is hit


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
    """The run: workers in threads, each command a process that may be killed.

    It ends after `seconds`, or `versions` snapshots, as soon as each kind of command has ended well once.
    """

    def __init__(self, project: str, folder: Path, seconds: float, versions: int) -> None:
        self.folder, self.until, self.limit = folder, time.monotonic() + seconds, versions
        self.environment = os.environ | {"ARTIFACTMOUNT_PROJECT": project, "XDG_STATE_HOME": str(folder / "state")}
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        self.usual: dict[str, float] = {}  # seconds that a command took last
        self.acknowledged: dict[str, int] = {}  # version -> tree
        self.doomed: set[str] = set()  # versions that somebody was told to delete

    def goes_on(self) -> bool:
        """Whether the workers are to go on."""
        now = time.monotonic()
        if all(self.done[command] for command in _EACH):
            return now < self.until and self.done["snapshot"] < self.limit
        return now < self.until + _LONGER

    def run(self, worker: str, *arguments: str, chance: random.Random | None = None, allowed: tuple[int, ...] = ()) -> str | None:
        """A command's output; None when it was killed (only with `chance`), or ended as it may."""
        environment = self.environment | {"ARTIFACTMOUNT_CACHE": str(self.folder / f"cache-{worker}")}
        command, begin = [sys.executable, "-m", "artifactmount", *arguments], time.monotonic()
        seconds = self.usual.get(arguments[0], _SECONDS) * _LATEST
        kill = chance.uniform(0, seconds) if chance is not None and chance.random() < _KILLED else None
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                out, err = process.communicate(timeout=kill)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self.done[f"{arguments[0]} killed"] += 1
                return None
        if process.returncode == 0:
            self.done[arguments[0]] += 1
            self.usual[arguments[0]] = time.monotonic() - begin
            return out
        if process.returncode in allowed:
            self.done[f"{arguments[0]} refused"] += 1
        else:
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
        while self.goes_on():
            write_tree(staging, tree)
            out = self.run(worker, "snapshot", str(staging), ARTIFACT, "--json", chance=chance, allowed=(4,))
            if out is not None:
                self.acknowledged[json.loads(out)["version"]] = tree
            if out is not None or chance.random() < 0.3:
                tree = chance.randrange(1 << 30)

    def deleter(self, worker: str, chance: random.Random) -> None:
        """Any versions but the newest few."""
        while self.goes_on():
            old = self.versions(worker)[:-2]
            if old:
                chosen = chance.sample(old, min(len(old), chance.choice((1, 1, 2, 5))))
                self.doomed.update(chosen)
                self.run(worker, "delete", *(f"{ARTIFACT}:{version}" for version in chosen), "--yes", chance=chance, allowed=_GONE)

    def sweeper(self, worker: str, chance: random.Random) -> None:
        """Takes everybody for dead after a second."""
        while self.goes_on():
            self.run(worker, "gc", ARTIFACT, "--grace", "1s", chance=chance, allowed=_GONE)
            time.sleep(chance.uniform(0, 1))

    def reader(self, worker: str, chance: random.Random) -> None:
        """Right bytes, or a version that is gone."""
        target = self.folder / f"read-{worker}"
        while self.goes_on():
            versions = self.versions(worker)
            if versions:
                self.read(worker, target, chance.choice(versions), chance)

    def read(self, worker: str, target: Path, version: str, chance: random.Random | None = None) -> int | None:
        """Download a version and look at every byte of it; the tree that it is, None when it could not be had."""
        shutil.rmtree(target, ignore_errors=True)
        if self.run(worker, "download", f"{ARTIFACT}:{version}", str(target), chance=chance, allowed=_GONE if chance else ()) is None:
            return None
        if wrong := wrong_in(target):
            self.problems.append(f"{version}: {wrong} is not what was snapshotted")
        return int((target / "tree").read_text())

    def at_the_end(self) -> None:
        """Everything that was promised is there and right, and nothing else is left."""
        self.problems += [f"no {command} ended well" for command in _EACH if not self.done[command]]
        self.run("end", "verify")
        self.run("end", "gc", ARTIFACT, "--grace", "0s")
        live = self.versions("end")
        self.problems += [f"{version} was acknowledged, and is gone" for version in self.acknowledged.keys() - self.doomed - set(live)]
        with ThreadPoolExecutor(2) as pool:
            trees = pool.map(lambda version: self.read("end", self.folder / f"read-{version}", version), live)
            for version, tree in zip(live, trees, strict=True):
                if tree is None or self.acknowledged.get(version, tree) != tree:
                    self.problems.append(f"{version} is tree {tree}, not {self.acknowledged.get(version)}")
        self.done["versions live at the end"] = len(live)
        self.problems += self.leftovers()

    def leftovers(self) -> list[str]:
        """What is not exactly what is live, asked of the store itself."""
        os.environ.update(self.environment)
        with closing(open_store(self.environment["ARTIFACTMOUNT_PROJECT"])) as store, closing(Cache(str(self.folder / "last"))) as cache:
            return not_live(Project(store, cache, str(self.folder / "state")))


def not_live(project: Project) -> list[str]:
    """Every key of the project that nothing accounts for, or that is missing; and what lies beside the keys of a folder."""
    state, artifact = project.refresh(ARTIFACT), project.artifact(ARTIFACT)
    keys = {item.key for item in project.store.list_keys("", limit=1_000_000)}
    needed = {PROJECT_KEY, *map(artifact.log_key, range(state.seq + 1)), *map(artifact.pack_key, state.packs)}
    checkpoints = {artifact.checkpoint_key(seq) for seq in range(CHECKPOINT_EVERY - 1, state.seq + 1, CHECKPOINT_EVERY)}
    problems = [f"not accounted for: {key}" for key in sorted(keys - needed - checkpoints)]
    problems += [f"missing: {key}" for key in sorted(needed - keys)]
    if isinstance(project.store, FolderStore):
        present = {str(path.relative_to(project.store.path)) for path in Path(project.store.path).rglob("*") if not path.is_dir()}
        problems += [f"no key, and left behind: {path}" for path in sorted(present - keys)]
    return problems


def check(project: str, folder: Path, options: argparse.Namespace) -> Stress:
    """The whole check."""
    stress = Stress(project, folder, options.seconds, options.versions)
    stress.run("end", "init")
    works: list[Callable[[str, random.Random], None]] = [stress.sweeper]
    works += [stress.snapshotter] * 4
    works += [stress.deleter] * 2
    works += [stress.reader] * 4
    with ThreadPoolExecutor(len(works)) as pool:
        ends = [pool.submit(work, f"worker-{number}", random.Random(options.seed + number)) for number, work in enumerate(works)]
    for end in ends:
        end.result()
    stress.at_the_end()
    return stress


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--versions", type=int, default=sys.maxsize, help="end after so many snapshots")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--s3", action="store_true", help="in a bucket of a server that is started for this")
    where.add_argument("project", nargs="?")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="artifactmount-stress-")))
        project = options.project or str(folder / "project")
        if options.s3:
            server = stack.enter_context(s3_server())
            os.environ.update(server.environment())
            project = f"s3://{server.make_bucket()}/stressed"
        stress = check(project, folder, options)
    for problem in stress.problems:
        print(problem)
    done = ", ".join(f"{count} {what}" for what, count in sorted(stress.done.items()))
    print(f"seed {options.seed}: {done}: " + (f"{len(stress.problems)} problems" if stress.problems else "all good"))
    return int(bool(stress.problems))


if __name__ == "__main__":
    sys.exit(main())
