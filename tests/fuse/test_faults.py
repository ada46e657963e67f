"""Real mounts of a bucket behind a network that fails, and over a cache that is full or taken away: right bytes, and recovery by itself.

How long a store may hang before reads fail is not waited for here: scripts/check_outage.py measures it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from tests.fuse.mounts import Mount, Project, mounted, wait_until, write
from tests.store.faults import Fault, Proxy, Rule, proxy
from tests.store.servers import Server

pytestmark = pytest.mark.needs_fuse

KILO = 1000
REFUSED_SECONDS = 15  # docs/mount.md says 10; two cores may have more to do


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Small files that share packs, and two that have packs of their own: 40 MB, more than the daemon keeps in memory."""
    numbers = random.Random(11)
    small = {f"d{n % 3}/{n:02d}": numbers.randbytes(500 * KILO) for n in range(40)}
    return small | {f"large{n}": numbers.randbytes(10_000 * KILO) for n in range(2)}


@pytest.fixture(scope="module")
def writer(s3_server: Server, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in a bucket, with these files as `animals:v0`; its writer is never disturbed."""
    root = tmp_path_factory.mktemp("faults")
    project = Project(root, f"s3://{s3_server.make_bucket()}/some/project", s3_server.environment())
    project.do("init")
    project.snapshot(write(root / "staging", files), "animals")
    project.snapshot(write(root / "few", {name: files[name] for name in ("d0/00", "d1/01", "large0")}), "few")
    return project


@pytest.fixture
def network(s3_server: Server) -> Iterator[Proxy]:
    """What lies between a reader and the server."""
    with proxy(s3_server.endpoint) as made:
        yield made


def reader(root: Path, writer: Project, server: Server, endpoint: str) -> Project:
    """Another user, who comes through `endpoint` and has nothing yet."""
    return Project(root, writer.url, server.environment(endpoint))


def read_all(top: Path, files: dict[str, bytes], seed: int) -> None:
    """In any order, here and there first."""
    order = sorted(files)
    random.Random(seed).shuffle(order)
    for name in order[:10]:
        descriptor = os.open(top / name, os.O_RDONLY)
        try:
            assert os.pread(descriptor, 1000, 300 * KILO) == files[name][300 * KILO : 301 * KILO], name
        finally:
            os.close(descriptor)
    for name in order:
        assert (top / name).read_bytes() == files[name], name


#: What happens to one in how many requests with which method (or any), and how many seconds it takes.
FAULTS = {
    "503 for one in ten": [(Fault.BUSY, 10, "", 0.0)],
    "answers cut short": [(Fault.CUT_BODY, 4, "GET", 0.0)],
    "all of it, and slow": [
        (Fault.BUSY, 10, "", 0.0),
        (Fault.CUT_BODY, 5, "GET", 0.0),
        (Fault.RESET, 11, "", 0.0),
        (Fault.SLOW, 1, "", 0.2),
    ],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_a_network_that_fails_now_and_then_costs_time_only(
    faults: list[tuple[Fault, int, str, float]],
    writer: Project,
    files: dict[str, bytes],
    network: Proxy,
    s3_server: Server,
    tmp_path: Path,
) -> None:
    rules = [network.add(Rule(fault, method, every=every, seconds=seconds)) for fault, every, method, seconds in faults]
    with mounted(reader(tmp_path, writer, s3_server, network.endpoint)) as mount:
        wait_until(lambda: os.path.lexists(mount / "animals/v0"))  # of a store this slow the first look-up may have enough after 2 s
        begin = len(mount.log)
        read_all(mount / "animals/v0", files, 1)
        assert sorted(os.listdir(mount.path)) == ["animals", "few"]
        assert all(rule.hurt for rule in rules)
        assert "ERROR" not in mount.log[begin:]
        assert not mount.ended(0)


def test_a_store_that_refuses_connections_and_comes_back(
    writer: Project, files: dict[str, bytes], s3_server: Server, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        with proxy(s3_server.endpoint) as network:
            project = reader(tmp_path, writer, s3_server, network.endpoint)
            with mounted(project) as mount:
                assert (mount / "few/v0/d0/00").read_bytes() == files["d0/00"]
            mount = stack.enter_context(mounted(project))  # the kernel remembers nothing of it
        assert (mount / "few/v0/d0/00").read_bytes() == files["d0/00"]
        begin = time.monotonic()
        with pytest.raises(OSError, match="Input/output"):
            (mount / "few/v0/large0").read_bytes()
        assert time.monotonic() - begin < REFUSED_SECONDS
        assert "few:v0 large0" in mount.log
        with proxy(s3_server.endpoint, port=int(network.endpoint.rpartition(":")[2])):
            assert (mount / "few/v0/large0").read_bytes() == files["large0"]
            assert (mount / "animals/v0/d1/01").read_bytes() == files["d1/01"]


def test_a_store_that_answers_nothing_hangs_only_who_needs_it(
    writer: Project, files: dict[str, bytes], network: Proxy, s3_server: Server, tmp_path: Path
) -> None:
    with mounted(reader(tmp_path, writer, s3_server, network.endpoint)) as mount:
        assert (mount / "few/latest/d0/00").read_bytes() == files["d0/00"]
        hole = network.add(Rule(Fault.BLACK_HOLE))
        found: list[bytes] = []
        waiting = Thread(target=lambda: found.append((mount / "few/v0/large0").read_bytes()))
        waiting.start()
        try:
            wait_until(lambda: hole.hurt)
            drop_caches(mount / "few/v0/d0/00")
            assert (mount / "few/latest/d0/00").read_bytes() == files["d0/00"]
            assert os.listdir(mount / "few/v0") == ["d0", "d1", "large0"]
            with pytest.raises(OSError, match="Input/output"):  # nobody can say whether there is such a version
                os.stat(mount / "few/v1")
            assert waiting.is_alive()
        finally:
            network.heal()
            waiting.join(60)
        assert found == [files["large0"]]
        with pytest.raises(FileNotFoundError):
            os.stat(mount / "few/v1")
        assert "few:v0" not in mount.log


def drop_caches(path: Path) -> None:
    """The kernel forgets what it has read of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# -- the cache -------------------------------------------------------------------------------------------------------------------------
def warnings(mount: Mount) -> list[str]:
    return [line for line in mount.log.splitlines() if "WARNING" in line]


@pytest.mark.needs_root
def test_when_the_disk_of_the_cache_is_full_reads_go_on_with_one_warning(
    writer: Project, files: dict[str, bytes], s3_server: Server, tmp_path: Path
) -> None:
    disk = tmp_path / "cache"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", disk], check=True)
    try:
        with mounted(reader(tmp_path, writer, s3_server, s3_server.endpoint)) as mount:
            for seed in range(2):
                read_all(mount / "animals/v0", files, seed)
            assert len(warnings(mount)) == 1 and "takes nothing in" in warnings(mount)[0]
            assert "ERROR" not in mount.log
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_when_the_cache_is_deleted_under_the_daemon_reads_go_on_with_one_warning(
    writer: Project, files: dict[str, bytes], s3_server: Server, tmp_path: Path
) -> None:
    project = reader(tmp_path, writer, s3_server, s3_server.endpoint)
    with mounted(project) as mount:
        top = mount / "animals/v0"
        read_all(top, dict(list(files.items())[:20]), 1)
        shutil.rmtree(tmp_path / "cache")
        for name in files:
            drop_caches(top / name)
        read_all(top, files, 2)
        assert len(warnings(mount)) == 1, mount.log
        assert "ERROR" not in mount.log
    with mounted(project) as mount:
        read_all(mount / "animals/v0", files, 3)
