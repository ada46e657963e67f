"""What tests of several layers share: a real S3 server, and an environment that leads to it.

With `--s3 ceph` the server is Ceph's, and only the tests that use it are run, without those that are marked `moto_only`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.store import servers
from tests.store.servers import Server

settings.register_profile("untimed", deadline=None)  # how busy a machine is says nothing of the code
settings.load_profile("untimed")


_CEPH_SECONDS = 600  # for a test; the first one also starts the cluster
_left_out = pytest.StashKey[dict[str, int]]()


def pytest_configure() -> None:
    """A job in the background of a shell ignores ^C, and what it starts does, too: then no test could interrupt a command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """See the module."""
    parser.addoption("--s3", choices=("moto", "ceph"), default="moto", help="the S3 server to test with (moto); ceph: only what uses one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the other server, over Ceph also what says nothing of it; and remember why."""
    over_ceph = config.getoption("--s3") == "ceph"
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    reasons = config.stash.setdefault(_left_out, {})
    for item in items:
        reason = _no_test_of_ceph(item) if over_ceph else _no_test_of_moto(item)
        if reason is None:
            kept.append(item)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
            left_out.append(item)
        if over_ceph:
            item.add_marker(pytest.mark.timeout(_CEPH_SECONDS), append=False)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _no_test_of_moto(item: pytest.Item) -> str | None:
    return "are for scripts/test --s3 ceph" if item.get_closest_marker("ceph_only") else None


def _no_test_of_ceph(item: pytest.Item) -> str | None:
    if not _uses_s3(item):
        return "do not use the S3 server"
    only = item.get_closest_marker("moto_only")
    return str(only.args[0]) if only else None


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Says what was left out."""
    return [f"left out: {count} that {reason}" for reason, count in config.stash.get(_left_out, {}).items()]


def _uses_s3(item: pytest.Item) -> bool:
    """By its fixtures, or by a parameter: the fixtures that have one take the server only then."""
    callspec = getattr(item, "callspec", None)
    chosen = callspec.params.values() if callspec is not None else ()
    return "s3_server" in getattr(item, "fixturenames", ()) or "s3" in chosen or "bucket" in chosen


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for the whole session, started when first asked for. Take a new bucket each time."""
    start = servers.ceph_server if request.config.getoption("--s3") == "ceph" else servers.s3_server
    with start() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the environment of this process leading to it and nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def answering(tmp_path: Path) -> None:
    """Skips where the file system does not say what of a file is in memory, as overlayfs or tmpfs of older kernels."""
    (tmp_path / "new").write_bytes(b"x")
    descriptor = os.open(tmp_path / "new", os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        pytest.skip(f"no RWF_NOWAIT in {tmp_path}: {error}")
    finally:
        os.close(descriptor)
