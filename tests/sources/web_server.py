"""A web server for a folder, as a program of its own: prints its port, serves, and ends with its stdin. Run by conftest.py.

The first component of a path says how: /plain (ETags, ranges), /timed (no ETag), /weak (a weak one, the same for all), /bare (neither),
/whole (no ranges), /packed (a content encoding), /to/URL (a redirect there), /denied. What is behind it is a file of the folder.
"""

from __future__ import annotations

import re
import sys
import threading
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path()


class Server(BaseHTTPRequestHandler):
    """See above."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        how, _, rest = self.path[1:].partition("/")
        if how == "to":
            return self.answer(302, b"", {"Location": rest})
        if how == "denied":
            return self.answer(403, b"no", {})
        path = FOLDER / rest.partition("?")[0]
        if not path.is_file():
            return self.answer(404, b"nothing", {})
        content = path.read_bytes()
        headers = {"ETag": f'"{sha256(content).hexdigest()[:16]}"', "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)}
        if how == "weak":
            headers["ETag"] = 'W/"abc"'
        if how in ("timed", "bare"):
            del headers["ETag"]
        if how == "bare":
            del headers["Last-Modified"]
        if how == "packed":
            headers["Content-Encoding"] = "gzip"
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or how == "whole":
            return self.answer(200, content, headers)
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
        if start >= len(content):
            return self.answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        return self.answer(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send it."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
