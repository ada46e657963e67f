"""`delete` and `du` as typed, in a folder and in a bucket; and what the store holds afterwards."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from random import Random
from shutil import rmtree

import pytest

from artifactmount.crypto import AROUND
from tests import encryption
from tests.cli.program import Program, in_bucket
from tests.cli.trees import File, Tree, read, write
from tests.store.servers import Server

MB = 1_000_000
CAT, DOG, RAT = (Random(seed).randbytes(size) for seed, size in enumerate((2 * MB, 1 * MB, 3 * MB)))
PETS: Tree = {b"cat.png": File(CAT), b"dog.png": File(DOG)}
_SECONDS = 60


def listing(program: Program, request: pytest.FixtureRequest) -> dict[str, int]:
    """Every key of the project in the store, and its bytes."""
    if not program.project.startswith("s3://"):
        top = Path(program.project)
        return {str(path.relative_to(top)): path.stat().st_size for path in top.rglob("*") if path.is_file()}
    server: Server = request.getfixturevalue("s3_server")
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {item["Key"].removeprefix(f"{prefix}/"): item["Size"] for page in pages for item in page.get("Contents", [])}


def bytes_of(program: Program, request: pytest.FixtureRequest, artifact: str = "animals") -> int:
    """What the packs of an artifact take in the store."""
    return sum(size for key, size in listing(program, request).items() if key.startswith(f"artifacts/{artifact}/data/"))


@pytest.fixture
def animals(anywhere: Program, tmp_path: Path) -> Program:
    """The example that users check first: v0 with cat and dog, v1 with a rat more."""
    anywhere.quick = True
    anywhere.run("snapshot", write(tmp_path / "animals", PETS), "animals")
    anywhere.run("snapshot", write(tmp_path / "animals", PETS | {b"rat.png": File(RAT)}), "animals")
    return anywhere


def make_versions(program: Program, folder: Path, *contents: bytes) -> None:
    for content in contents:
        program.run("snapshot", write(folder, {b"f": File(content)}), "pets")


def du(program: Program) -> list[tuple[str, int, int, int]]:
    found = program.run("du", "animals", "--json").json
    return [(size["version"], size["tracks"], size["adds"], size["frees"]) for size in found]


def test_deleting_the_newest_gives_its_bytes_back(animals: Program, request: pytest.FixtureRequest) -> None:
    assert du(animals) == [("v0", 3 * MB, 3 * MB, 0), ("v1", 6 * MB, 3 * MB, 3 * MB)]
    before = bytes_of(animals, request)
    animals.quick = False
    said = animals.run("delete", "animals:v1", "--yes").out
    assert said == "animals: deleted v1: 3.0 MB in 2 packs freed\n"
    assert 3 * MB <= before - bytes_of(animals, request) <= 3.03 * MB
    assert du(animals) == [("v0", 3 * MB, 3 * MB, 3 * MB)]
    assert animals.run("ls", "animals").lines == ["v0  latest"]
    assert animals.run("verify").out.endswith(" read: all good\n")
    assert not any(RAT[:1000] in content for content in stored(animals, request))


def stored(program: Program, request: pytest.FixtureRequest) -> list[bytes]:
    """The bytes of every object."""
    if not program.project.startswith("s3://"):
        return [(Path(program.project) / key).read_bytes() for key in listing(program, request)]
    server: Server = request.getfixturevalue("s3_server")
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    return [server.client.get_object(Bucket=bucket, Key=f"{prefix}/{key}")["Body"].read() for key in listing(program, request)]


def test_deleting_the_oldest_passes_its_bytes_on(animals: Program, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    before = bytes_of(animals, request)
    said = animals.run("delete", "animals:v0", "--yes").lines
    assert said == ["animals: deleted v0: 0 B in 2 packs freed", "animals:v1 is charged for 3.0 MB more"]  # v0's metadata, v1's old run
    assert abs(before - bytes_of(animals, request)) < 10_000
    assert du(animals) == [("v1", 6 * MB, 6 * MB, 6 * MB)]
    other = animals.elsewhere(tmp_path / "other")
    other.quick = animals.quick
    other.run("download", "animals:v1", "all")
    assert read(other.folder / "all") == PETS | {b"rat.png": File(RAT)}
    assert animals.run("verify").out.endswith(" read: all good\n")


def test_du(animals: Program) -> None:
    found = animals.run("du", "animals", "--json").json
    assert [list(size) for size in found] == [["version", "tracks", "adds", "frees", "stored"]] * 2
    assert all(type(size[key]) is int for size in found for key in ("tracks", "adds", "frees", "stored"))
    around = 3 * AROUND if encryption.ENCRYPTED else 0  # either version adds three chunks
    assert [size["stored"] for size in found] == [3 * MB + around, 3 * MB + around]
    assert animals.run("du", "animals").lines == [
        "version  tracks    adds   frees  stored",
        "v0       3.0 MB  3.0 MB     0 B  3.0 MB",
        "v1       6.0 MB  3.0 MB  3.0 MB  3.0 MB",
        "total            6.0 MB          6.0 MB",
    ]
    (total,) = animals.run("du", "--json").json
    assert total == {"artifact": "animals", "versions": 2, "tracks": 6 * MB, "adds": 6 * MB, "stored": 6 * MB + 2 * around}
    assert animals.run("du").lines == ["artifact  versions  latest  content  stored", "animals          2  6.0 MB   6.0 MB  6.0 MB"]
    animals.run("du", "animals:v0", code=2)
    animals.run("du", "plants", code=3)


def test_a_dry_run_says_what_would_be_and_changes_nothing(animals: Program, request: pytest.FixtureRequest) -> None:
    before = listing(animals, request)
    told = animals.run("delete", "animals:v1", "--dry-run", "--json").json
    assert animals.run("delete", "animals:v1", "--dry-run").out == "animals: would delete v1: 3.0 MB in 2 packs freed\n"
    assert animals.run("delete", "animals", "--all", "--dry-run", "--json").json["freed"] == 6 * MB
    animals.run("delete", "animals:v7", "--dry-run", code=3)
    assert listing(animals, request) == before
    done = animals.run("delete", "animals:v1", "--yes", "--json").json
    assert done == told | {"dry_run": False}
    assert done == {
        "artifact": "animals",
        "dry_run": False,
        "versions": ["v1"],
        "freed": 3 * MB,
        "freed_stored": 3 * MB + (3 * AROUND if encryption.ENCRYPTED else 0),
        "packs": 2,
        "rewritten": 0,
        "passed": {},
    }


def test_content_that_was_compressed_is_told_as_files_and_as_stored(program: Program, tmp_path: Path) -> None:
    program.quick = True
    program.run("snapshot", write(tmp_path / "pets", {b"f": File(b"the same words again and again\n" * 20_000)}), "pets")
    done = program.run("delete", "pets:v0", "--dry-run", "--json").json
    assert done["freed"] == 620_000 and 0 < done["freed_stored"] < 1000
    said = f"v0: 620.0 kB ({done['freed_stored']} B as stored) in 2 packs freed\n"
    assert program.run("delete", "pets:v0", "--dry-run").out == f"pets: would delete {said}"
    assert program.run("delete", "pets", "--all", "--yes").out == f"pets: deleted {said}"


def test_a_dry_run_of_all_says_what_is_done_also_where_metadata_is_lost(program: Program, tmp_path: Path) -> None:
    program.quick = True
    for content in (b"one", b"two"):
        program.run("snapshot", write(tmp_path / "pets", {b"f": File(content)}), "pets")
    (Path(program.project) / "artifacts/pets/data/0000000000000000/00000001").unlink()
    rmtree(program.home / "cache")
    told = program.run("delete", "pets", "--all", "--dry-run").out
    assert told == "pets: would delete v0, v1: an unknown amount in 4 packs freed\n"
    assert program.run("delete", "pets", "--all", "--yes").out == told.replace("would delete", "deleted")


def test_where_nobody_can_be_asked_it_takes_yes(animals: Program, request: pytest.FixtureRequest) -> None:
    before = listing(animals, request)
    animals.quick = False
    assert "--yes" in animals.run("delete", "animals:v1", code=2).err
    assert "--yes" in animals.run("delete", "animals", "--all", code=2).err
    assert listing(animals, request) == before


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 130, ["v0", "v1"]), (b"y\n", 0, ["v1"]), (b"\n", 130, ["v0", "v1"])])
def test_on_a_terminal_it_asks(program: Program, tmp_path: Path, answer: bytes, code: int, left: list[str]) -> None:
    program.quick = True
    make_versions(program, tmp_path / "pets", b"zero", b"one")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        process = subprocess.Popen(
            [sys.executable, "-m", "artifactmount", "delete", "pets:v0"],
            cwd=program.folder,
            env=program.environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, asked = process.communicate(timeout=_SECONDS)
        finally:
            process.kill()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, asked
    assert asked.startswith("Delete 1 version of pets (v0) for good? [y/N]") and "Traceback" not in asked
    assert [version["version"] for version in program.run("ls", "pets", "--json").json] == left


def test_aliases_make_it_refuse(anywhere: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    anywhere.quick = True
    make_versions(anywhere, tmp_path / "pets", b"zero", b"one", b"two")
    anywhere.run("alias", "pets:v1", "best", "prod")
    before = bytes_of(anywhere, request, "pets")
    for options in (("--yes",), ("--dry-run",)):
        refused = anywhere.run("delete", "pets:v1", "pets:v0", *options, code=4).err
        assert "best -> v1" in refused and "prod -> v1" in refused and "--delete-aliases" in refused
    assert anywhere.run("ls", "pets").lines == ["v0", "v1  best  prod", "v2  latest"]
    assert bytes_of(anywhere, request, "pets") == before
    anywhere.run("delete", "pets:v2", "--yes")  # `latest` follows by itself, and holds nothing
    assert anywhere.run("ls", "pets").lines == ["v0", "v1  best  latest  prod"]
    anywhere.run("delete", "pets:best", "--yes", "--delete-aliases")
    assert anywhere.run("ls", "pets").lines == ["v0  latest"]
    anywhere.run("verify")


def test_ranges_and_several(program: Program, tmp_path: Path) -> None:
    program.quick = True
    make_versions(program, tmp_path / "pets", *(b"%d" % n for n in range(14)))
    said = program.run("delete", "pets:v0..v9", "--yes", "--json").json
    assert said["versions"] == [f"v{n}" for n in range(10)]
    assert len([entry for entry in program.run("log", "pets", "--json").json if "delete_version" in json.dumps(entry)]) == 1
    assert program.run("delete", "pets:v0..v9", "--yes").out == "pets: nothing to delete\n"
    assert program.run("delete", "pets:v8..v10", "pets:v12", "--yes", "--json").json["versions"] == ["v10", "v12"]
    assert program.run("ls", "pets").lines == ["v11", "v13  latest"]
    program.run("delete", "pets:v20..v30", "--yes", code=3)
    program.run("snapshot", tmp_path / "pets", "other")
    assert "one artifact at a time, not of other and pets" in program.run("delete", "pets:v11", "other:v0", "--yes", code=2).err
    assert "not paths in them: 'pets:v11/n'" in program.run("delete", "pets:v11/n", "--yes", code=2).err
    for range_ in ("pets:v9..v0", "pets:v007..v9", "pets:v99999999999999999999..v13", "pets:v0..v013"):
        program.run("delete", range_, "--yes", code=2)
    assert program.run("ls", "pets").lines == ["v11", "v13  latest"]
    program.run("verify")


def test_twice_and_what_never_was(anywhere: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    anywhere.quick = True
    make_versions(anywhere, tmp_path / "pets", b"zero", b"one")
    anywhere.run("delete", "pets:v0", "--yes")
    before = listing(anywhere, request)
    assert anywhere.run("delete", "pets:v0", "--yes").out == "pets: nothing to delete\n"
    assert "v7" in anywhere.run("delete", "pets:v1", "pets:v7", "--yes", code=3).err
    anywhere.run("delete", "pets:best", "--yes", code=3)
    anywhere.run("delete", "plants:v0", "--yes", code=3)
    anywhere.run("delete", "plants", "--all", "--yes", code=3)
    for wrong in (("pets",), ("pets:v1/f",), ("pets:v1", "plants:v1"), ("pets:v1", "--all"), ("pets", "plants", "--all"), ()):
        anywhere.run("delete", *wrong, "--yes", code=2)
    assert listing(anywhere, request) == before
    for _ in range(2):  # the last one, and then there is none
        anywhere.run("delete", "pets:v1", "--yes")
    assert bytes_of(anywhere, request, "pets") == 0
    anywhere.run("ls", "pets", code=3)


def test_the_whole_artifact(animals: Program, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nothing is left but the log and its checkpoints; nothing of content, file names or notes in any object."""
    animals.run("alias", "animals:v0", "best")
    animals.run("snapshot", write(tmp_path / "animals", {b"unspeakable": File(b"secret words")}), "animals", "--note", "a telling note")
    animals.run("snapshot", write(tmp_path / "plants", {b"oak": File(b"oak")}), "plants")
    others = {key for key in listing(animals, request) if key.startswith("artifacts/plants/")}
    leave_a_late_upload(animals, request, "artifacts/animals/data/0000000000000000/00000099")
    said = animals.run("delete", "animals", "--all", "--yes").out
    assert said.startswith("animals: deleted v0, v1, v2: 6.0 MB in ")
    left = listing(animals, request)
    assert {key.split("/")[2] for key in left if key.startswith("artifacts/animals/")} <= {"log", "state"}
    assert {key for key in left if key.startswith("artifacts/plants/")} == others
    mine = [content for content in stored(animals, request) if b"oak" not in content]
    for words in (b"secret words", b"unspeakable", b"a telling note", b"cat.png", CAT[:100]):
        assert not any(words in content for content in mine)
    assert animals.run("ls").lines == ["plants"]
    assert animals.run("delete", "animals", "--all", "--yes").out == "animals: nothing to delete\n"
    assert animals.run("verify", "animals").out == "0 packs, 0 B read: all good\n"
    animals.run("verify", "animals:v0", code=3)
    animals.run("verify", "stones", code=3)
    assert animals.run("snapshot", write(tmp_path / "animals", PETS), "animals", "--json").json["version"] == "v3"
    assert du(animals) == [("v3", 3 * MB, 3 * MB, 3 * MB)]
    animals.run("verify")


def leave_a_late_upload(program: Program, request: pytest.FixtureRequest, key: str) -> None:
    """What a dead writer's request left, of a session that ended."""
    if not program.project.startswith("s3://"):
        (Path(program.project) / key).write_bytes(b"secret words")
        return
    server: Server = request.getfixturevalue("s3_server")
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    server.client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"secret words")


def test_a_pack_that_dies_in_part_is_written_anew(anywhere: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    anywhere.quick = True
    pets: Tree = {b"keep": File(DOG), b"lose": File(CAT)}
    anywhere.run("snapshot", write(tmp_path / "animals", pets), "animals")
    anywhere.run("snapshot", write(tmp_path / "animals", {b"keep": File(DOG)}), "animals")
    assert du(anywhere) == [("v0", 3 * MB, 3 * MB, 2 * MB), ("v1", MB, 0, 0)]
    said = anywhere.run("delete", "animals:v0", "--yes").lines
    assert said == ["animals: deleted v0: 2.0 MB in 2 packs freed, 1 pack written anew", "animals:v1 is charged for 1.0 MB more"]
    history = anywhere.run("log", "animals").lines
    assert history[1].endswith("  animals:v0 deleted, animals:v1 is the oldest now, 1 pack written anew")
    assert MB < bytes_of(anywhere, request) < 1.01 * MB
    other = anywhere.elsewhere(tmp_path / "other")
    other.quick = anywhere.quick
    other.run("download", "animals", "all")
    assert read(other.folder / "all") == {b"keep": File(DOG)}
    assert anywhere.run("verify").out.endswith(" read: all good\n")


@pytest.mark.moto_only("use a versioned bucket, where Ceph 16 ignores If-None-Match")
def test_a_versioned_bucket_keeps_no_old_version_of_content(s3_server: Server, tmp_path: Path) -> None:
    bucket = s3_server.make_bucket(versioned=True)
    program = Program(tmp_path, f"s3://{bucket}/some/prefix", s3_server.environment())
    program.quick = True
    program.run("init")
    make_versions(program, tmp_path / "pets", b"zero", b"one", b"two")
    program.run("delete", "pets:v0..v1", "--yes")
    assert [key for key in s3_server.versions(bucket) if "/data/" in key] == [key for key in s3_server.keys(bucket) if "/data/" in key]
    assert len([key for key in s3_server.versions(bucket) if "/data/" in key]) == 2
    program.run("verify")
    program.run("delete", "pets", "--all", "--yes")
    assert not [key for key in s3_server.versions(bucket) if "/data/" in key]


def test_a_folder_that_is_read_only_is_5(program: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make_versions(program, tmp_path / "pets", b"zero", b"one")
    before = listing(program, request)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root writes everywhere, unless it gives that up
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "--")
    folders = [Path(program.project), *(path for path in Path(program.project).rglob("*") if path.is_dir())]
    try:
        for path in folders:
            path.chmod(0o555)
        for what in (("pets:v0",), ("pets:v1",), ("pets", "--all")):
            assert "ermission denied" in program.run("delete", *what, "--yes", code=5, prefix=prefix).err
        assert program.run("delete", "pets:v0", "--dry-run", "--json", prefix=prefix).json["versions"] == ["v0"]
    finally:
        for path in folders:
            path.chmod(0o755)
    assert listing(program, request) == before
    program.run("verify")


def test_a_bucket_that_lets_nothing_be_deleted_is_5_and_the_next_one_finishes(tmp_path: Path, s3_server: Server) -> None:
    program = in_bucket(tmp_path, s3_server)
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    make_versions(program, tmp_path / "pets", b"zero", b"one")

    def data() -> list[str]:
        return [key for key in s3_server.keys(bucket) if key.startswith(f"{prefix}/artifacts/pets/data/")]

    before = set(data())

    def forbid(keys: str) -> None:
        forbidden = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/{keys}"}
        s3_server.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [forbidden]}))

    forbid("*")  # then nothing is begun
    for command in (("delete", "pets:v0", "--yes"), ("delete", "pets", "--all", "--yes"), ("gc", "pets")):
        assert "may not delete what pets has stored" in program.run(*command, code=5).err
    assert program.run("ls", "pets").lines == ["v0", "v1  latest"] and before == set(data())
    forbid(f"{prefix}/artifacts/pets/data/*/*")  # not the key that is tried first
    assert "could not be removed" in program.run("delete", "pets:v0", "--yes", code=5).err
    assert program.run("ls", "pets").lines == ["v1  latest"] and before < set(data())
    assert "could not be removed" in program.run("delete", "pets", "--all", "--yes", code=5).err
    assert "could not be removed" in program.run("delete", "pets", "--all", "--yes", code=5).err
    s3_server.client.delete_bucket_policy(Bucket=bucket)
    program.run("delete", "pets", "--all", "--yes")
    assert data() == []
