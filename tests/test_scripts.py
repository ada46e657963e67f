"""The scripts: they parse, refuse nonsense before they do anything, and the build machine runs what developers run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.project import Project
from artifactmount.snapshot import Options, take
from artifactmount.store.folder import FolderStore

ROOT = Path(__file__).parent.parent
SHELL = [
    ROOT / ".ci" / "run",
    *sorted(path for path in (ROOT / "scripts").iterdir() if path.suffix in {"", ".sh"} and path.is_file()),
]


def bash(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *arguments], capture_output=True, text=True, env=os.environ | variables, check=False)


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_a_script_parses(script: Path) -> None:
    ran = bash("-n", script)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_a_script_that_is_run_is_executable_and_one_that_is_sourced_is_not(script: Path) -> None:
    is_program = script.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK) == is_program
    assert is_program == (script.suffix != ".sh")


def test_the_build_machine_runs_scripts_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["exec bash scripts/test"]


@pytest.mark.parametrize("arguments", [["--help"], ["/nonexistent/folder"], ["a", "b", "c"]])
def test_quickstart_refuses_what_makes_no_sense_before_it_does_anything(arguments: list[str], tmp_path: Path) -> None:
    ran = bash(ROOT / "scripts" / "quickstart", *arguments, TMPDIR=str(tmp_path))
    assert ran.returncode == 2
    assert ran.stderr.startswith(("usage: ", "not a folder: "))
    assert ran.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_preparing_again_only_compares_a_stamp(tmp_path: Path) -> None:
    """Nothing that installs is called: neither of the two programs that could is on this PATH."""
    for name in ("dirname", "sha256sum"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    ran = bash("-c", f'PATH="{tmp_path}"; source "{ROOT}/scripts/environment.sh"; is_prepared test')
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_missing_packages_are_named_when_they_cannot_be_installed(tmp_path: Path) -> None:
    """On a PATH with nothing of what is needed, and no apt-get either."""
    ran = bash("-c", f'source "{ROOT}/scripts/environment.sh"; PATH="{tmp_path}"; install_packages test')
    assert ran.returncode == 1
    for name in ("python3-venv", "fuse3", "gcc", "pkg-config", "libfuse3-dev", "rsync", "attr", "strace"):
        assert name in ran.stderr.split("sudo apt-get install ")[1]
    assert ("systemd" in ran.stderr) == (os.geteuid() == 0)  # else the tests that need it are skipped


def test_missing_packages_of_ceph_are_named_and_only_those(tmp_path: Path) -> None:
    ran = bash("-c", f'source "{ROOT}/scripts/environment.sh"; PATH="{tmp_path}"; prepare_ceph')
    assert ran.returncode == 1
    assert "sudo apt-get install radosgw ceph-mon ceph-osd ceph-common)" in ran.stderr


@pytest.mark.parametrize(("what", "said"), [("run", ""), ("docs", ""), ("test", "torch\n")])
def test_only_tests_ask_for_pytorch(what: str, said: str) -> None:
    fakes = "is_prepared() { false; }; install_packages() { :; }; make_environment() { :; }; install_pytorch() { echo torch; }"
    ran = bash("-c", f'source "{ROOT}/scripts/environment.sh"; {fakes}; prepare_environment {what}')
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, said, "")


@pytest.mark.needs_root
def test_pytorch_that_cannot_be_had_is_tried_once(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "apt-get").touch(0o755)
    fakes = f'ROOT="{tmp_path}"; PATH="{tmp_path}:$PATH"; has_pytorch() {{ false; }}; quietly() {{ echo tried; false; }}'
    ran = bash("-c", f'source "{ROOT}/scripts/environment.sh"; {fakes}; install_pytorch; install_pytorch')
    assert (ran.returncode, ran.stdout) == (0, "tried\n") and "is skipped" in ran.stderr


@pytest.mark.needs_fuse
def test_quickstart_runs_the_main_job_and_leaves_nothing(tmp_path: Path) -> None:
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    ran = bash(ROOT / "scripts" / "quickstart", TMPDIR=str(temporary), HOME=str(home))
    assert (ran.returncode, ran.stderr) == (0, "")
    for line in ("sample:v1  +1 ~1 -1  adds", "latest\nv0\nv1\n", "A copied.py\nM json/encoder.py\nD json/tool.py\n"):
        assert line in ran.stdout
    assert list(temporary.iterdir()) == [] and list(home.iterdir()) == []


@pytest.mark.needs_fuse
def test_quickstart_of_a_folder_keeps_its_project_and_does_not_touch_the_folder(tmp_path: Path) -> None:
    temporary, home, folder = tmp_path / "tmp", tmp_path / "home", tmp_path / "my animals"
    for path in (temporary, home, folder):
        path.mkdir()
    (folder / "cat.png").write_bytes(b"cat")
    bases = {f"XDG_{name}_HOME": str(home / name) for name in ("DATA", "STATE", "CONFIG", "CACHE")}
    ran = bash(ROOT / "scripts" / "quickstart", folder, "animals", TMPDIR=str(temporary), HOME=str(home), **bases)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "animals:v0  +1 ~0 -0  adds 3 B  tracks 3 B" in ran.stdout and "animals:v0  unchanged" in ran.stdout
    assert list(temporary.iterdir()) == [] and os.listdir(folder) == ["cat.png"]
    assert sorted(path.name for path in home.iterdir()) == ["DATA", "STATE"]


@pytest.mark.parametrize("options", [("--seconds", "10"), ("--s3", "--seconds", "25", "--versions", "6")], ids=["folder", "s3"])
def test_writers_deleters_and_readers_killed_at_random_lose_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    """The short form of what scripts/check_stress.py does for five minutes."""
    command: list[str | Path] = [sys.executable, ROOT / "scripts/check_stress.py", *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False, timeout=110)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert re.fullmatch(r"seed \d+: (?=.*\d delete,)(?=.*\d gc,)(?=.* killed,).*: all good\n", ran.stdout)
    assert list(tmp_path.iterdir()) == []


def test_the_stress_check_sees_whatever_is_left_of_dead_writers(tmp_path: Path) -> None:
    not_live = runpy.run_path(str(ROOT / "scripts/check_stress.py"))["not_live"]
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging/file").write_bytes(b"content")
    with closing(Cache(str(tmp_path / "cache"))) as cache:
        project = Project(FolderStore(str(tmp_path / "project")), cache, str(tmp_path / "state"), create=True)
        take(project, str(tmp_path / "staging"), "stressed", Options())
        assert not_live(project) == []
        left = ["artifacts/stressed/data/0000000000000000/00000099", "artifacts/stressed/state/0000000000000001", "strange", ".tmp/1-a"]
        for path in left:
            (tmp_path / "project" / path).parent.mkdir(exist_ok=True)
            (tmp_path / "project" / path).write_bytes(b"left")
        assert [problem.rpartition(": ")[2] for problem in not_live(project)] == left
        (tmp_path / "project/artifacts/stressed/data/0000000000000000/00000000").unlink()
        assert len(not_live(project)) == 5


@pytest.mark.needs_fuse
def test_a_deletion_that_writes_packs_anew_is_measured_and_its_bytes_are_checked(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, ROOT / "scripts/bench/rewrite.py", "--files", "50", "--size", "2000", "--changed", "0.1"]
    ran = subprocess.run([*command, "--limit", "0", tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "it freed 10000; du says 100000 are stored" in ran.stdout, ran.stdout + ran.stderr
    assert re.findall("^WRONG: .*$", ran.stdout, re.MULTILINE) == [ran.stdout.splitlines()[-1]]
    assert ran.stdout.endswith("× the first snapshot, more than 0.0\n")


def test_many_objects_are_referenced_page_by_page() -> None:
    ran = subprocess.run([sys.executable, ROOT / "scripts/check_references.py", "2500"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    first, again = ran.stdout.splitlines()
    assert first.startswith("first: big:v0  +2525 ~0 -0  adds 0 B  tracks 3.1 MB; ") and again.startswith("again: big:v0  unchanged; ")


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ("random --schedules 3 --seed 7", "3 schedules from seed 7 in "),
        ("every --preemptions 0 --scene", "two snapshots, at most 0 preemptions and 0 faults: all schedules played, 2 to their end"),
    ],
)
def test_schedules_are_played(arguments: str, first: str) -> None:
    words = arguments.split() + (["two snapshots"] if arguments.endswith("--scene") else [])
    program = [sys.executable, str(ROOT / "scripts" / "check_schedules.py")]
    ran = subprocess.run(program + words, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(first) and ran.stdout.endswith("broken: none\n")
