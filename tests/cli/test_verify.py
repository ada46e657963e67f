"""`verify` says that all is good when it is, and notices every bit that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from shutil import rmtree

import pytest

from tests.cli.program import Program
from tests.cli.trees import File, Folder, Link, Tree, files_below, write

#: Of aliases; with those of two snapshots, one more than there are in a checkpoint.
_ENTRIES = 61
_BITS = 2
TREE: Tree = {
    b"text": File(b"the same words again and again\n" * 2000),
    b"noise": File(Random(1).randbytes(5000)),
    b"sub": Folder(),
    b"sub/link": Link(b"../text"),
    b"sub/script": File(b"#!/bin/sh\n", executable=True),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Two artifacts, three versions, cards, aliases, a checkpoint; and nothing that no version needs."""
    home = tmp_path_factory.mktemp("clean")
    program = Program(home)
    first = program.inside("snapshot", write(home / "staging", TREE), "pets", "--note", "a note", "--metadata", "k=1")
    second = program.inside("snapshot", write(home / "staging", TREE | {b"sub/new": File(b"new" * 99)}), "pets")
    other = program.inside("snapshot", write(home / "staging", {b"large": File(Random(2).randbytes(3_000_000))}), "other")
    assert (first.code, second.code, other.code) == (0, 0, 0)
    for n in range(_ENTRIES):
        assert program.inside("alias", f"pets:v{n % 2}", "best").code == 0
    return program


def verify(program: Program) -> int:
    """The exit code on a machine that knows nothing yet."""
    for name in ("cache", "home"):
        rmtree(program.home / name, ignore_errors=True)
    return program.inside("verify").code


def flips(content: bytes, random: Random, count: int) -> Iterator[bytes]:
    for bit in random.sample(range(len(content) * 8), count):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_any_flipped_bit_is_noticed(clean: Program) -> None:
    """Each file of the project in turn: packs, log, checkpoint, project.json."""
    assert verify(clean) == 0
    random = Random(3)
    files = files_below(Path(clean.project))
    kinds = {path.relative_to(clean.project).parts[2] for path in files if "artifacts" in path.parts}
    assert kinds == {"data", "log", "state"}
    missed: list[Path] = []
    for path in files:
        content = path.read_bytes()
        path.chmod(0o644)
        for flipped in flips(content, random, 16 if path.name == "project.json" or "state" in path.parts else _BITS):
            path.write_bytes(flipped)
            if verify(clean) not in (1, 6):
                missed.append(path)
        path.write_bytes(content)
    assert missed == []
    assert verify(clean) == 0


def test_what_is_cut_short_or_missing_is_noticed(clean: Program) -> None:
    missed: list[Path] = []
    for path in files_below(Path(clean.project)):
        if "log" in path.parts and path.name not in (f"{n:016d}" for n in (0, 1, 33, 63, 64)):
            continue  # a few of the many
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        if verify(clean) not in (1, 6):
            missed.append(path)
        path.unlink()
        expected: tuple[int, ...] = (3,) if path.name == "project.json" else (0,) if "state" in path.parts else (1, 6)
        if "log" in path.parts and path > max(path.parent.iterdir()):
            expected = (0, 1, 6)  # a log that ends sooner is a log: only a machine that saw more can tell, see below
        if verify(clean) not in expected:
            missed.append(path)
        path.write_bytes(content)
    assert missed == []
    assert verify(clean) == 0


def test_a_machine_that_saw_the_whole_log_notices_a_shorter_one(clean: Program) -> None:
    assert verify(clean) == 0
    log = files_below(Path(clean.project) / "artifacts/pets/log")
    for path in (log[-1], log[40]):
        content = path.read_bytes()
        path.unlink()
        rmtree(clean.home / "cache")
        assert clean.inside("verify").code in (1, 4, 6)
        path.write_bytes(content)
    assert clean.inside("verify").code == 0


def test_it_says_what_is_wrong_and_where(anywhere: Program, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    anywhere.run("snapshot", write(tmp_path / "staging", TREE), "pets")
    anywhere.run("snapshot", write(tmp_path / "staging", {b"x": File(b"x")}), "other")
    good = anywhere.run("verify", "--json").json
    assert good["problems"] == [] and good["packs"] == 4 and good["bytes"] > 5000
    key = "artifacts/pets/data/0000000000000000/00000000"
    if anywhere.project.startswith("s3://"):
        client = request.getfixturevalue("s3_server").client
        bucket, _, prefix = anywhere.project.removeprefix("s3://").partition("/")
        body = client.get_object(Bucket=bucket, Key=f"{prefix}/{key}")["Body"].read()
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body[:-1] + bytes([body[-1] ^ 1]))
    else:
        path = Path(anywhere.project) / key
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    for arguments in ((), ("pets",), ("pets:v0",)):
        bad = anywhere.run("verify", *arguments, code=1)
        assert key in bad.out and "problem" in bad.lines[-1]
    assert key in anywhere.run("verify", "--json", code=1).json["problems"][0]
    assert anywhere.run("verify", "other").lines[-1].endswith("all good")
    anywhere.run("verify", "pets:v0/text", code=2)


def test_one_damaged_log_hides_nothing_of_the_other_artifacts(program: Program, tmp_path: Path) -> None:
    program.quick = True
    for name in ("aaa", "mmm", "zzz"):
        for content in (b"one", b"two"):
            program.run("snapshot", write(tmp_path / name, {b"f": File(content)}), name)
    below = Path(program.project) / "artifacts"
    entry = below / "aaa/log/0000000000000001"
    entry.write_bytes(bytes([entry.read_bytes()[0] ^ 1]) + entry.read_bytes()[1:])
    lost = "zzz/data/0000000000000000/00000000"
    (below / lost).unlink()

    for name in ("cache", "home"):
        rmtree(program.home / name)  # a machine that knows nothing yet
    found = program.run("verify", "--json", code=1).json["problems"]
    assert found[0].startswith("aaa: ") and found[0].count("log entry 1") == 1
    assert any(lost in problem for problem in found[1:])
    assert program.run("verify", "aaa", code=1).lines[0].startswith("aaa: ")
    assert [swept["artifact"] for swept in program.run("gc", "--json", code=6).json] == ["mmm", "zzz"]
    for command in ("ls", "du", "gc"):
        ran = program.run(command, code=6)
        assert "aaa: " in ran.err and "`artifactmount verify aaa`" in ran.err
    assert program.run("ls", code=6).lines == ["mmm", "zzz"]
    assert [line.split()[0] for line in program.run("du", code=6).lines] == ["artifact", "mmm", "zzz"]
