"""How mounts begin and end: in the background and not, by command and by signal, in use and killed, twice and in the wrong place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artifactmount.mountpoint import READ_AHEAD_KIB, mount_at
from tests.fuse.mounts import Project, is_mounted, mounted, wait_until, write

pytestmark = pytest.mark.needs_fuse

_SECONDS = 30


@pytest.fixture
def animals(project: Project) -> Project:
    """A project with `animals:v0`: a small file, and one too large to be remembered by chance."""
    project.snapshot(write(project.root / "staging", {"cat.png": b"cat", "large": os.urandom(24 << 20)}), "animals")
    (project.root / "mnt").mkdir()
    return project


@contextmanager
def user_of(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has its working directory there, until the block ends."""
    with subprocess.Popen(["cat"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as program:
        try:
            yield program
        finally:
            program.kill()


# -- begin ---------------------------------------------------------------------------------------------------------------------------
def test_mount_returns_when_it_can_be_listed_and_umount_when_it_is_gone(animals: Project) -> None:
    with mounted(animals) as mount:
        assert os.listdir(mount / "animals/latest") == ["cat.png", "large"]
        assert not mount.ended(0)
        animals.do("umount", mount.path)
        assert mount.ended(0) and not is_mounted(mount.path)
        assert os.listdir(mount.path) == []
        assert "is mounted at" in mount.log and "is unmounted" in mount.log
    with mounted(animals) as mount:
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may let the kernel read further ahead")
def test_the_kernel_is_told_to_read_further_ahead_when_the_mount_has_begun(animals: Project) -> None:
    """Before, it would take it back: at the first request it sets what it reads ahead to 128 KiB."""
    with mounted(animals) as mount:
        assert os.listdir(mount / "animals/latest")
        found = mount_at(str(mount.path))
        assert found is not None
        amount = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
        wait_until(lambda: amount.read_text().strip() == str(READ_AHEAD_KIB))


def test_a_mount_by_a_relative_path_and_through_a_link(animals: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(animals.root)
    (animals.root / "other").symlink_to("mnt")
    with mounted(animals) as mount:
        assert "mounted already" in animals.do("mount", "other", code=4)
        animals.do("umount", "./other/")
        assert not is_mounted(mount.path)


def test_a_mount_of_a_project_by_a_relative_path(animals: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has another working directory."""
    monkeypatch.chdir(animals.root)
    with mounted(animals, options=("--project", "project")) as mount:
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"


def test_a_mountpoint_with_spaces_and_strange_bytes(animals: Project) -> None:
    with mounted(animals, "a b\\040\n" + os.fsdecode(b"\xff")) as mount:
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_unmounts_and_is_no_failure(animals: Project, number: signal.Signals) -> None:
    path = animals.root / "mnt"
    with animals.start("mount", path, "--foreground") as process:
        try:
            wait_until(lambda: is_mounted(path) or process.poll() is not None)
            assert wait_until((path / "animals/v0/cat.png").exists)
            process.send_signal(number)
            _, err = process.communicate(timeout=_SECONDS)
            assert process.returncode == 0, err
            assert "is mounted at" in err and "Traceback" not in err
            assert not is_mounted(path)
        finally:
            process.kill()
            if is_mounted(path):
                subprocess.run(["fusermount3", "-u", "-z", "--", path], check=True)


def test_umount_ends_a_mount_in_the_foreground(animals: Project) -> None:
    path = animals.root / "mnt"
    with animals.start("mount", path, "--foreground") as process:
        try:
            wait_until(lambda: is_mounted(path) and (path / "animals/v0/cat.png").exists())
            animals.do("umount", path)
            assert process.wait(_SECONDS) == 0
        finally:
            process.kill()
            if is_mounted(path):
                subprocess.run(["fusermount3", "-u", "-z", "--", path], check=True)


# -- end -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_daemon_unmounts_even_what_is_in_use(animals: Project, number: signal.Signals) -> None:
    with mounted(animals) as mount, (mount / "animals/v0/large").open("rb") as file, user_of(mount / "animals/v0"):
        assert len(file.read(100)) == 100
        mount.signal(number)
        wait_until(lambda: not is_mounted(mount.path))
        assert mount.ended()
        with pytest.raises(OSError, match=r"not connected|Input/output|aborted"):
            os.pread(file.fileno(), 100, 20 << 20)


def test_readers_of_a_killed_daemon_get_errors_and_the_next_mount_clears_up(animals: Project) -> None:
    with mounted(animals) as killed:
        descriptor = os.open(killed / "animals/v0/large", os.O_RDONLY)
        assert len(os.read(descriptor, 100)) == 100
        killed.signal(signal.SIGKILL)
        assert killed.ended()
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.pread(descriptor, 100, 20 << 20)
        with suppress(OSError):  # it cannot be told of the end either
            os.close(descriptor)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(killed.path)
        assert is_mounted(killed.path)
        with mounted(animals) as mount:
            assert mount.pid != killed.pid
            assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"
        assert not is_mounted(killed.path)


def test_a_read_that_waits_when_the_daemon_is_killed_ends_with_an_error(animals: Project) -> None:
    with mounted(animals) as mount:
        mount.signal(signal.SIGSTOP)
        with subprocess.Popen(["cat", mount / "animals/v0/large"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as reader:
            try:
                wait_until(lambda: Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()[0] in "DS")
                mount.signal(signal.SIGKILL)
                _, said = reader.communicate(timeout=_SECONDS)
                assert reader.returncode == 1 and ("not connected" in said or "abort" in said), said
            finally:
                mount.signal(signal.SIGKILL)
                reader.kill()


def test_umount_of_a_killed_daemon(animals: Project) -> None:
    with mounted(animals) as mount, user_of(mount / "animals"):
        mount.signal(signal.SIGKILL)
        assert mount.ended()
        animals.do("umount", mount.path)
        assert not is_mounted(mount.path)


def test_a_mount_in_use_is_not_unmounted_but_lazily(animals: Project) -> None:
    with mounted(animals) as mount:
        with user_of(mount / "animals/v0") as user:
            said = animals.do("umount", mount.path, code=4)
            assert "in use" in said and "--lazy" in said
            assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"
            animals.do("umount", "--lazy", mount.path)
            assert not is_mounted(mount.path) and not mount.ended(0)
            assert os.listdir(f"/proc/{user.pid}/cwd") == ["cat.png", "large"]
        assert mount.ended()


def test_after_a_lazy_umount_the_place_is_refused_until_the_last_user_is_gone(animals: Project) -> None:
    with mounted(animals) as mount:
        with user_of(mount / "animals/v0"):
            animals.do("umount", "--lazy", mount.path)
            assert "mounted already" in animals.do("mount", mount.path, code=4)
        assert mount.ended()
    with mounted(animals) as mount:
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"


def test_nothing_is_there_to_unmount(animals: Project) -> None:
    assert "nothing of artifactmount is mounted" in animals.do("umount", animals.root / "mnt", code=3)
    assert "nothing of artifactmount is mounted" in animals.do("umount", animals.root / "nowhere", code=3)
    assert "nothing of artifactmount is mounted" in animals.do("umount", "/proc", code=3)


# -- where a mount may be --------------------------------------------------------------------------------------------------------------
def test_a_mountpoint_must_be_a_folder_that_is_there(animals: Project) -> None:
    said = animals.do("mount", animals.root / "nowhere", code=3)
    assert f"mkdir {animals.root / 'nowhere'}" in said
    assert "not a folder" in animals.do("mount", animals.root / "staging/cat.png", code=2)
    (animals.root / "dangling").symlink_to("nowhere")
    animals.do("mount", animals.root / "dangling", code=3)


def test_a_project_that_is_not_there_is_not_mounted(animals: Project) -> None:
    said = animals.do("--project", str(animals.root / "none"), "mount", animals.root / "mnt", code=3)
    assert "no project at" in said and "init" in said
    assert not is_mounted(animals.root / "mnt")


@pytest.mark.parametrize("place", [".", "project", "project/artifacts", "cache", "cache/artifactmount", "state"])
def test_a_mount_over_its_own_project_cache_or_state_is_refused(animals: Project, place: str) -> None:
    said = animals.do("mount", animals.root / place, code=4)
    assert "must lie apart" in said
    assert not is_mounted(animals.root / place)


def test_a_second_mount_on_the_first_is_refused(animals: Project) -> None:
    other = Project(animals.root / "other", animals.url)  # of somebody with records of his own
    with mounted(animals) as mount:
        for user in (animals, other):
            said = user.do("mount", mount.path, code=4)
            assert "mounted already" in said
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"


def test_of_two_mounts_at_once_exactly_one_wins(animals: Project) -> None:
    path = animals.root / "mnt"
    for _ in range(2):
        both = [animals.start("mount", path) for _ in range(2)]
        try:
            said = [process.communicate(timeout=_SECONDS)[1] for process in both]
            assert sorted(process.returncode for process in both) == [0, 4], said
            assert any("mounted already" in text or "being mounted" in text for text in said)
            assert (path / "animals/v0/cat.png").read_bytes() == b"cat"
            animals.do("umount", path)
            assert not is_mounted(path)
        finally:
            for process in both:
                process.kill()
                process.wait()
            while is_mounted(path):
                subprocess.run(["fusermount3", "-u", "-z", "--", path], check=True)


def test_two_mounts_of_one_project_share_one_cache(animals: Project) -> None:
    with mounted(animals, "mnt") as first, mounted(animals, "mnt2") as second:
        for mount in (first, second):
            assert (mount / "animals/v0/large").read_bytes() == (animals.root / "staging/large").read_bytes()
        assert first.pid != second.pid
        animals.snapshot(write(animals.root / "staging", {"dog.png": b"dog"}), "animals")
        wait_until(lambda: all((mount / "animals/v1").exists() for mount in (first, second)))
        assert (first / "animals/v1/dog.png").read_bytes() == (second / "animals/v1/dog.png").read_bytes() == b"dog"
        animals.do("umount", first.path)
        assert (second / "animals/v1/cat.png").read_bytes() == b"cat"


def test_the_cache_may_be_deleted_under_a_mount(animals: Project) -> None:
    with mounted(animals) as mount:
        assert (mount / "animals/v0/cat.png").read_bytes() == b"cat"
        shutil.rmtree(animals.root / "cache")
        assert (mount / "animals/v0/large").read_bytes() == (animals.root / "staging/large").read_bytes()
        animals.snapshot(write(animals.root / "staging", {"dog.png": b"dog"}), "animals")
        wait_until((mount / "animals/v1").exists)
        assert (mount / "animals/v1/dog.png").read_bytes() == b"dog"


# -- a mount is nothing to snapshot ----------------------------------------------------------------------------------------------------
def test_a_folder_in_a_mount_or_around_one_is_no_staging_folder(animals: Project) -> None:
    with mounted(animals, "outer/mnt") as mount:
        for folder in (mount.path, mount / "animals/v0", mount / "animals/latest"):
            assert "lies in the mount" in animals.do("snapshot", folder, "copy", code=4)
        assert "holds the mount" in animals.do("snapshot", animals.root / "outer", "copy", code=4)
        assert "artifact copy" not in animals.do("ls")


def test_files_of_a_mount_are_private(animals: Project) -> None:
    with mounted(animals) as mount:
        record = animals.record(mount.path)
        for path in (Path(record["log"]), *animals.records.glob("*.json")):
            assert path.stat().st_mode & 0o077 == 0
        assert animals.records.stat().st_mode & 0o077 == 0
        options = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mount.path} " in line)
        assert "allow_other" not in options and " ro," in options and "nosuid" in options
