"""A real S3 server on this machine, in a process of its own, for every test that needs a bucket.

    with s3_server() as server:
        bucket = server.make_bucket()
        subprocess.run(["artifactmount", "init", f"s3://{bucket}/p"], env={**os.environ, **server.environment()})

Tests take the fixture `s3_server` (tests/conftest.py), which starts one for the whole session when it is first asked for: moto's, or with
`--s3 ceph` Ceph's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from artifactmount.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ROOT = Path(__file__).parent.parent.parent
_START_SECONDS = 60
_START_SECONDS_OF_CEPH = 300  # 15 on idle cores
_STOP_SECONDS = 10
_ACCESS_KEY, _SECRET_KEY = "tester", "made-up"


class Server:
    """A running server. `client` is the AWS library's own, to prepare a bucket and to look into it behind the back of our code."""

    def __init__(self, ports: Sequence[str], pid: int) -> None:
        import boto3

        self.endpoint = endpoint = f"http://127.0.0.1:{ports[0]}"
        self.tls_endpoint = f"https://127.0.0.1:{ports[1]}" if len(ports) > 1 else ""
        self.pid = pid
        session = boto3.session.Session(_ACCESS_KEY, _SECRET_KEY, region_name="us-east-1")
        self.client: S3Client = session.client("s3", endpoint_url=endpoint)

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables that lead a process here, or to a proxy in front; no file of the user's has a say."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def make_bucket(self, *, versioned: bool = False) -> str:
        """The name of a new, empty bucket."""
        name = f"test-{uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def keys(self, bucket: str) -> list[str]:
        """What a bucket holds (the first 1000)."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def versions(self, bucket: str) -> list[str]:
        """The keys of all versions and delete markers in a bucket (the first 1000), once for each."""
        page = self.client.list_object_versions(Bucket=bucket)
        items: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        return sorted(item["Key"] for item in items)


@contextmanager
def s3_server(*arguments: str | Path, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Start moto's server, and stop it in the end, however that comes. `arguments` and `environment` are for the server itself."""
    with _running("tests.store.moto_server", *arguments, environment=environment, seconds=_START_SECONDS) as server:
        yield server


@contextmanager
def ceph_server() -> Iterator[Server]:
    """The same with Ceph's: it takes a quarter of a minute to start, and judges who asks."""
    with _running("tests.store.ceph_server", _ACCESS_KEY, _SECRET_KEY, environment=None, seconds=_START_SECONDS_OF_CEPH) as server:
        yield server


@contextmanager
def _running(module: str, *arguments: str | Path, environment: dict[str, str] | None, seconds: float) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,  # its end is the sign to stop, also when this process is killed
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            ports = process.stdout.readline().split() if ready else []
            if not ports:
                raise RuntimeError(f"the S3 server did not start: {module} {process.poll()}")
            server = Server(ports, process.pid)
            try:
                yield server
            finally:
                server.client.close()
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def every_call(store: Store) -> list[Callable[[], object]]:
    """Each kind of request of a store, for what all of them must say."""
    return [
        lambda: store.get("a"),
        lambda: store.create("a", b""),
        lambda: store.list_keys(""),
        lambda: store.list_prefixes(""),
        lambda: store.delete(["a"]),
    ]
