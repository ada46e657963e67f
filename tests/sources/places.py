"""Places that can be referenced, to write to behind the back of our code: buckets of a real S3 server, a folder, a real web server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.store.servers import Server

_PROGRAM = Path(__file__).with_name("web_server.py")


class Place(Protocol):
    """A place: names to contents. `folders`: whether what is below a prefix can be referenced at once."""

    folders: bool

    def put(self, name: str, content: bytes) -> None:
        """Write, or write anew."""

    def delete(self, name: str) -> None:
        """Take away."""

    def uri(self, name: str = "") -> str:
        """Of a name."""


class BucketPlace:
    """A prefix of a bucket."""

    folders = True

    def __init__(self, server: Server, *, versioned: bool = False) -> None:
        self.client, self.bucket = server.client, server.make_bucket(versioned=versioned)

    def put(self, name: str, content: bytes) -> None:
        """See Place."""
        self.client.put_object(Bucket=self.bucket, Key=f"some/{name}", Body=content)

    def delete(self, name: str) -> None:
        """See Place."""
        self.client.delete_object(Bucket=self.bucket, Key=f"some/{name}")

    def uri(self, name: str = "") -> str:
        """See Place."""
        return f"s3://{self.bucket}/some" + (f"/{name}" if name else "")


class FolderPlace:
    """A folder of this machine."""

    folders = True

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """See Place. Another inode each time, as two writes within one tick of the clock would look the same."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        fresh.rename(path)

    def delete(self, name: str) -> None:
        """See Place."""
        (self.path / name).unlink()

    def uri(self, name: str = "") -> str:
        """See Place."""
        return f"file://{self.path}" + (f"/{name}" if name else "")


class WebPlace(FolderPlace):
    """A folder behind a web server."""

    folders = False

    def __init__(self, path: Path, port: int) -> None:
        super().__init__(path)
        self.host = f"http://127.0.0.1:{port}"

    def uri(self, name: str = "") -> str:
        """See Place."""
        return f"{self.host}/plain" + (f"/{name}" if name else "")


@contextmanager
def web_place(path: Path) -> Iterator[WebPlace]:
    """A web server for a folder, stopped in the end."""
    path.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-P", _PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield WebPlace(path, int(process.stdout.readline()))
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
