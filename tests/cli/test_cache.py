"""What is brought into the cache, what it holds, and clearing it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.cli.program import Program, in_bucket
from tests.store.servers import Server

MEBI = 1 << 20
CONTENTS = {name: Random(name).randbytes(size) for name, size in {"big": 5 * MEBI, "sub/a": 60_000, "sub/b": 70_000}.items()}
ALL = sum(map(len, CONTENTS.values()))
PART = len(CONTENTS["sub/a"]) + len(CONTENTS["sub/b"])


@pytest.fixture
def bucket(s3_server: Server, tmp_path: Path) -> Program:
    """A project in a bucket, seen from a machine that has nothing of it."""
    writer = in_bucket(tmp_path / "writer", s3_server)
    for name, content in {**CONTENTS, "sub/again": CONTENTS["sub/a"]}.items():
        path = tmp_path / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    writer.run("snapshot", tmp_path / "animals", "animals")
    reader = writer.elsewhere(tmp_path / "reader")
    reader.quick = True
    return reader


def test_a_part_and_then_all(bucket: Program) -> None:
    assert bucket.run("prefetch", "animals/sub", "--json").json == {"version": "v0", "fetched": PART, "held": 0, "in_place": False}
    assert bucket.run("prefetch", "animals:v0", "--json").json["fetched"] == len(CONTENTS["big"])
    assert bucket.run("prefetch", "animals").out == "animals:v0  0 B fetched, 5.4 MB held already\n"
    assert bucket.run("cache", "--json").json["artifacts"] == [{"artifact": "animals", "held": ALL}]


def delete_packs(program: Program, server: Server) -> None:
    """Behind the back of the program: what it still reads, it has."""
    name = program.project.split("/")[2]
    for key in server.keys(name):
        if "/data/" in key:
            server.client.delete_object(Bucket=name, Key=key)


def test_what_was_fetched_is_read_without_the_packs(bucket: Program, s3_server: Server) -> None:
    bucket.run("prefetch", "animals")
    delete_packs(bucket, s3_server)
    assert bucket.run("prefetch", "animals", "--json").json["fetched"] == 0
    bucket.run("cache", "--clear")
    assert bucket.run("prefetch", "animals", code=6).err.startswith("artifactmount: ")


def test_what_the_cache_holds(bucket: Program) -> None:
    assert bucket.run("cache", "--json").json["artifacts"] == []
    bucket.run("prefetch", "animals/sub")
    shown = bucket.run("cache")
    assert shown.lines[2].split() == ["animals", "130.0", "kB"]
    assert shown.lines[0].startswith(f"{bucket.environment['ARTIFACTMOUNT_CACHE']}: 130.0 kB of 10.7 GB, and ")
    facts = bucket.run("cache", "--clear", "--json").json
    assert (facts["content"], facts["manifests"], facts["artifacts"]) == (0, 0, [])
    assert bucket.run("cache", "--json").json["artifacts"] == []


def test_more_than_the_cache_keeps_is_refused(bucket: Program, s3_server: Server, tmp_path: Path) -> None:
    with open(tmp_path / "animals/big", "wb") as file:
        file.write(Random(1).randbytes(33 * MEBI))
    bucket.run("snapshot", tmp_path / "animals", "animals")
    refused = bucket.run("--cache-size", "32M", "prefetch", "animals", code=4).err
    assert "animals:v1 takes more than the cache keeps" in refused and "--cache-size" in refused
    assert bucket.run("--cache-size", "32M", "prefetch", "animals/sub", "--json").json["fetched"] == PART


def test_what_is_held_is_not_evicted_for_the_rest(bucket: Program, s3_server: Server, tmp_path: Path) -> None:
    """Of 32 MiB: what was fetched first is the next to go, unless it is asked for again."""
    numbers = Random(7)
    for name, size in {"old": 12, "other": 14, "both": 14}.items():
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        (folder / "file").write_bytes(numbers.randbytes(size * MEBI))
    (tmp_path / "of both/old").write_bytes((tmp_path / "of old/file").read_bytes())
    for name, version in {"old": "v0", "other": "v1", "both": "v2"}.items():
        assert bucket.snapshot(tmp_path / f"of {name}", "tree") == version
        done = bucket.run("--cache-size", "32M", "prefetch", "tree", "--json").json
    assert done["fetched"] + done["held"] >= 26 * MEBI
    delete_packs(bucket, s3_server)
    assert bucket.run("--cache-size", "32M", "prefetch", "tree", "--json").json["held"] == 26 * MEBI


def test_what_is_damaged_in_the_cache_is_not_held(bucket: Program) -> None:
    bucket.run("prefetch", "animals")
    for segment in (Path(bucket.environment["ARTIFACTMOUNT_CACHE"]) / "segments").iterdir():
        content = bytearray(segment.read_bytes())
        content[1000] ^= 1
        segment.write_bytes(content)
    done = bucket.run("prefetch", "animals", "--json").json
    assert 0 < done["fetched"] < ALL and done["fetched"] + done["held"] == ALL


def test_a_disk_without_room_is_said(bucket: Program) -> None:
    cache = Path(bucket.environment["ARTIFACTMOUNT_CACHE"])
    (cache / "segments").mkdir(parents=True)
    (cache / "segments").rmdir()
    (cache / "segments").write_bytes(b"")  # nothing can be written there
    assert "does not keep what is fetched" in bucket.run("prefetch", "animals", code=4).err.splitlines()[-1]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As a disk that fills up: no file of this process grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_midway_is_said(bucket: Program) -> None:
    with no_file_beyond(4 * MEBI):  # the first chunks are kept
        assert "does not keep what is fetched" in bucket.run("prefetch", "animals", code=4).err.splitlines()[-1]
    done = bucket.run("prefetch", "animals", "--json").json  # and it goes on from there
    assert 0 < done["fetched"] < ALL and done["held"] > 0


def test_references(bucket: Program, tmp_path: Path) -> None:
    config = Path(bucket.environment["XDG_CONFIG_HOME"]) / "artifactmount/config.toml"
    config.parent.mkdir(parents=True)
    config.touch(0o600)
    config.write_text('[references]\nallow = ["file://"]\n')
    (tmp_path / "far").mkdir()
    (tmp_path / "far/there").write_bytes(b"there")
    (tmp_path / "far/changes").write_bytes(b"changes")
    bucket.run("add-reference", "wild", f"file://{tmp_path}/far", "--name", "far")
    os.utime(tmp_path / "far/changes", (1, 1))
    assert "far/changes" in bucket.run("prefetch", "wild", code=6).err
    ran = bucket.run("prefetch", "wild", "--allow-missing-references", "--json")
    assert "artifactmount: skipped far/changes" in ran.err and ran.json["fetched"] + ran.json["held"] == 5


def test_a_project_in_a_folder_needs_none(program: Program, tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals/a").write_bytes(b"a" * 1000)
    program.quick = True
    program.run("snapshot", tmp_path / "animals", "animals")
    assert program.run("prefetch", "animals").out == "animals:v0  0 B fetched, 0 B held already  packs are read where they lie\n"
    assert "no none in animals" in program.run("prefetch", "animals/none", code=3).err


def test_without_a_project_the_cache_can_be_seen_and_cleared(program: Program) -> None:
    ran = program.run("cache")
    assert ran.err == "" and ran.out.endswith("of manifests\n")
    assert program.run("cache", "--clear").err == ""


def test_without_the_project_nobody_knows_whose_it_is(bucket: Program) -> None:
    bucket.run("prefetch", "animals/sub")
    bucket.environment["ARTIFACTMOUNT_PROJECT"] += "/none"
    ran = bucket.run("cache")
    assert len(ran.lines) == 1 and "130.0 kB of " in ran.out and "whose content it is cannot be told: no project at" in ran.err
