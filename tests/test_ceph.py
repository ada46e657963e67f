"""What only Ceph shows (`--s3 ceph`): races that its engine decides, keys that it looks at, a bucket and bytes that it does not protect."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.errors import DeniedError
from artifactmount.project import Project
from artifactmount.store.s3 import S3Store
from tests import encryption
from tests.cli.program import Program, in_bucket
from tests.cli.trees import File, write
from tests.store.servers import Server, every_call

pytestmark = pytest.mark.ceph_only

_CREATORS = 32
_ROUNDS = 10
_WRITERS = 8
_SNAPSHOTS = 10
_SECONDS = 500
#: Each snapshot of a writer adds a file of its own to what all have in common.
_WRITER = """
import os, sys
from artifactmount.cli import main
number, folder, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.makedirs(folder)
with open(folder + "/shared", "wb") as file:
    file.write(b"the same everywhere" * 10_000)
for turn in range(count):
    with open(folder + "/own", "wb") as file:
        file.write(b"%d %d" % (number, turn) * 10_000)
    code = main(["snapshot", folder, "busy"])
    if code:
        sys.exit(code)
"""


def test_of_32_creators_of_one_slot_exactly_one_wins(s3_environment: Server) -> None:
    store, barrier = S3Store(s3_environment.make_bucket(), "p"), threading.Barrier(_CREATORS)

    def create(slot: str, number: int) -> bool:
        barrier.wait()
        return store.create(slot, b"%d" % number)

    with closing(store), ThreadPoolExecutor(_CREATORS) as pool:
        for turn in range(_ROUNDS):
            slot = f"log/{turn:016d}"
            won = list(pool.map(create, [slot] * _CREATORS, range(_CREATORS)))
            assert won.count(True) == 1, slot
            assert store.get(slot) == b"%d" % won.index(True)


def test_eight_processes_with_ten_snapshots_each_and_then_deletion(s3_environment: Server, tmp_path: Path) -> None:
    program = in_bucket(tmp_path, s3_environment)
    machines = [program.elsewhere(tmp_path / f"machine {number}") for number in range(_WRITERS)]
    run_all([(machine, [str(number), str(machine.folder / "staging"), str(_SNAPSHOTS)]) for number, machine in enumerate(machines)])
    count = _WRITERS * _SNAPSHOTS
    assert [version["version"] for version in program.run("ls", "busy", "--json").json] == [f"v{number}" for number in range(count)]
    assert {entry["refused"] for entry in program.run("log", "busy", "--json").json} == {None}
    program.run("verify")
    assert data_keys(program, s3_environment) == packs_in_use(program, tmp_path)

    program.run("delete", f"busy:v0..v{count // 2}", "--yes")
    program.run("verify")
    assert data_keys(program, s3_environment) == packs_in_use(program, tmp_path) != set()

    program.run("delete", "busy", "--all", "--yes")
    assert data_keys(program, s3_environment) == set()


def test_a_versioned_bucket_is_refused_before_an_artifact_is_written_to_it(s3_server: Server, tmp_path: Path) -> None:
    """Ceph 16 ignores If-None-Match there: two writers could both win a slot."""
    bucket = s3_server.make_bucket(versioned=True)
    program = Program(tmp_path, f"s3://{bucket}/p", s3_server.environment())
    refused = program.run("init", code=4)
    assert "ignores If-None-Match" in refused.err
    program.run("snapshot", write(tmp_path / "pets", {b"cat": File(b"cat")}), "pets", code=4)
    assert not [key for key in s3_server.keys(bucket) if "/artifacts/" in key]


@pytest.mark.parametrize(
    ("name", "says"), [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")]
)
def test_wrong_credentials_are_denied(s3_environment: Server, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    bucket = s3_environment.make_bucket()
    monkeypatch.setenv(name, "wrong")
    with closing(S3Store(bucket)) as store:
        for call in every_call(store):
            with pytest.raises(DeniedError, match=says):
                call()
    assert s3_environment.keys(bucket) == []


def test_encryption_that_ceph_ignores_is_told_of(s3_server: Server, tmp_path: Path) -> None:
    """Ceph 16 takes AES256, and stores what it gets; a KMS key that it does not know it refuses."""
    program = Program(tmp_path, f"s3://{s3_server.make_bucket()}", s3_server.environment())
    config = tmp_path / "home/config/artifactmount/config.toml"
    config.parent.mkdir(parents=True)
    config.touch(0o600)
    config.write_text('[s3]\nsse = "aws:kms"\nsse-kms-key-id = "no-such-key"\n')
    assert "no-such-key" in program.run("init", code=5).err
    assert s3_server.keys(program.project.removeprefix("s3://")) == []
    config.write_text('[s3]\nsse = "AES256"\n')
    assert "`sse` asks for AES256, and the server does not say that it encrypts" in program.run("init").err


def run_all(writers: Sequence[tuple[Program, list[str]]]) -> None:
    """Run the writers beside each other, each in a process of its own, to the end."""
    with ExitStack() as stack:
        running = []
        for machine, arguments in writers:
            command = [sys.executable, "-c", _WRITER, *arguments]
            process = subprocess.Popen(command, env=machine.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            running.append(process)
        for process in running:
            said = process.communicate(timeout=_SECONDS)[1]
            assert process.returncode == 0, said


def data_keys(program: Program, server: Server) -> set[str]:
    """What the bucket itself lists of the artifact's packs, below the project's prefix."""
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/artifacts/busy/data/")
    return {item["Key"].removeprefix(f"{prefix}/") for page in pages for item in page.get("Contents", [])}


def packs_in_use(program: Program, folder: Path) -> set[str]:
    """The keys of the packs that live versions need, by the log alone."""
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    with closing(S3Store(bucket, prefix)) as store, closing(Cache(str(folder / "looking"))) as cache:
        project = Project(store, cache, str(folder / "looking-state"), keyring=encryption.keyring(folder))
        artifact = project.artifact("busy")
        return {artifact.pack_key(pack) for pack in project.refresh("busy").packs}
