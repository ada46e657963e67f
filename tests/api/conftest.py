"""A user's home, and a project in a folder, or in a bucket of a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactmount as am
import artifactmount.wandb as wandb
from tests.store.servers import Server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who has nothing yet, and whose project is configured to be the folder `project`."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "ARTIFACTMOUNT_", "XDG_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", str(tmp_path / "project"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def run(home: Path) -> Iterator[am.Run]:
    """An open project in a folder."""
    with am.init() as run:
        yield run


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As `home`, and again with a project in a bucket. Ends the run that a script left."""
    if request.param == "s3":
        server: Server = request.getfixturevalue("s3_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", f"s3://{server.make_bucket()}/team")
    yield home
    wandb.finish()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Files of these contents in a folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def draft(files: dict[str, bytes], name: str = "animals", type_: str = "dataset") -> am.Artifact:
    """A draft of new files."""
    artifact = am.Artifact(name, type_)
    for path, content in files.items():
        with artifact.new_file(path, "xb") as file:
            file.write(content)
    return artifact
