"""mount(8), /etc/fstab and umount(8): a mount that is made and ended as any other file system's is."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artifactmount.cli.fstab import main
from tests.cli.program import Program, in_bucket
from tests.encryption import plain_only
from tests.fuse.mounts import Mount, Project, is_mounted, write
from tests.store.servers import Server

pytestmark = [pytest.mark.needs_fuse, plain_only]

HELPER = Path(sys.executable).with_name("mount.fuse.artifactmount")
_INSTALLED = Path("/sbin/mount.fuse.artifactmount")
_SECONDS = 60


@pytest.fixture
def animals(project: Project) -> Project:
    """A project with `animals:v0`."""
    writer = Program(project.root / "writer", project.url)
    writer.quick = True  # a process of its own would take as long as a mount
    writer.snapshot(write(project.root / "staging", {"cat.png": b"cat"}), "animals")
    (project.root / "mnt").mkdir()
    return project


@pytest.fixture
def _installed() -> Iterator[None]:
    """The helper where mount(8) looks for it, and afterwards what was there before. One test of this machine at a time."""
    with helper_at(_INSTALLED):
        yield


@contextmanager
def helper_at(path: Path) -> Iterator[None]:
    """The helper at this path, and afterwards what was there before; also what a run that was killed in the middle had put aside."""
    before = path.with_name(f".{path.name}.before-test")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(before):
            if not path.is_symlink() and path.exists():  # not what that run had put there
                raise FileExistsError(f"{before} was put aside by a run that was killed, and {path} is there again: remove one of them")
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.rename(before)
        try:
            path.symlink_to(HELPER)
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                before.rename(path)
    finally:
        os.close(folder)


def test_what_a_killed_run_put_aside_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / HELPER.name
    path.write_text("the machine's own")
    path.rename(before := path.with_name(f".{path.name}.before-test"))
    path.symlink_to(HELPER)
    with helper_at(path):
        assert path.readlink() == HELPER
    assert path.read_text() == "the machine's own" and not before.exists()
    before.write_text("older")
    with pytest.raises(FileExistsError), helper_at(path):
        pass
    assert (path.read_text(), before.read_text()) == ("the machine's own", "older")


def run(project: Project, *command: str | Path, code: int = 0) -> str:
    """A program with the project's environment; what it says on stderr."""
    ran = subprocess.run(command, env=project.environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert ran.returncode == code, f"{command}: {ran.returncode}: {ran.stdout}{ran.stderr}"
    assert "Traceback" not in ran.stderr and "Warning" not in ran.stderr, ran.stderr
    return ran.stderr


@contextmanager
def taken_away(project: Project) -> Iterator[Mount]:
    """The mount at `mnt`, which the block makes; none afterwards, whatever happens."""
    mount = Mount(project, project.root / "mnt")
    try:
        yield mount
    finally:
        if mount.pid == 0 and is_mounted(mount.path):
            mount.adopt()
        mount.take_away()


@pytest.mark.needs_root
@pytest.mark.usefixtures("_installed")
def test_a_line_of_fstab_is_mounted_once_and_unmounted(animals: Project) -> None:
    cache = animals.root / "cache of root"
    options = f'ro,allow_other,noexec,uid=1234,umask=077,_netdev,nofail,x-systemd.automount,cache="{cache}"'.replace(" ", "\\040")
    fstab = animals.root / "fstab"
    fstab.write_text(f"{animals.url} {animals.root}/mnt fuse.artifactmount {options} 0 0\n")
    with taken_away(animals) as mount:
        run(animals, "mount", "-T", fstab, mount.path)
        mount.adopt()
        status = (mount / "animals/latest/cat.png").stat()
        assert (mount / "animals/latest/cat.png").read_bytes() == b"cat"
        assert (status.st_uid, status.st_mode & 0o777) == (1234, 0o400)
        assert cache.is_dir()
        shown = subprocess.run(["findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", mount.path], capture_output=True, text=True, check=True)
        source, kind, set_to = shown.stdout.split()
        assert (source, kind) == (animals.url, "fuse.artifactmount")
        assert {"ro", "nosuid", "nodev", "noexec", "allow_other"} <= set(set_to.split(","))
        run(animals, "mount", "-a", "-T", fstab)  # boot scripts and people do that: a mount must not land on top of itself
        assert Path("/proc/self/mountinfo").read_text().count(f" {mount.path} ") == 1
        run(animals, "umount", mount.path)
        assert mount.ended() and not is_mounted(mount.path)


@pytest.mark.needs_root
@pytest.mark.usefixtures("_installed")
def test_a_bucket_is_mounted_with_the_credentials_of_a_file(s3_server: Server, tmp_path: Path) -> None:
    writer = in_bucket(tmp_path / "writer", s3_server)
    writer.snapshot(write(tmp_path / "staging", {"cat.png": b"cat"}), "animals")
    root = Project(tmp_path / "root", writer.project)  # as at boot: no variables
    (tmp_path / "root/mnt").mkdir()
    variables = tmp_path / "team.env"
    variables.touch(0o600)
    variables.write_text("".join(f'{name}="{value}"\n' for name, value in s3_server.environment().items()))
    with taken_away(root) as mount:
        run(root, "mount", "-t", "fuse.artifactmount", root.url, mount.path, "-o", f"env-file={variables}")  # mount(8) makes it rw
        mount.adopt()
        assert (mount / "animals/latest/cat.png").read_bytes() == b"cat"
        run(root, "umount", mount.path)
        assert mount.ended()
        variables.chmod(0o644)
        said = run(root, "mount", "-t", "fuse.artifactmount", root.url, mount.path, "-o", f"ro,env-file={variables}", code=32)
        assert "open to other users" in said and not is_mounted(mount.path)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [("remount", 1, "umount it"), ("ro,alow_other", 1, "'alow_other'"), ("ro,metrics=x", 1, "'x'"), ("ro,cache-size=1M", 1, "32M")],
)
def test_what_is_refused_is_named_on_one_line(
    options: str, code: int, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path), "-o", options]) == code
    said = capsys.readouterr().err
    assert re.fullmatch(r"mount.fuse.artifactmount: [^\n]*\n", said) and named in said
    assert main([str(tmp_path), str(tmp_path), "-f", "-o", "ro"]) == 0  # mount --fake: nothing is mounted
    assert not is_mounted(tmp_path)


def test_without_its_own_helper_mount_fuse3_runs_the_program(animals: Project) -> None:
    """It takes what the options of mount(8) mean to itself, and calls `artifactmount SOURCE MOUNTPOINT -o …` by the PATH."""
    animals.environment["PATH"] = f"{HELPER.parent}:{animals.environment['PATH']}"
    program = next(path for path in ("/sbin/mount.fuse3", "/usr/sbin/mount.fuse3") if os.path.exists(path))
    with taken_away(animals) as mount:
        run(animals, program, animals.url, mount.path, "-t", "fuse.artifactmount", "-o", "ro,_netdev,nofail,user")
        mount.adopt()
        assert (mount / "animals/latest/cat.png").read_bytes() == b"cat"
        animals.do("umount", mount.path)
        assert mount.ended()


def test_a_failed_mount_is_32_and_leaves_nothing(project: Project) -> None:
    path = project.root / "mnt"
    path.mkdir()
    assert "no project at" in run(project, HELPER, project.root / "none", path, "-o", "ro", code=32)
    assert not is_mounted(path)
