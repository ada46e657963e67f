"""A mount of an encrypted project, in every run. All of it: `ARTIFACTMOUNT_TEST_ENCRYPT=1 scripts/test tests/fuse`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifactmount.document import read_document
from artifactmount.keys import unlock
from artifactmount.project import open_store
from tests import encryption
from tests.fuse.mounts import Mount, Project, mounted, wait_until, write
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
        server: Server = request.getfixturevalue("s3_environment")
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
        assert not keys_in(project, mount)


def keys_in(project: Project, mount: Mount) -> list[str]:
    """Where a key stands for others to find: in what everybody sees of the daemon, or in what it wrote. The key file's own, which the
    search must find in that file, and the project's, which is nowhere but in the daemon's memory."""
    store = open_store(project.url)
    key = unlock(store, read_document(store.get("project.json")).id, encryption.keyring(project.root / "home"))
    store.close()
    files = [path for name in ("cache", "state", "config", "home") for path in (project.root / name).rglob("*") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in [*files, *(Path(f"/proc/{mount.pid}/{name}") for name in ("cmdline", "environ"))]}
    assert all(texts.values()) and len(texts) > 5
    secrets = [text for raw in (encryption.KEY, key.raw) for text in (raw, raw.hex().encode())]
    found = [where for where, content in texts.items() if any(secret in content for secret in secrets)]
    found.remove(str(project.root / "home" / "project.key"))
    return found


def test_the_daemon_gets_a_passphrase_through_a_pipe_and_nowhere_else(project: Project) -> None:
    project.environment["ARTIFACTMOUNT_NEW_PASSPHRASE"] = "correct horse"
    project.do("key", "add", "--passphrase")
    del project.environment["ARTIFACTMOUNT_KEY_FILE"]  # the other variable stays: it has the same passphrase in it
    (project.root / "mnt").mkdir()
    assert "--key-file" in project.do("mount", project.root / "mnt", code=4)
    project.environment["ARTIFACTMOUNT_PASSPHRASE"] = "wrong"
    assert "does not open it" in project.do("mount", project.root / "mnt", code=4)
    project.environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    with mounted(project) as mount:
        assert os.listdir(mount.path) == []
        for place in ("cmdline", "environ"):
            assert b"correct horse" not in Path(f"/proc/{mount.pid}/{place}").read_bytes()
        assert "correct horse" not in mount.log
    with project.start("mount", "--foreground", project.root / "mnt") as process:
        try:
            assert process.stderr is not None and "is mounted at" in process.stderr.readline()
            assert b"correct horse" not in Path(f"/proc/{process.pid}/environ").read_bytes()
            project.do("umount", project.root / "mnt")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            Mount(project, project.root / "mnt").take_away()
