"""Commands on a store that fails: a network that does so now and then, and a disk that is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from shutil import rmtree

import pytest

from artifactmount.cache import Cache
from artifactmount.project import Project
from artifactmount.store.folder import FolderStore
from tests import encryption
from tests.cli.program import Program, in_bucket
from tests.cli.trees import File, Folder, Tree, read, write
from tests.store.faults import Fault, Rule, proxy
from tests.store.servers import Server

KILO = 1000
_PAGE = 4096


def trees(size: int) -> Iterator[Tree]:
    """Versions that each keep half of what the one before had, so that its packs die in part when it is deleted."""
    numbers, tree = Random(3), dict[bytes, File]()
    for version in count():
        tree = {path: leaf for n, (path, leaf) in enumerate(sorted(tree.items())) if n % 2}
        tree |= {b"d/%d-%d" % (version, n): File(numbers.randbytes(size)) for n in range(8)}
        yield {b"d": Folder(), **tree}


def downloaded(program: Program, version: str) -> Tree:
    program.run("download", f"pets:{version}", f"out-{version}")
    return read(program.folder / f"out-{version}")


# -- a network -------------------------------------------------------------------------------------------------------------------------
NETWORKS = {
    "503 for one in ten": [(Fault.BUSY, 10, "", 0.0)],
    "answers cut short": [(Fault.CUT_BODY, 4, "GET", 0.0)],
    "answers lost": [(Fault.LOSE_ANSWER, 9, "", 0.0)],
    "all of it, and slow": [(Fault.BUSY, 10, "", 0.0), (Fault.CUT_BODY, 5, "GET", 0.0), (Fault.SLOW, 4, "", 0.2)],
}


@pytest.mark.parametrize("faults", NETWORKS.values(), ids=NETWORKS.keys())
def test_snapshots_and_deletions_over_a_network_that_fails_now_and_then(
    faults: list[tuple[Fault, int, str, float]], tmp_path: Path, s3_server: Server
) -> None:
    healthy = in_bucket(tmp_path / "healthy", s3_server)
    with proxy(s3_server.endpoint) as network:
        program = Program(tmp_path / "program", healthy.project, s3_server.environment(network.endpoint))
        program.quick = True
        rules = [network.add(Rule(fault, method, every=every, seconds=seconds)) for fault, every, method, seconds in faults]
        logged = [tree for tree, _ in zip(trees(50 * KILO), range(3), strict=False)]
        for number, tree in enumerate(logged):
            assert program.snapshot(write(tmp_path / "staging", tree), "pets", "--alias", f"a{number}") == f"v{number}"
        program.run("delete", "pets:v0", "--yes", "--delete-aliases")
        assert downloaded(program, "v2") == logged[2]
        assert all(rule.hurt for rule in rules)
    assert [version["version"] for version in healthy.run("ls", "pets", "--json").json] == ["v1", "v2"]
    assert [downloaded(healthy, version) for version in ("v1", "v2")] == logged[1:]
    assert healthy.run("verify").out.endswith("all good\n")


# -- a pack that is gone ---------------------------------------------------------------------------------------------------------------
def test_lost_metadata_is_told_with_all_it_takes_along_and_what_to_do(program: Program, tmp_path: Path) -> None:
    program.quick = True
    for number in range(4):
        program.run("snapshot", write(tmp_path / "pets", {b"f": File(b"%d" % number)}), "pets")
    keys = sorted(path for path in Path(program.project, "artifacts/pets/data").rglob("*") if path.is_file())
    assert len(keys) == 8
    keys[3].unlink()  # the metadata of v1
    rmtree(program.home / "cache")
    for arguments in (
        ("snapshot", tmp_path / "pets", "pets"),
        ("du", "pets"),
        ("expire", "pets", "--keep-last", "1", "--yes"),
        ("delete", "pets:v3", "--yes"),
        ("ls", "pets:v2"),
    ):
        said = program.run(*arguments, code=6).err
        assert said == (
            f"artifactmount: pets: the metadata of v1 is lost: {keys[3].relative_to(program.project)} is not in the store, and v1, v2, v3 "
            "cannot be read without it; put that key back from a backup or the bucket's old versions; or download what still reads (v0), "
            "then begin anew after `artifactmount delete pets --all`; `artifactmount verify pets` lists all that is wrong\n"
        )
    assert downloaded(program, "v0") == {b"f": File(b"0")}
    program.run("delete", "pets", "--all", "--yes")


def test_lost_content_is_told_with_the_version_that_stored_it(program: Program, tmp_path: Path) -> None:
    program.quick = True
    versions: list[Tree] = [{b"a": File(b"a"), b"b": File(b"b")}, {b"a": File(b"a")}]
    for tree in versions:
        program.run("snapshot", write(tmp_path / "pets", tree), "pets")
    key = "artifacts/pets/data/0000000000000000/00000000"
    (Path(program.project) / key).unlink()
    said = program.run("delete", "pets:v0", "--yes", code=6).err
    assert said.startswith(f"artifactmount: pets: content that v0 stored is lost: {key} is not in the store; put that key back")


# -- a full disk -----------------------------------------------------------------------------------------------------------------------
class SmallDisk:
    """A disk of 4 MiB, and a project in it. The program's cache and all else is elsewhere."""

    def __init__(self, path: Path, program: Program) -> None:
        self.path, self.program = path, program
        self._filler = path / "filler"

    @contextmanager
    def pages_left(self, pages: int) -> Iterator[None]:
        """Meanwhile there is only so much room."""
        status = os.statvfs(self.path)
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(descriptor, 0, status.f_bavail * status.f_frsize - pages * _PAGE)
            yield
        finally:
            os.close(descriptor)
            self._filler.unlink()

    def holds_what_is_live(self) -> bool:
        """Whether the packs in the store are exactly those that the state names."""
        cache = Cache(str(self.program.home / "cache"))
        try:
            state_directory, keyring = str(self.program.home / "home/state/artifactmount"), encryption.keyring(self.program.home)
            project = Project(FolderStore(self.program.project), cache, state_directory, keyring=keyring)
            artifact, state = project.artifact("pets"), project.refresh("pets")
            keys = {item.key for item in project.store.list_keys(f"{artifact.prefix}data/")}
            return keys == {artifact.pack_key(pack) for pack in state.packs}
        finally:
            cache.close()

    def live(self) -> list[str]:
        return [version["version"] for version in self.program.run("ls", "pets", "--json").json]

    def fails_full(self, *arguments: str | Path) -> bool:
        """Whether a command says that the disk is full; else it did what it should."""
        ran = self.program.inside(*arguments)
        if ran.code == 0:
            return False
        assert ran.code == 5 and ran.err.count("\n") == 1, (ran.code, ran.err)
        assert "No space left on device; free some space and run the command again" in ran.err
        return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"root may not mount here: {mounted.stderr.decode().strip()}")
    try:
        program = Program(tmp_path / "user", str(path / "project"))
        program.quick = True
        yield SmallDisk(path, program)
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.needs_root
def test_a_disk_that_fills_up_in_a_snapshot_or_a_deletion_loses_nothing(small_disk: SmallDisk, tmp_path: Path) -> None:
    """At every depth: with one page of room more each time, until there is enough."""
    program, staging, logged = small_disk.program, tmp_path / "staging", dict[str, Tree]()
    made = trees(4 * KILO)
    for tree in (next(made), next(made)):
        logged[program.snapshot(write(staging, tree), "pets")] = tree
    failed, enough = {"snapshot": 0, "delete": 0}, set[str]()
    for pages in count():
        write(staging, next_tree := next(made))
        for command in ("snapshot", "delete"):
            oldest = small_disk.live()[0]
            arguments = ("snapshot", staging, "pets") if command == "snapshot" else ("delete", f"pets:{oldest}", "--yes")
            before = small_disk.live()
            with small_disk.pages_left(pages):
                full = small_disk.fails_full(*arguments)
                assert not full or small_disk.live() == before
                assert program.run("verify").out.endswith("all good\n")
            if full:
                failed[command] += 1
                program.run(*arguments)
            else:
                enough.add(command)
            assert small_disk.holds_what_is_live(), f"{command} with {pages} pages left"
        del logged[oldest]
        logged[small_disk.live()[-1]] = next_tree
        assert small_disk.live() == list(logged)
        assert downloaded(program, small_disk.live()[-1]) == next_tree
        if enough == {"snapshot", "delete"}:
            break
    assert failed["snapshot"] > 5 and failed["delete"] > 5
    assert [downloaded(program, version) for version in list(logged)[:-1]] == list(logged.values())[:-1]


@pytest.mark.needs_root
@pytest.mark.parametrize("what", [("pets:v1",), ("pets", "--all")], ids=["the newest", "all"])
def test_a_deletion_that_writes_nothing_anew_needs_room_for_its_entry_only(
    small_disk: SmallDisk, tmp_path: Path, what: tuple[str, ...]
) -> None:
    """One page; with none it says so, and nothing happened."""
    program, made = small_disk.program, trees(4 * KILO)
    for _ in range(2):
        program.snapshot(write(tmp_path / "staging", next(made)), "pets")
    with small_disk.pages_left(0):
        assert small_disk.fails_full("delete", *what, "--yes")
        assert small_disk.live() == ["v0", "v1"]
        assert program.run("verify").out.endswith("all good\n")
    with small_disk.pages_left(1):
        program.run("delete", *what, "--yes")
        assert small_disk.holds_what_is_live()
        program.run("verify")
