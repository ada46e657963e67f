"""Snapshots that are interrupted, killed, or run beside each other: what is there afterwards is right, and the next one completes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.cli.program import Program
from tests.cli.trees import File, Tree, read, write
from tests.encryption import plain_only

CHECK_KILL = Path(__file__).parent.parent.parent / "scripts/check_kill.py"
_WRITERS = 4
_SNAPSHOTS = 3


def packs(program: Program, request: pytest.FixtureRequest) -> int:
    """How many are in the store."""
    if program.project.startswith("s3://"):
        bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
        return sum(key.startswith(f"{prefix}/artifacts/big/data/") for key in request.getfixturevalue("s3_server").keys(bucket))
    return len(list(Path(program.project).glob("artifacts/big/data/*/*")))


@contextmanager
def uploading(program: Program, request: pytest.FixtureRequest, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A snapshot into `big` that has stored some packs, and is not done."""
    before = packs(program, request)
    with program.start("snapshot", folder, "big") as process:
        deadline = time.monotonic() + 60
        while packs(program, request) == before:
            assert process.poll() is None and time.monotonic() < deadline
            os.sched_yield()
        yield process


def test_an_interrupted_snapshot_says_so_and_the_next_completes(anywhere: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """^C while packs are being uploaded; twice, the second time upon a version that is there."""
    for round_ in range(2):
        tree: Tree = {b"%02d" % n: File(Random(100 * round_ + n).randbytes(7_000_000)) for n in range(8)}
        staging = write(tmp_path / "big", tree)
        with uploading(anywhere, request, staging) as process:
            process.send_signal(signal.SIGINT)
            ran = anywhere.finish(process, 130)
        assert ran.err == "artifactmount: interrupted\n" and ran.out == ""
        assert anywhere.run("verify").code == 0
        assert anywhere.snapshot(staging, "big") == f"v{round_}"
    anywhere.run("download", "big", "out")
    assert read(anywhere.folder / "out") == tree
    anywhere.run("verify")


def test_terminated_is_as_good_as_killed(program: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    staging = write(tmp_path / "big", {b"%02d" % n: File(Random(n).randbytes(7_000_000)) for n in range(8)})
    with uploading(program, request, staging) as process:
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and out == b""
    assert program.snapshot(staging, "big") == "v0"
    program.run("verify")


@plain_only
def test_killed_at_random_moments(anywhere: Program) -> None:
    """The short form of what scripts/check_kill.py does at length."""
    kills = 3 if anywhere.project.startswith("s3://") else 10
    place = anywhere.project if anywhere.project.startswith("s3://") else str(anywhere.home / "killed")
    command: list[str | Path] = [sys.executable, CHECK_KILL, "--kills", str(kills), place]
    done = subprocess.run(command, env=anywhere.environment, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{kills} kills in \d+ s, seed \d+: .* all good: {re.escape(place)}/check-kill-\w+\n", done.stdout)


def test_check_kill_fails_when_something_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = subprocess.run([sys.executable, CHECK_KILL, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("FAILED: init: exit code ")


def test_writers_beside_each_other(anywhere: Program, tmp_path: Path) -> None:
    """Two on one machine and two on machines of their own: every snapshot gets a number of its own, and is what was logged."""
    anywhere.quick = False
    machines = [anywhere, anywhere, *(anywhere.elsewhere(tmp_path / f"machine {n}") for n in range(_WRITERS - 2))]

    def work(writer: int) -> dict[str, Tree]:
        made: dict[str, Tree] = {}
        for n in range(_SNAPSHOTS):
            random = Random(writer * 100 + n)
            tree: Tree = {b"shared": File(b"the same everywhere" * 10_000), b"own": File(random.randbytes(200_000)), b"%d" % n: File(b"x")}
            made[machines[writer].snapshot(write(tmp_path / f"staging {writer}", tree), "busy", "--alias", f"writer-{writer}")] = tree
        return made

    with ThreadPoolExecutor(_WRITERS) as pool:
        made = [item for part in pool.map(work, range(_WRITERS)) for item in part.items()]
    count = _WRITERS * _SNAPSHOTS
    assert sorted(int(version[1:]) for version, _ in made) == list(range(count))
    versions = anywhere.run("ls", "busy", "--json").json
    assert [version["version"] for version in versions] == [f"v{n}" for n in range(count)]
    assert versions[-1]["aliases"][0] == "latest"
    anywhere.quick = True
    for version, tree in made:
        anywhere.run("download", f"busy:{version}")
        assert read(anywhere.folder / f"artifacts/busy:{version}") == tree
    assert anywhere.elsewhere(tmp_path / "another").inside("verify").code == 0
    assert {entry["refused"] for entry in anywhere.run("log", "busy", "--json").json} == {None}
