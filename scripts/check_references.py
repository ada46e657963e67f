"""How long it takes to reference many objects, and how much memory: a bucket of made-up objects, listed over real HTTP.

    python scripts/check_references.py [OBJECTS]        # default 200,000

The server is a process of its own that answers listings only, from nothing: servers that hold objects take longer to be filled than any
listing takes, and moto a second for each page. Exits with 1 when it takes 60 s or more, or more than 1 GiB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_PAGE = 1000
_SECONDS = 60
_KILOBYTES = 1 << 20
_ITEM = (
    "<Contents><Key>set/{folder:04d}/{number:08d}.png</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>{number}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class Listing(BaseHTTPRequestHandler):
    """ListObjectsV2 of `count` objects, a hundred in each folder."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "versioning" in query:
            self._answer("<VersioningConfiguration/>")
            return
        start = int(query.get("continuation-token", ["0"])[0])
        stop = min(start + _PAGE, self.count)
        items = "".join(_ITEM.format(folder=number // 100, number=number) for number in range(start, stop))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{stop}</NextContinuationToken>" if stop < self.count else ""
        self._answer(f"<ListBucketResult><Name>made-up</Name><Prefix>set/</Prefix>{more}{items}</ListBucketResult>")

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def serve(count: int) -> None:
    """Serve until stdin ends."""
    Listing.count = count
    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def main(count: int) -> int:
    """Reference all of them, twice; print and judge."""
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen([sys.executable, __file__, "serve", str(count)], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            environment = {
                **os.environ,
                "HOME": home,
                "XDG_CONFIG_HOME": home,
                "XDG_STATE_HOME": home,
                "ARTIFACTMOUNT_PROJECT": f"{home}/project",
                "ARTIFACTMOUNT_CACHE": f"{home}/cache",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            return max(_run(environment, what) for what in ("first", "again"))
        finally:
            server.kill()


def _run(environment: dict[str, str], what: str) -> int:
    command = [sys.executable, "-m", "artifactmount", "add-reference", "big", "s3://made-up/set"]
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - begun
    print(f"{what}: {said}; {took:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, at most {usage.ru_maxrss / 1024:.0f} MiB")
    return int(process.returncode != 0 or took >= _SECONDS or usage.ru_maxrss > _KILOBYTES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
