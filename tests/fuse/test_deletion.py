"""Deletion under a real mount: what lives on reads right while the packs under it move; what is gone is gone, and the daemon lives."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Project, mounted, wait_until, write
from tests.store.servers import Server

pytestmark = pytest.mark.needs_fuse

KILO = 1000
_FILES = 40
_LARGE = 900 * KILO  # 36 MB in all: more than the daemon's memory holds, so that every round reads packs again


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Project:
    """An empty project in a folder, and again one in a bucket."""
    if request.param == "folder":
        return project
    server: Server = request.getfixturevalue("s3_server")
    made = Project(tmp_path / "writer", f"s3://{server.make_bucket()}/some/project", server.environment())
    made.do("init")
    return made


def another_user(of: Project, root: Path) -> Project:
    """Somebody else with the same project, who has nothing of it yet."""
    return Project(root, of.url, {name: value for name, value in of.environment.items() if name.startswith("AWS_")})


def contents(size: int) -> list[dict[str, bytes]]:
    """Ten versions of 40 files. Each changes a few, across packs that it shares with the others; v7 has v2's content again."""
    numbers, versions = random.Random(5), [dict[str, bytes]()]
    for n in range(_FILES):
        versions[0][f"d{n % 4}/{n:02d}"] = numbers.randbytes(size)
    for number in range(1, 10):
        files = dict(versions[-1])
        for name in numbers.sample(sorted(files), 6):
            files[name] = versions[2][name] if number == 7 else numbers.randbytes(size)
        versions.append(files)
    return versions


def log(project: Project, versions: list[dict[str, bytes]]) -> None:
    for number, files in enumerate(versions):
        folder = project.root / "staging"
        before = versions[number - 1] if number else {}
        write(folder, {name: content for name, content in files.items() if before.get(name) != content})
        assert f"animals:v{number} " in project.snapshot(folder, "animals")


class Loop:
    """Reads all files of a version, round after round, never from the kernel's own cache."""

    def __init__(self, top: Path, files: dict[str, bytes]) -> None:
        self._top, self._files = top, files
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        names, order = sorted(self._files), random.Random(6)
        while not self._stop.is_set() and not self.wrong:
            order.shuffle(names)
            for name in names:
                self._read(name)
            self.rounds += 1

    def _read(self, name: str) -> None:
        try:
            descriptor = os.open(self._top / name, os.O_RDONLY)
            try:
                with os.fdopen(os.dup(descriptor), "rb") as file:
                    if file.read() != self._files[name]:
                        self.wrong.append(f"{name}: wrong bytes")
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.wrong.append(f"{name}: {error}")

    def goes_on(self) -> None:
        """Another whole round, begun after this call."""
        seen = self.rounds
        wait_until(lambda: self.rounds >= seen + 2 or self.wrong, 60)
        assert self.wrong == []


def delete_all_but_v5(project: Project, loop: Loop) -> int:
    """Version by version, or, as each command takes a second there, three at once in a bucket; returns how many packs were written anew."""
    rewritten, at_once = 0, 3 if project.url.startswith("s3://") else 1
    order = [f"v{number}" for number in (0, 9, 1, 7, 3, 2, 8, 4, 6)]
    for start in range(0, len(order), at_once):
        gone = order[start : start + at_once]
        done = json.loads(project.do("delete", *(f"animals:{version}" for version in gone), "--yes", "--json"))
        assert sorted(done["versions"]) == sorted(gone)
        rewritten += done["rewritten"]
        loop.goes_on()
    return rewritten


def test_a_version_reads_right_while_all_others_are_deleted(anywhere: Project, tmp_path: Path) -> None:
    """The reader is another user, and has nowhere to cache: what is not in memory comes from the store, each time."""
    versions = contents(_LARGE)
    log(anywhere, versions)
    nowhere = write(tmp_path, {"no cache": b""}) / "no cache"
    with mounted(another_user(anywhere, tmp_path / "reader"), options=("--cache", str(nowhere))) as mount:
        with Loop(mount / "animals/v5", versions[5]) as loop:
            assert delete_all_but_v5(anywhere, loop) > (5 if anywhere.url.startswith("s3://") else 10)
        assert loop.wrong == []
        assert files_below(mount / "animals/v5") == set(versions[5])
        assert "ERROR" not in mount.log
    assert anywhere.do("verify").endswith("all good\n")


def test_a_mount_of_a_bucket_that_knows_an_older_state(s3_server: Server, tmp_path: Path) -> None:
    """Everything is read for the first time after the packs were moved, by what was known before."""
    project = Project(tmp_path / "writer", f"s3://{s3_server.make_bucket()}/some/project", s3_server.environment())
    project.do("init")
    versions = contents(50 * KILO)
    log(project, versions)
    for stage, gone in enumerate(("v0 v1 v9", "v2 v3 v7", "v4 v6 v8")):
        reader = Project(tmp_path / f"reader{stage}", project.url, s3_server.environment())
        with mounted(reader) as mount:
            assert files_below(mount / "animals/v5") == set(versions[5])
            project.do("delete", *(f"animals:{version}" for version in gone.split()), "--yes")
            for name, content in versions[5].items():
                assert (mount / "animals/v5" / name).read_bytes() == content, name
            assert "ERROR" not in mount.log
    assert project.do("verify").endswith("all good\n")


def test_a_daemon_that_sees_a_deletion_drops_the_content_from_its_cache(s3_server: Server, tmp_path: Path) -> None:
    project = Project(tmp_path / "writer", f"s3://{s3_server.make_bucket()}", s3_server.environment())
    project.do("init")
    secret, kept = (random.Random(seed).randbytes(200 * KILO) for seed in (11, 12))
    folder = write(tmp_path / "staging", {"secret": secret, "kept": kept})
    project.snapshot(folder, "animals")
    (folder / "secret").unlink()
    project.snapshot(folder, "animals")
    reader = Project(tmp_path / "reader", project.url, s3_server.environment())
    with mounted(reader) as mount:
        assert (mount / "animals/v0/secret").read_bytes() == secret and (mount / "animals/v0/kept").read_bytes() == kept
        assert secret in segments_of(reader) and kept in segments_of(reader)
        project.do("delete", "animals:v0", "--yes")
        wait_until(lambda: not os.path.lexists(mount / "animals/v0") and secret not in segments_of(reader))
        assert kept in segments_of(reader) and (mount / "animals/v1/kept").read_bytes() == kept


def segments_of(project: Project) -> bytes:
    """All content in a user's cache."""
    return b"".join(path.read_bytes() for path in project.segments.iterdir())


def files_below(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


@contextmanager
def one_file_open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_when_its_own_version_is_deleted_new_opens_fail_and_the_daemon_lives(anywhere: Project, tmp_path: Path) -> None:
    project = anywhere
    versions = [{"read": b"read before", "sub/never": random.Random(8).randbytes(300 * KILO), "keep": b"kept"}, {"keep": b"kept"}]
    folder = write(tmp_path / "staging", versions[0])
    project.snapshot(folder, "animals")
    (folder / "read").unlink()
    (folder / "sub/never").unlink()
    project.snapshot(folder, "animals")
    reader = another_user(project, tmp_path / "reader")
    with mounted(reader) as mount:
        assert (mount / "animals/v0/read").read_bytes() == b"read before"
        with one_file_open(mount / "animals/v0/sub/never") as descriptor:
            project.do("delete", "animals:v0", "--yes")
            wait_until(lambda: fails(mount / "animals/v0/sub/never"))
            with pytest.raises(OSError, match="Stale") as caught:
                os.pread(descriptor, 1000, 200 * KILO)
            assert caught.value.errno == errno.ESTALE
        wait_until(lambda: "v0" not in os.listdir(mount / "animals"))
        wait_until(lambda: not os.path.lexists(mount / "animals/v0"))
        assert (mount / "animals/v1/keep").read_bytes() == b"kept"
        still_there(project, mount, folder)


def fails(path: Path) -> bool:
    """Whether opening and reading fails with what says that it is gone; any other error is one."""
    try:
        path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return True
        raise
    return False


def still_there(project: Project, mount: Mount, folder: Path) -> None:
    """The daemon answers, and shows what is new."""
    project.snapshot(write(folder, {"new": b"new"}), "animals")
    wait_until(lambda: os.path.lexists(mount / "animals/v2"))
    assert wait_until(lambda: os.path.lexists(mount / "animals:latest/new"))  # the kernel may know the link as it was for a second
    assert (mount / "animals:latest/new").read_bytes() == b"new"
    assert not mount.ended(0)


def test_when_the_whole_artifact_is_deleted(project: Project, tmp_path: Path) -> None:
    project.snapshot(write(tmp_path / "staging", {"cat": random.Random(9).randbytes(300 * KILO)}), "animals")
    project.snapshot(write(tmp_path / "plants", {"oak": b"oak"}), "plants")
    reader = Project(tmp_path / "reader", project.url)
    with mounted(reader) as mount:
        assert os.listdir(mount / "animals/v0") == ["cat"]
        project.do("delete", "animals", "--all", "--yes")
        wait_until(lambda: fails(mount / "animals/v0/cat"))
        wait_until(lambda: os.listdir(mount.path) == ["plants"])
        assert (mount / "plants:latest/oak").read_bytes() == b"oak"
        project.snapshot(write(tmp_path / "staging", {"cat": b"another"}), "animals")
        wait_until(lambda: os.path.lexists(mount / "animals/v1"))
        assert (mount / "animals/latest/cat").read_bytes() == b"another"
        assert not mount.ended(0)
