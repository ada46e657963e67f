"""What is refused, with which exit code, and that nothing happened."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import encryption
from tests.cli.program import Program
from tests.cli.trees import File, Folder, files_below, write
from tests.encryption import plain_only

#: Appends to a file, until it is killed.
_RESTLESS = "import sys\nwith open(sys.argv[1], 'ab', buffering=0) as file:\n    print(flush=True)\n    while True: file.write(b'x')\n"


@pytest.fixture
def staging(program: Program, tmp_path: Path) -> Iterator[Path]:
    """A folder that is pets:v0, and changed since. Afterwards: still v0, and the same log."""
    folder = write(tmp_path / "pets", {b"a": File(b"a"), b"sub": Folder()})
    program.run("snapshot", folder, "pets")
    before = program.run("log", "pets", "--json").json
    (folder / "a").write_bytes(b"changed")
    yield folder
    after = program.run("log", "pets", "--json").json
    assert [entry for entry in after if "commit" in entry["act"]] == [entry for entry in before if "commit" in entry["act"]]
    assert sum("open" in entry["act"] for entry in after) == sum(("close" in e["act"]) or ("commit" in e["act"]) for e in after)
    assert program.run("ls", "pets").lines == ["v0  latest"]
    assert program.run("verify").code == 0
    packs = {path.name for path in files_below(Path(program.project) / "artifacts/pets/data")}
    assert len(packs) == 2


def test_sockets_and_fifos_are_named(program: Program, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(staging / "sub/pipe")
    monkeypatch.chdir(staging)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a-socket")
        refused = program.run("snapshot", staging, "pets", code=4).err
    assert "sub/pipe (FIFO)" in refused and "a-socket (socket)" in refused


@pytest.mark.needs_root
def test_devices_are_named(program: Program, staging: Path) -> None:
    os.mknod(staging / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(staging / "sub/disk", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    refused = program.run("snapshot", staging, "pets", code=4).err
    assert "null (character device)" in refused and "sub/disk (block device)" in refused


def test_a_file_that_is_written_all_the_time_is_named(program: Program, staging: Path) -> None:
    with open(staging / "restless", "wb") as file:
        file.truncate(300 << 20)  # a hole: long to read, and no room taken
    with subprocess.Popen([sys.executable, "-c", _RESTLESS, staging / "restless"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            assert "restless is being written" in program.run("snapshot", staging, "pets", code=4).err
        finally:
            writer.kill()


def test_a_file_that_may_not_be_read_is_named(program: Program, staging: Path) -> None:
    (staging / "secret").write_bytes(b"x")
    (staging / "secret").chmod(0)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root reads everything, unless it gives that up
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "--")
    assert "cannot read secret: Permission denied" in program.run("snapshot", staging, "pets", code=4, prefix=prefix).err
    (staging / "secret").chmod(0o600)
    (staging / "sub").chmod(0)
    assert "cannot read sub: Permission denied" in program.run("snapshot", staging, "pets", code=4, prefix=prefix).err
    (staging / "sub").chmod(0o700)


def test_the_cache_and_the_project_may_not_lie_in_the_folder(program: Program, staging: Path) -> None:
    assert "cache" in program.run("--cache", staging / "sub/cache", "snapshot", staging, "pets", code=4).err
    shutil.rmtree(staging / "sub/cache")
    (staging / "sub/link").symlink_to(program.home)
    assert "cache" in program.run("--cache", staging, "snapshot", staging, "pets", code=4).err
    assert "project" in program.run("--project", staging / "sub/project", "snapshot", staging, "pets", code=4).err
    assert "project" in program.run("snapshot", program.home, "pets", "--alias", "x", "--type", "dataset", code=4).err.replace(
        "cache", "project"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("snapshot", "nowhere", "pets"), 3),
        (("snapshot", "file", "pets"), 4),
        (("snapshot", "."), 2),
        (("snapshot", ".", "pets", "more"), 2),
        (("snapshot", ".", "pets:v1"), 2),
        (("snapshot", ".", "pets/x"), 2),
        (("snapshot", ".", "-pets"), 2),
        (("snapshot", ".", ".pets"), 2),
        (("snapshot", ".", ""), 2),
        (("snapshot", ".", "x" * 129), 2),
        (("snapshot", ".", "kätzchen"), 2),
        (("snapshot", ".", b"\xff"), 2),
        (("snapshot", ".", "a\nb"), 2),
        (("snapshot", ".", "pets", "--alias", "latest"), 2),
        (("snapshot", ".", "pets", "--alias", "v3"), 2),
        (("snapshot", ".", "pets", "--metadata", "x"), 2),
        (("snapshot", ".", "pets", "--metadata", "=x"), 2),
        (("snapshot", ".", "pets", "--nonsense"), 2),
        (("nonsense",), 2),
        (("--nonsense", "ls"), 2),
        (("ls", "--nonsense"), 2),
        (("ls", "../etc"), 2),
        (("ls", "pets:"), 2),
        (("ls", "pets:a:b"), 2),
        (("log", "pets:v0"), 2),
        (("log", "-n", "0"), 2),
        (("log", "-n", "x"), 2),
        (("diff", "pets:v0"), 2),
        (("diff", "pets:v0/a", "pets:v1/a"), 2),
        (("show", ":"), 2),
        (("show", "pets:v0/a"), 2),
        (("download",), 2),
        (("verify", "pets/a"), 2),
        (("mount",), 2),
        (("--cache-size", "1", "ls"), 2),
        (("--cache-size", "much", "ls"), 2),
        (("--project", "gopher://x", "ls"), 2),
        (("--project", "s3://", "ls"), 2),
        (("--project", "s3://a/b", "init", "extra"), 2),
    ],
    ids=lambda value: repr(value)[:60],
)
@encryption.plain_only
def test_one_line_and_the_right_code(program: Program, tmp_path: Path, arguments: tuple[str | bytes, ...], code: int) -> None:
    program.quick = True
    (program.folder / "file").write_bytes(b"")
    program.environment["ARTIFACTMOUNT_CACHE"] = str(tmp_path / "c")
    program.run(*arguments, code=code)
    assert code == 3 or arguments == ("snapshot", "file", "pets") or not (tmp_path / "project").exists()


@pytest.mark.parametrize("arguments", [("snapshot", ".", b"\xff"), ("nonsense",), ("ls", "--nonsense"), ("ls",)], ids=repr)
@encryption.plain_only
def test_one_line_from_a_process_of_its_own(program: Program, arguments: tuple[str | bytes, ...]) -> None:
    program.run(*arguments, code=3 if arguments == ("ls",) else 2)


def test_no_command_is_help_and_2(program: Program) -> None:
    with program.start() as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, b"") and b"Commands:" in out


@plain_only
@pytest.mark.parametrize("arguments", [("ls",), ("init",), ("snapshot", ".", "pets"), ("verify",)], ids=" ".join)
def test_a_store_that_cannot_be_reached_is_5(program: Program, arguments: tuple[str, ...]) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port, and nobody answers
        closed.bind(("127.0.0.1", 0))
        program.environment |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "ARTIFACTMOUNT_PROJECT": "s3://bucket/prefix",
        }
        program.run(*arguments, code=5)


def test_a_bucket_needs_init_first_and_a_bucket_that_is_not_there_is_an_error(program: Program, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("s3_server")
    program.environment |= server.environment()
    place = f"s3://{server.make_bucket()}/prefix"
    assert "init" in program.run("--project", place, "snapshot", ".", "pets", code=3).err
    ran = program.inside("--project", "s3://no-such-bucket-here/prefix", "ls")
    assert ran.code in (3, 5) and ran.err.count("\n") == 1


def test_no_project_but_other_files_at_the_place(program: Program, staging: Path) -> None:
    program.run("--project", staging, "ls", code=3)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff" * 100, b"[" * 100_000, b'{"format": 99}'], ids=lambda c: repr(c[:10]))
@encryption.plain_only
def test_a_damaged_project_file_is_6_or_a_refusal(program: Program, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/project.json").write_bytes(content)
    program.quick = True
    for arguments in (("ls",), ("snapshot", program.folder, "pets"), ("verify",)):
        program.run(*arguments, code=6)


def test_another_project_at_the_same_place_is_noticed(program: Program, tmp_path: Path) -> None:
    program.run("init")
    shutil.rmtree(tmp_path / "project")
    assert str(tmp_path) in program.run("init", code=4).err
    program.elsewhere(tmp_path / "other").run("init")
    program.run("ls", code=4)


def test_a_history_that_went_back_is_noticed(program: Program, tmp_path: Path) -> None:
    folder = write(tmp_path / "pets", {b"a": File(b"a")})
    program.run("snapshot", folder, "pets")
    shutil.copytree(tmp_path / "project", tmp_path / "backup")
    program.run("snapshot", write(folder, {b"a": File(b"b")}), "pets")
    shutil.rmtree(tmp_path / "project")
    os.rename(tmp_path / "backup", tmp_path / "project")
    shutil.rmtree(tmp_path / "cache")
    assert "pins" in program.run("ls", "pets", code=4).err
    program.run("snapshot", folder, "pets", code=4)
