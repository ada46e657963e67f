"""A mount of an encrypted project, in every run. All of it: `ARTIFACTMOUNT_TEST_ENCRYPT=1 scripts/test tests/fuse`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import encryption
from tests.fuse.mounts import Project, mounted, wait_until, write
from tests.store.servers import Server

pytestmark = pytest.mark.needs_fuse


@pytest.fixture(autouse=True)
def encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "ENCRYPTED", True)


@pytest.fixture
def project(encrypted: None, tmp_path: Path) -> Project:
    """An encrypted project in a folder."""
    return Project(tmp_path)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_an_encrypted_project_is_read_as_any_other(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if where == "folder":
        project = Project(tmp_path)
    else:
        server: Server = request.getfixturevalue("s3_server")
        project = Project(tmp_path, f"s3://{server.make_bucket()}/some/project", server.environment())
        project.do("init")
    large = os.urandom(3_000_000)
    staging = write(project.root / "staging", {"a/small": b"small", "large": large})
    project.snapshot(staging, "animals")
    with mounted(project) as mount:
        assert (mount / "animals/v0/a/small").read_bytes() == b"small" and (mount / "animals/latest/large").read_bytes() == large
        write(staging, {"new": b"new"})
        project.snapshot(staging, "animals")
        wait_until((mount / "animals/v1/new").exists)
        assert (mount / "animals/v1/new").read_bytes() == b"new"
        with open(mount / "animals/v0/large", "rb") as file:
            file.seek(1_500_000)
            assert file.read(1000) == large[1_500_000:1_501_000]
        command = Path(f"/proc/{mount.pid}/cmdline").read_bytes() + Path(f"/proc/{mount.pid}/environ").read_bytes()
        assert encryption.KEY.hex().encode() not in command


def test_the_daemon_gets_a_passphrase_through_a_pipe_and_nowhere_else(project: Project) -> None:
    project.environment["ARTIFACTMOUNT_NEW_PASSPHRASE"] = "correct horse"
    project.do("key", "add", "--passphrase")
    del project.environment["ARTIFACTMOUNT_KEY_FILE"]  # the other variable stays: it has the same passphrase in it
    (project.root / "mnt").mkdir()
    assert "--key-file" in project.do("mount", project.root / "mnt", code=5)
    project.environment["ARTIFACTMOUNT_PASSPHRASE"] = "wrong"
    assert "does not open it" in project.do("mount", project.root / "mnt", code=5)
    project.environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    with mounted(project) as mount:
        assert os.listdir(mount.path) == []
        for place in ("cmdline", "environ"):
            assert b"correct horse" not in Path(f"/proc/{mount.pid}/{place}").read_bytes()
        assert "correct horse" not in mount.log
