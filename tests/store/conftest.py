"""The stores under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.store.memory import MemoryStore
from artifactmount.store.s3 import S3Store
from tests.store.faults import Proxy, proxy
from tests.store.servers import Server


@pytest.fixture
def s3_store(s3_environment: Server) -> Iterator[S3Store]:
    """A store below a prefix of a new bucket."""
    store = S3Store(s3_environment.make_bucket(), "some/project")
    yield store
    store.close()


@pytest.fixture
def s3_proxy(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the server; the environment leads to the proxy."""
    with proxy(s3_environment.endpoint) as made:
        for name, value in s3_environment.environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def proxied_store(s3_environment: Server, s3_proxy: Proxy) -> Iterator[S3Store]:
    """A store in a new bucket, behind `s3_proxy`."""
    store = S3Store(s3_environment.make_bucket(), "p", read=20)
    yield store
    store.close()


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store, empty."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "folder":
        return FolderStore(str(tmp_path / "store"))
    made: S3Store = request.getfixturevalue("s3_store")
    return made
