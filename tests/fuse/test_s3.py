"""Real mounts of a project in a bucket: damage, a server that is gone, and the budget of the cache."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.encryption import plain_only
from tests.fuse.mounts import Project, mounted, wait_until, write
from tests.store import servers
from tests.store.servers import Server

pytestmark = pytest.mark.needs_fuse

MEBI = 1 << 20
KNOWN_SECONDS = 3
GONE_SECONDS = 40  # four attempts, and the pauses between them


def in_bucket(server: Server, root: Path) -> Project:
    """A new project in a bucket of its own."""
    project = Project(root, f"s3://{server.make_bucket()}/some/project", server.environment())
    project.do("init")
    return project


def test_the_seed_example_in_a_bucket(s3_server: Server, tmp_path: Path) -> None:
    project, numbers = in_bucket(s3_server, tmp_path), random.Random(1)
    files = {"cat.png": numbers.randbytes(2_000_000), "dog.png": numbers.randbytes(1_000_000)}
    project.snapshot(write(tmp_path / "staging", files), "animals")
    with mounted(project) as mount:
        assert os.getxattr(mount / "animals/v0/cat.png", "user.artifactmount.cached") == b"no"
        assert {name: (mount / "animals/v0" / name).read_bytes() for name in os.listdir(mount / "animals/latest")} == files
        assert os.getxattr(mount / "animals/v0/cat.png", "user.artifactmount.cached") == b"yes"
        project.snapshot(write(tmp_path / "staging", {"rat.png": b"rat"}), "animals")
        wait_until(lambda: "v1" in os.listdir(mount / "animals"), 3.2)
        assert (mount / "animals/v1/rat.png").read_bytes() == b"rat"


@plain_only
def test_a_flipped_byte_in_the_bucket_is_an_error_with_a_fresh_cache_and_none_with_a_warm_one(s3_server: Server, tmp_path: Path) -> None:
    writer, numbers = in_bucket(s3_server, tmp_path / "writer"), random.Random(2)
    files = {name: numbers.randbytes(60_000) for name in ("bad", "good", "well")}
    writer.snapshot(write(tmp_path / "staging", files), "animals")
    with mounted(writer) as mount:
        assert (mount / "animals/v0/bad").read_bytes() == files["bad"]
    bucket = writer.url.split("/")[2]
    for item in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]:
        content = bytearray(s3_server.client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
        if (at := content.find(files["bad"])) >= 0:
            content[at + 1000] ^= 0xFF
            s3_server.client.put_object(Bucket=bucket, Key=item["Key"], Body=bytes(content))
            break
    else:
        pytest.fail("no pack holds the file as it is")
    fresh = Project(tmp_path / "fresh", writer.url, s3_server.environment())
    with mounted(fresh) as mount, mounted(writer) as warm:
        with pytest.raises(OSError, match="Input/output") as caught:
            (mount / "animals/v0/bad").read_bytes()
        assert caught.value.errno == errno.EIO
        assert (mount / "animals/v0/good").read_bytes() == files["good"]
        assert (mount / "animals/v0/well").read_bytes() == files["well"]
        wait_until(lambda: "animals:v0 bad" in mount.log)
        assert (warm / "animals/v0/bad").read_bytes() == files["bad"]


def test_when_the_server_is_gone_what_is_known_answers_and_what_is_cached_reads(tmp_path: Path) -> None:
    sizes = {"cached": 3 * MEBI, "other": 12 * MEBI, "fetched/before": 3 * MEBI}
    files = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    with servers.s3_server() as server:
        project = in_bucket(server, tmp_path)
        project.snapshot(write(tmp_path / "staging", files), "animals")
        with mounted(project) as mount:
            assert (mount / "animals/v0/cached").read_bytes() == files["cached"]
        project.do("prefetch", "animals/fetched")
        with mounted(project) as mount:  # its page cache is empty: what it has is on disk
            assert os.listdir(mount.path) == ["animals"]
            os.kill(server.pid, signal.SIGKILL)
            begin = time.monotonic()
            assert (mount / "animals/latest/cached").read_bytes() == files["cached"]
            assert (mount / "animals/latest/fetched/before").read_bytes() == files["fetched/before"]
            assert (mount / "animals:v0/other").stat().st_size == 12 * MEBI
            assert os.listdir(mount / "animals/v0") == ["cached", "fetched", "other"]
            assert time.monotonic() - begin < KNOWN_SECONDS
            begin = time.monotonic()
            assert os.listdir(mount / "animals") == ["v0", "latest"]
            assert time.monotonic() - begin < KNOWN_SECONDS
            begin = time.monotonic()
            with pytest.raises(OSError, match="Input/output"):
                (mount / "animals/v0/other").read_bytes()
            assert time.monotonic() - begin < GONE_SECONDS
            begin = time.monotonic()
            project.do("umount", mount.path)
            assert time.monotonic() - begin < GONE_SECONDS


def test_the_cache_never_takes_more_than_its_budget(s3_server: Server, tmp_path: Path) -> None:
    """150 MiB, read twice in another order, through a cache of 32 MiB."""
    project, numbers, budget = in_bucket(s3_server, tmp_path), random.Random(5), 32 * MEBI
    files = {f"{number:02d}": numbers.randbytes(5 * MEBI) for number in range(14)}
    files |= {f"small{number:02d}": numbers.randbytes(MEBI // 2) for number in range(40)}
    files |= {f"large{number}": numbers.randbytes(20 * MEBI) for number in range(3)}
    assert sum(map(len, files.values())) == 150 * MEBI
    project.snapshot(write(tmp_path / "staging", files), "animals")
    most = 0
    with mounted(project, options=("--cache-size", "32M")) as mount:
        for names in (sorted(files), sorted(files, reverse=True)):
            for name in names:
                with (mount / "animals/v0" / name).open("rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else the kernel alone would answer the second time
                    at = 0
                    while block := file.read(MEBI):
                        assert block == files[name][at : at + len(block)], name
                        at += len(block)
                        most = max(most, _held(project))
                    assert at == len(files[name])
        assert (mount / "animals/v0/00").read_bytes() == files["00"]
    assert _held(project) <= budget * 1.1
    assert budget / 2 < most <= budget * 1.1


def _held(project: Project) -> int:
    """Bytes of the segments; one may be evicted between the listing and the look."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(project.segments) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total
