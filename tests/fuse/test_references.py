"""References under a real mount: read with cat, never other bytes than those recorded."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.fuse.mounts import Mount, Project, mounted, wait_until, write
from tests.sources.places import BucketPlace, FolderPlace, web_place
from tests.store.servers import Server

pytestmark = pytest.mark.needs_fuse

MEBI = 1 << 20
CAT, DOG = (Random(seed).randbytes(size) for seed, size in enumerate((3 * MEBI + 7, 1000)))


@pytest.fixture
def bucket(s3_server: Server) -> BucketPlace:
    """The user's own bucket, with two animals in it."""
    place = BucketPlace(s3_server)
    place.put("cat.png", CAT)
    place.put("pets/dog.png", DOG)
    return place


def allow(project: Project, *prefixes: str) -> None:
    """Write the config file."""
    folder = project.root / "config/artifactmount"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[references]\nallow = {list(prefixes)!r}\n")
    (folder / "config.toml").chmod(0o600)


def cat(path: Path) -> bytes:
    """What the program of that name reads."""
    return subprocess.run(["cat", "--", path], check=True, capture_output=True).stdout


def failure(path: Path, offset: int = 0) -> str:
    """The errno's name that reading at an offset gives."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.pread(descriptor, 10, offset)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(descriptor)
    return ""


def attributes(path: Path) -> dict[str, str]:
    """Ours, without what their names begin with."""
    names = os.listxattr(path)
    return {name.removeprefix("user.artifactmount."): os.getxattr(path, name).decode() for name in names}


def test_the_example_in_a_bucket(tmp_path: Path, bucket: BucketPlace, s3_server: Server) -> None:
    own = s3_server.make_bucket()
    project = Project(tmp_path, f"s3://{own}/p", s3_server.environment())
    project.do("init")
    project.do("add-reference", "animals", bucket.uri())
    project.snapshot(write(tmp_path / "mine", {"own.txt": b"own"}), "animals")
    stored = s3_server.client.list_objects_v2(Bucket=own)["Contents"]
    assert sum(item["Size"] for item in stored) < 10_000  # nothing of the content
    etag = s3_server.client.head_object(Bucket=bucket.bucket, Key="some/cat.png")["ETag"].strip('"')
    with mounted(project) as mount:
        latest = mount / "animals/latest"
        assert sorted(os.listdir(latest)) == ["cat.png", "own.txt", "pets"] and (latest / "cat.png").stat().st_size == len(CAT)
        shown = attributes(latest / "cat.png")
        assert (shown["reference"], shown["etag"], shown["cached"]) == (bucket.uri("cat.png"), etag, "no")
        assert cat(latest / "cat.png") == CAT and cat(latest / "pets/dog.png") == DOG and cat(latest / "own.txt") == b"own"
        assert attributes(latest / "cat.png")["cached"] == "yes"
        assert attributes(latest / "own.txt").keys() == {"artifact", "written", "digest", "cached"}
    bucket.put("cat.png", CAT[::-1])  # what was cached is still what was recorded
    with mounted(project, "again") as mount:
        assert cat(mount / "animals/latest/cat.png") == CAT


def test_a_source_that_was_overwritten_is_an_error(tmp_path: Path, bucket: BucketPlace, s3_server: Server) -> None:
    project = Project(tmp_path, environment=s3_server.environment())
    project.do("add-reference", "animals", bucket.uri())
    with mounted(project) as mount:
        path = mount / "animals/v0/cat.png"
        with path.open("rb", buffering=0) as file:
            assert file.read(10) == CAT[:10]
        bucket.put("cat.png", CAT[::-1])
        assert failure(path, 2 * MEBI) == "EIO"
        bucket.delete("pets/dog.png")
        assert failure(mount / "animals/v0/pets/dog.png") == "EIO"
        was, now = line_of(mount, "cat.png").rpartition("its ETag was ")[2].split(" and is ")
        assert was != now and now == s3_server.client.head_object(Bucket=bucket.bucket, Key="some/cat.png")["ETag"].strip('"')
        assert f"{bucket.uri('pets/dog.png')} is gone" in line_of(mount, "pets/dog.png")
        project.do("add-reference", "animals", bucket.uri())
        assert wait_until((mount / "animals/v1").is_dir)
        assert cat(mount / "animals/v1/cat.png") == CAT[::-1] and failure(path, 2 * MEBI) == "EIO"


def line_of(mount: Mount, path: str) -> str:
    """The line of the log that says why this path could not be read."""
    lines = [line for line in mount.log.splitlines() if f" ERROR animals:v0 {path}: " in line]
    assert len(lines) == 1
    return lines[0]


def test_a_pinned_version_keeps_its_bytes(tmp_path: Path, s3_server: Server) -> None:
    bucket = BucketPlace(s3_server, versioned=True)
    bucket.put("cat.png", CAT)
    bucket.put("dog.png", DOG)
    project = Project(tmp_path, environment=s3_server.environment())
    project.do("add-reference", "animals", bucket.uri())
    bucket.put("cat.png", b"other")
    bucket.delete("dog.png")
    with mounted(project) as mount:
        assert cat(mount / "animals/v0/cat.png") == CAT and cat(mount / "animals/v0/dog.png") == DOG
        assert attributes(mount / "animals/v0/cat.png")["pinned"]


def test_files_are_followed_where_that_is_allowed(tmp_path: Path) -> None:
    place, project = FolderPlace(tmp_path / "scans"), Project(tmp_path)
    place.put("cat.png", CAT)
    place.put("empty", b"")
    project.do("add-reference", "animals", place.uri())
    with mounted(project) as mount:
        assert failure(mount / "animals/v0/cat.png") == "EACCES" and "references.allow" in mount.log
        assert cat(mount / "animals/v0/empty") == b""
    with web_place(tmp_path / "web") as web:
        allow(project, place.uri(), web.host)
        web.put("cat.png", CAT)
        project.environment["NO_PROXY"] = "127.0.0.1"
        project.do("add-reference", "animals", web.uri("cat.png"), "--name", "web/cat.png")
        with mounted(project) as mount:
            assert cat(mount / "animals/v1/cat.png") == CAT and cat(mount / "animals/v1/web/cat.png") == CAT
            assert place.uri() in project.do("ls", "-l", "animals:v1")
            refused = project.do("add-reference", "loop", f"file://{mount.path}/animals/v1/cat.png", code=4)
            assert "lies in the mount" in refused
            place.put("cat.png", CAT)
            os.posix_fadvise(descriptor := os.open(mount / "animals/v1/cat.png", os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            assert cat(mount / "animals/v1/cat.png") == CAT  # from the cache
    assert project.do("verify", "--references", code=1) == ""


def test_without_a_checksum_nothing_is_kept_on_disk(tmp_path: Path) -> None:
    place, project = FolderPlace(tmp_path / "scans"), Project(tmp_path)
    place.put("cat.png", CAT)
    allow(project, "file://")
    project.do("add-reference", "animals", place.uri(), "--no-checksum")
    with mounted(project) as mount:
        assert cat(mount / "animals/v0/cat.png") == CAT
    place.put("cat.png", CAT[::-1])
    with mounted(project) as mount:
        assert cat(mount / "animals/v0/cat.png") == CAT[::-1]  # as the manual says: only its size is looked at
        place.put("cat.png", DOG)
        assert cat(mount / "animals/v0/cat.png") == CAT[::-1]  # from the kernel, and from memory
        assert project.do("verify", "--references", code=1) == ""
