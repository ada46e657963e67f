"""The places under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.sources.access import Access, Sources
from tests.sources.places import BucketPlace, FolderPlace, Place, WebPlace, web_place
from tests.store.servers import Server


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebPlace]:
    """A web server of one's own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with web_place(tmp_path / "web") as place:
        yield place


@pytest.fixture
def bucket(s3_environment: Server) -> BucketPlace:
    """A bucket without versions."""
    return BucketPlace(s3_environment)


@pytest.fixture
def versioned(s3_environment: Server) -> BucketPlace:
    """A bucket that keeps old versions."""
    return BucketPlace(s3_environment, versioned=True)


@pytest.fixture(params=["bucket", "disk", "web"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of place in which an overwritten file is gone."""
    if request.param == "disk":
        return FolderPlace(tmp_path / "disk")
    made: Place = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def sources() -> Iterator[Sources]:
    """Everything allowed. Buckets are those that the environment leads to when one is first asked for."""
    made = Sources(Access(("s3://", "file://", "http://")))
    yield made
    made.close()
