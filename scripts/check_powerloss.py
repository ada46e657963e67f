"""Power cuts at every write: what is left of a folder project and of the cache is right, and the work goes on from there.

    .venv/bin/python scripts/check_powerloss.py [--mixed 3] [--every 1] [--seed N] [--ignore files|folders] [DIR]

The commands of a user (snapshots, an alias, deletions that rewrite packs and that do not) are recorded by strace, call by call. After each
call a power cut is imagined (tests/disk.py says what it may take): all that was not synced is lost; nothing is; only content; only names;
and `--mixed` times some of it, chosen by the seed. In each state that differs from those before: every version that a command had
acknowledged is there and reads back right, through the cache that was left; the command under way, run again, ends well; so does another
snapshot; then, for a machine that knows nothing, `verify` is clean, each version reads back right, and after `gc --grace 0s` the store
holds exactly what is live. The cache's segments, which a folder project does not use, are recorded apart: whatever is left of them gives
right bytes or none, and takes new ones in.

`--ignore` plays a program that never syncs files, or folders: this must then find something wrong, or it would show nothing. Everything is
made in DIR (default: in memory, where there is /dev/shm) and removed. Exits with 1 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifactmount.cache import Cache
from artifactmount.digest import chunk_digest
from artifactmount.download import download
from artifactmount.garbage import collect
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.store.folder import FolderStore
from artifactmount.verify import verify
from tests.cli.program import Program, check
from tests.cli.trees import File, Folder, Tree, read, write
from tests.disk import Disk, Event, Loss, Made, Recorder, Sync, restore
from tests.disk import Tree as Left

ARTIFACT = "cut"
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - folders of our own are made in it
_CACHE_BUDGET = 2 << 20
_ROUNDS = 3  # of filling the cache; the second begins to evict what the first put in
_PLAIN_CUTS = ((Loss.ALL, Loss.ALL), (Loss.NOTHING, Loss.NOTHING), (Loss.ALL, Loss.NOTHING), (Loss.NOTHING, Loss.ALL))
_FILL = "import sys; from scripts.check_powerloss import fill_cache; fill_cache(sys.argv[1], int(sys.argv[2]))"


class Wrong(Exception):  # noqa: N818 - what this program finds
    """Something that must not be."""


@dataclass(frozen=True, slots=True)
class Act:
    """A command of the user: what the folder is made before it (None: it stays), the command, and the versions that there are after it."""

    tree: Tree | None
    arguments: tuple[str, ...]
    after: dict[str, Tree]


def acts() -> list[Act]:
    """A short life with each kind of command that writes; packs are shared, die whole, and die in part."""
    numbers = random.Random(1)
    first: Tree = {b"a": Folder(), b"large": File(numbers.randbytes(60_000))}
    first |= {b"a/%d" % n: File(numbers.randbytes(3000)) for n in range(4)}
    second = first | {b"a/1": File(numbers.randbytes(3000)), b"new": File(numbers.randbytes(5000))}
    third = {path: leaf for path, leaf in second.items() if path != b"a/2"} | {b"a/3": File(b"small")}
    fourth = third | {b"large": File(numbers.randbytes(50_000))}
    snapshot = ("snapshot", "{staging}", ARTIFACT)
    two = {"v0": first, "v1": second}
    return [
        Act(first, snapshot, {"v0": first}),
        Act(second, snapshot, two),
        Act(None, ("alias", f"{ARTIFACT}:v0", "best"), two),
        Act(third, (*snapshot, "--note", "third"), two | {"v2": third}),
        Act(None, ("delete", f"{ARTIFACT}:v0", "--yes", "--delete-aliases"), {"v1": second, "v2": third}),
        Act(fourth, snapshot, {"v1": second, "v2": third, "v3": fourth}),
        Act(None, ("delete", f"{ARTIFACT}:v1..v2", "--yes"), {"v3": fourth}),
    ]


class Cuts:
    """The states that power cuts may leave of recorded events, each once."""

    def __init__(self, mixed: int, every: int, numbers: random.Random, ignored: str | None) -> None:
        self._mixed, self._every, self._numbers, self._ignored = mixed, every, numbers, ignored
        self.moments = self.states = 0

    def of(self, events: list[Event], ends: list[int]) -> Iterator[tuple[int, bool, Left]]:
        """Which program was under way, whether it had ended, and what is left. `ends`: how many events there were after each program."""
        disk, folders, seen = Disk(), {0}, set[bytes]()
        for n, event in enumerate(events, 1):
            if isinstance(event, Made) and event.folder:
                folders.add(event.inode)
            ignored = {"files": event.inode not in folders, "folders": event.inode in folders}.get(self._ignored or "", False)
            if not (isinstance(event, Sync) and ignored):
                disk.advance(event)
            if n % self._every and n not in ends:
                continue
            self.moments += 1
            program = sum(end < n for end in ends)
            cuts = [*_PLAIN_CUTS, *((Loss.SOME, Loss.SOME) for _ in range(self._mixed))]
            for content, names in cuts:
                left = disk.crash(content, names, self._numbers)
                identity = _identity(left, program, n == ends[program])
                if identity not in seen:
                    seen.add(identity)
                    self.states += 1
                    yield program, n == ends[program], left


def _identity(left: Left, program: int, ended: bool) -> bytes:
    digest = blake2b(f"{program} {ended}".encode())
    for path, content in sorted(left.items()):
        digest.update(b"%d %s %d " % (len(path), path, -1 if content is None else len(content)) + (content or b""))
    return digest.digest()


def apart(work: Callable[[], None]) -> str:
    """Do it in a fork, so that neither open files nor a SIGBUS outlive it; what went wrong, or nothing."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001 - all of it is told to the parent
            os.write(write_end, traceback.format_exc()[-60_000:].encode("utf-8", "backslashreplace"))
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said or (f"ended with {status}" if status else "")


# -- a project -------------------------------------------------------------------------------------------------------------------------
class Machine:
    """One user's machine: project, cache and state directory on the disk that is cut off, everything else beside it."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.staging, self.folder = folder / "machine", folder / "staging", folder
        self.disk.mkdir()
        variables = {"ARTIFACTMOUNT_CACHE": str(self.disk / "cache"), "XDG_STATE_HOME": str(self.disk / "state")}
        self.user = Program(folder, str(self.disk / "project"), variables)

    def arguments(self, act: Act) -> list[str]:
        """The command, after the folder was made ready for it."""
        if act.tree is not None:
            write(self.staging, act.tree)
        return [argument.format(staging=self.staging) for argument in act.arguments]

    def record(self) -> tuple[list[Event], list[int]]:
        """What the disk was told by all acts, and how much of it after each of them."""
        recorder, ends = Recorder(self.disk), list[int]()
        for act in acts():
            command = [sys.executable, "-m", "artifactmount", *self.arguments(act)]
            recorder.run(command, self.user.environment, self.folder / "trace")
            ends.append(len(recorder.events))
        return recorder.events, ends

    def check(self, number: int, ended: bool) -> None:
        """All that must hold of what is on the disk now, where act `number` was under way, or had just ended."""
        act = acts()[number]
        before = acts()[number - 1].after if number else {}
        with self.opened("machine") as project:
            found = versions(project)
        if found not in ([act.after] if ended else [before, act.after]):
            raise Wrong(f"after the cut: {sorted(found)} is not what was promised")
        check(self.user.inside(*self.arguments(act)), 0)
        last = next(act.tree for act in reversed(acts()[: number + 1]) if act.tree is not None)
        another = last | {b"after the cut": File(b"another")}
        said = check(self.user.inside("snapshot", write(self.staging, another), ARTIFACT, "--json"), 0)
        expected = act.after | {said.json["version"]: another}
        with self.opened("machine") as project:
            if len(expected) == len(act.after) or (found := versions(project)) != expected:
                raise Wrong(f"after another snapshot: {sorted(found)} is not right")
        with self.opened("other") as project:
            collect(project, ARTIFACT, 0)
            if wrong := verify(project, None).problems:
                raise Wrong(f"for another machine: {wrong}")
            if (found := versions(project)) != expected:
                raise Wrong(f"for another machine: {sorted(found)} is not right")
            check_keys(project)

    @contextmanager
    def opened(self, which: str) -> Iterator[Project]:
        """The project, with the cache and the state directory of the machine that was cut off, or of another one."""
        place = self.folder / which
        with closing(Cache(str(place / "cache"))) as cache:
            yield Project(FolderStore(self.user.project), cache, str(place / "state/artifactmount"), create=True)


def versions(project: Project) -> dict[str, Tree]:
    """All versions, read back."""
    found: dict[str, Tree] = {}
    for number in project.refresh(ARTIFACT).versions:
        with tempfile.TemporaryDirectory(dir=_MEMORY) as target:
            download(project, parse(f"{ARTIFACT}:v{number}"), target)
            found[f"v{number}"] = read(Path(target))
    return found


def check_keys(project: Project) -> None:
    """That the store holds the live packs, and no other."""
    artifact, state = project.artifact(ARTIFACT), project.refresh(ARTIFACT)
    keys = {item.key for item in project.store.list_keys(f"{artifact.prefix}data/", limit=100_000)}
    if keys != {artifact.pack_key(pack) for pack in state.packs}:
        raise Wrong(f"not exactly what is live: {sorted(keys)}")


def check_project(folder: Path, cuts: Cuts) -> str:
    """Cut a project's life at all moments; what is wrong, or nothing."""
    machine = Machine(folder)
    events, ends = machine.record()
    for number, ended, left in cuts.of(events, ends):
        restore(machine.disk, left)
        shutil.rmtree(folder / "other", ignore_errors=True)
        if wrong := apart(lambda: machine.check(number, ended)):  # noqa: B023 - called at once
            return f"cut {cuts.moments}, in {acts()[number].arguments[0]}: {wrong}"
    return ""


# -- the cache -------------------------------------------------------------------------------------------------------------------------
def chunks(number: int) -> list[tuple[bytes, bytes]]:
    """What is put into the cache in a round: (digest, content)."""
    numbers = random.Random(number)
    contents = [numbers.randbytes(numbers.choice((100, 20_000, 130_000))) for _ in range(12)]
    return [(chunk_digest(content), content) for content in contents]


def fill_cache(path: str, number: int) -> None:
    """A round of what a mount does to its cache: chunks, a state, a run."""
    with closing(Cache(path, _CACHE_BUDGET)) as cache:
        items = chunks(number)
        for start in range(0, len(items), 3):
            cache.put_chunks(items[start : start + 3])
        cache.state_put(b"state", b"%d" % number * 1000)
        cache.put_file("runs", str(number), [items[0][1], items[1][1]])


def look_into_cache(path: str) -> None:
    """That a cache, whatever happened to it, holds what is right or nothing, and takes in what is new. Raises Wrong."""
    for _ in range(2):  # what was damaged may be thrown away by the first to open it
        with closing(Cache(path, _CACHE_BUDGET)) as cache:
            for number in range(_ROUNDS):
                items = chunks(number)
                wrong = [digest for digest, content in items if cache.get_chunk(digest) not in (None, content)]
                run = cache.file_path("runs", str(number))
                if wrong or (run is not None and Path(run).read_bytes() != items[0][1] + items[1][1]):
                    raise Wrong(f"round {number}: {wrong or run}")
            if cache.state_get(b"state") not in (None, *(b"%d" % n * 1000 for n in range(_ROUNDS + 1))):
                raise Wrong("a state")
    fill_cache(path, _ROUNDS)
    with closing(Cache(path, _CACHE_BUDGET)) as cache:
        if any(cache.get_chunk(digest) != content for digest, content in chunks(_ROUNDS)[-3:]):
            raise Wrong("it takes nothing in")


def check_cache(folder: Path, cuts: Cuts) -> str:
    """Cut the filling of a cache at all moments; what is wrong, or nothing."""
    disk = folder / "disk"
    disk.mkdir()
    recorder, ends = Recorder(disk), list[int]()
    for number in range(_ROUNDS):
        command: list[str | Path] = [sys.executable, "-c", _FILL, disk / "cache", str(number)]
        recorder.run(command, os.environ | {"PYTHONPATH": sys.path[0]}, folder / "trace")
        ends.append(len(recorder.events))
    for number, _, left in cuts.of(recorder.events, ends):
        restore(disk, left)
        if wrong := apart(lambda: look_into_cache(str(disk / "cache"))):
            return f"cut {cuts.moments}, in round {number} of the cache: {wrong}"
    return ""


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mixed", type=int, default=3, help="states of which only some is lost, for each moment")
    parser.add_argument("--every", type=int, default=1, help="cut after every so many calls only")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--ignore", choices=("files", "folders"), help="take no notice of syncs of these")
    parser.add_argument("directory", nargs="?", default=_MEMORY, metavar="DIR")
    options = parser.parse_args()
    for what, work in (("project", check_project), ("cache", check_cache)):
        cuts, begin = Cuts(options.mixed, options.every, random.Random(options.seed), options.ignore), time.monotonic()
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="artifactmount-powerloss-") as name:
            wrong = work(Path(name), cuts)
        took = time.monotonic() - begin
        print(f"{what}: {cuts.moments} moments, {cuts.states} states in {took:.0f} s, seed {options.seed}: {wrong or 'all good'}")
        if wrong:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
