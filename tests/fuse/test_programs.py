"""Programs that know nothing of us do on a mount what they do on any read-only folder."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.fuse.conftest import Gallery
from tests.fuse.loader import digest, load
from tests.fuse.mounts import Project, mounted, tree_of, write

pytestmark = pytest.mark.needs_fuse

_SECONDS = 60


def run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What a program prints; it must succeed and complain of nothing."""
    variables = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    done = subprocess.run(command, cwd=cwd, capture_output=True, env=variables, timeout=_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    return os.fsdecode(done.stdout)


def test_ls_shows_what_it_shows_of_the_original(gallery: Gallery) -> None:
    assert run("ls", "-1AR", "-b", ".", cwd=gallery.mount / "strange/v0") == run("ls", "-1AR", "-b", ".", cwd=gallery.strange)


def test_find_finds_what_it_finds_in_the_original(gallery: Gallery) -> None:
    for chosen in (["-type", "f"], ["-type", "d"], ["-type", "l"], ["-empty"], ["-size", "+1M"], ["-newermt", "2100-01-01", "-type", "f"]):
        there, here = (run("find", ".", *chosen, "-print0", cwd=top) for top in (gallery.mount / "strange/v0", gallery.strange))
        assert sorted(there.split("\0")) == sorted(here.split("\0")), chosen


def test_cp_keeps_everything_and_diff_finds_nothing(gallery: Gallery, tmp_path: Path) -> None:
    run("cp", "-a", gallery.mount / "strange/v0", tmp_path / "copy")
    assert tree_of(tmp_path / "copy") == tree_of(gallery.strange)
    assert (tmp_path / "copy/before1970").stat().st_mtime_ns == -1_500_000_001
    assert run("diff", "-r", "--no-dereference", gallery.mount / "strange/v0", gallery.strange) == ""
    run("chmod", "-R", "u+w", tmp_path / "copy")


def test_diff_of_two_versions_shows_what_changed(gallery: Gallery) -> None:
    done = subprocess.run(["diff", "-rq", "v0", "v1"], cwd=gallery.mount / "animals", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "Only in v1: rat.png\n", "")


def test_tar_through_a_pipe(gallery: Gallery, tmp_path: Path) -> None:
    with subprocess.Popen(["tar", "c", "-C", gallery.mount / "strange/v0", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tar:
        assert tar.stdout is not None and tar.stderr is not None
        subprocess.run(["tar", "x", "--delay-directory-restore"], cwd=tmp_path, stdin=tar.stdout, timeout=_SECONDS, check=True)
        assert tar.stderr.read() == b""
    assert tar.returncode == 0
    assert tree_of(tmp_path) == tree_of(gallery.strange)
    run("chmod", "-R", "u+w", tmp_path)


def test_a_shared_file_is_copied_with_each_version(gallery: Gallery, tmp_path: Path) -> None:
    """It is one inode; as its link count is 1, nobody takes that for a hard link. (GNU tar does where it is given several folders.)"""
    animals = gallery.mount / "animals"
    with subprocess.Popen(["tar", "c", "."], cwd=animals, stdout=subprocess.PIPE) as tar:
        listed = subprocess.run(["tar", "tv"], stdin=tar.stdout, capture_output=True, text=True, timeout=_SECONDS, check=True)
    sizes = {line.split()[5]: int(line.split()[2]) for line in listed.stdout.splitlines()}
    assert sizes["./v0/cat.png"] == sizes["./v1/cat.png"] == 2_000_000
    run("cp", "-a", animals / "v0", animals / "v1", tmp_path)
    assert not os.path.samefile(tmp_path / "v0/cat.png", tmp_path / "v1/cat.png")
    with subprocess.Popen(["tar", "c", "v0", "v1"], cwd=animals, stdout=subprocess.PIPE) as tar:
        (tmp_path / "several").mkdir()
        subprocess.run(["tar", "x"], cwd=tmp_path / "several", stdin=tar.stdout, timeout=_SECONDS, check=True)
    assert [tree_of(tmp_path / "several" / name) for name in ("v0", "v1")] == [tree_of(folder) for folder in gallery.seed]


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_by_checksum_finds_nothing_to_copy(gallery: Gallery, tmp_path: Path) -> None:
    for number in (0, 1):
        run("rsync", "-rlc", f"{gallery.mount / f'animals/v{number}'}/", tmp_path / "copy")
        assert tree_of(tmp_path / "copy") == tree_of(gallery.seed[number])
    changed = run("rsync", "-rlcn", "--itemize-changes", "--delete", f"{gallery.mount / 'strange/v0'}/", gallery.strange)
    assert [line for line in changed.splitlines() if line.startswith((">", "c", "*"))] == []


def test_du_counts_a_shared_file_once(gallery: Gallery) -> None:
    animals = gallery.mount / "animals"
    sizes = [int(run("du", "-bs", animals / name).split()[0]) for name in ("v0", "v1")]
    assert sizes == [3_000_000, 6_000_000]
    both = run("du", "-bsc", animals / "v0", animals / "v1").splitlines()
    assert int(both[-1].split()[0]) == 6_000_000


def test_grep_through_all_files(gallery: Gallery) -> None:
    found = run("grep", "-rlaz", "--", "dash", gallery.mount / "strange/v0")
    assert found == f"{gallery.mount / 'strange/v0/-rf'}\n"


def test_mapped_memory_is_the_file(gallery: Gallery) -> None:
    original, numbers = (gallery.strange / "large").read_bytes(), random.Random(5)
    with (gallery.mount / "strange/v0/large").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert len(mapped) == len(original)
        for _ in range(300):
            at = numbers.randrange(len(original) - 8)
            assert struct.unpack_from("<Q", mapped, at) == struct.unpack_from("<Q", original, at)
        assert mapped.find(original[7_000_000:7_000_064]) == 7_000_000
        assert mapped[:] == original
    with (gallery.mount / "strange/v0/large").open("rb") as file, pytest.raises(PermissionError):
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE).close()


def test_worker_processes_read_everything(gallery: Gallery) -> None:
    top = gallery.mount / "animals/latest"
    paths = [*sorted(top.iterdir()), *(gallery.mount / "crowd/v0" / f"{number:05d}" for number in range(0, 10_000, 100))]
    originals = [*sorted(gallery.seed[1].iterdir()), *(gallery.crowd / f"{number:05d}" for number in range(0, 10_000, 100))]
    assert load(paths, workers=2) == [digest(path) for path in originals]


def test_a_web_server(gallery: Gallery) -> None:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(gallery.mount.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(" port ")[1].split()[0])
            for path in ("animals/latest/rat.png", "animals:v1/rat.png", "strange/v0/new%0Aline"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=_SECONDS) as answer:
                    found = answer.read()
                assert found == ((gallery.seed[1] / "rat.png").read_bytes() if "rat" in path else b"newline")
        finally:
            server.kill()


def test_a_database(project: Project) -> None:
    staging = project.root / "staging"
    staging.mkdir()
    with closing(sqlite3.connect(staging / "base.db")) as base:
        base.execute("create table pairs (a integer primary key, b text)")
        base.executemany("insert into pairs values (?, ?)", ((number, f"text {number}" * 20) for number in range(20_000)))
        base.execute("create index by_b on pairs (b)")
        base.commit()
    project.snapshot(staging, "base")
    with mounted(project) as mount:
        path = mount / "base/latest/base.db"
        for address, uri in ((f"file:{path}?mode=ro&immutable=0", True), (f"file:{path}?immutable=1", True), (str(path), False)):
            with closing(sqlite3.connect(address, uri=uri)) as base:
                assert base.execute("select count(*), sum(a) from pairs").fetchone() == (20_000, 199_990_000)
                assert base.execute("select a from pairs where b = ?", ("text 4321" * 20,)).fetchall() == [(4321,)]
                assert base.execute("pragma integrity_check").fetchone() == ("ok",)
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    base.execute("delete from pairs")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_repository_is_cloned_from_a_version(project: Project) -> None:
    work, staging = project.root / "work", project.root / "staging"
    mine = {**project.environment, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        mine |= {f"GIT_{who}_NAME": "somebody", f"GIT_{who}_EMAIL": "somebody@example.org"}
    run("git", "init", "-q", "-b", "main", work, environment=mine)
    for number in range(3):
        write(work, {f"file{number}": os.urandom(100_000), "changing": b"%d" % number})
        run("git", "add", ".", cwd=work, environment=mine)
        run("git", "commit", "-q", "-m", f"commit {number}", cwd=work, environment=mine)
    run("git", "clone", "-q", "--bare", work, staging / "work.git", environment=mine)
    project.snapshot(staging, "repository")
    with mounted(project) as mount:
        run("git", "clone", "-q", mount / "repository/latest/work.git", project.root / "clone", environment=mine)
        run("git", "fsck", "--strict", "--no-progress", "--full", cwd=mount / "repository/latest/work.git", environment=mine)
    assert run("git", "rev-parse", "HEAD", cwd=project.root / "clone") == run("git", "rev-parse", "HEAD", cwd=work)
    assert (project.root / "clone/file2").read_bytes() == (work / "file2").read_bytes()


def test_python_imports_from_a_version(project: Project) -> None:
    project.snapshot(
        write(
            project.root / "staging", {"lib/greeting/__init__.py": b"from .text import hello\n", "lib/greeting/text.py": b"hello = 'hi'\n"}
        ),
        "code",
    )
    with mounted(project) as mount:
        said = run(
            sys.executable, "-c", "import greeting; print(greeting.hello)", environment={"PYTHONPATH": str(mount / "code/latest/lib")}
        )
    assert said == "hi\n"
