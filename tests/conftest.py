"""What tests of several layers share: a real S3 server, and an environment that leads to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.store import servers
from tests.store.servers import Server

settings.register_profile("untimed", deadline=None)  # how busy a machine is says nothing of the code
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """One server for the whole session, started when first asked for. Take a new bucket each time."""
    with servers.s3_server() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the environment of this process leading to it and nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server
