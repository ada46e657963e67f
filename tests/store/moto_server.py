"""moto's S3 as a program of its own: prints its port, serves, and ends when its parent does.

moto checks `If-None-Match` and then stores, with nothing around the two. Here requests are read whole and answered one at a time, so the
two are one, as a good S3 server promises. Run by servers.py.

    python moto_server.py [--tls CERTIFICATE KEY] [--iam …]

With --tls it prints a second port, and serves the same there over TLS; with --iam it decides as iam.py says.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wsgi import ClosingIterator

from tests.store.parent import wait_for_end_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class OneAtATime:
    """A WSGI application around another. Bodies are read before the lock is taken: a slow sender holds up nobody."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["HTTP_X_FORWARDED_PROTO"] = environ["wsgi.url_scheme"]
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with self._lock, closing(ClosingIterator(self._application(environ, start_response))) as answer:
            return list(answer)


class QuietHandler(MotoRequestHandler):
    """Does not print a line for each request."""

    def log_request(self, *_: Any) -> None:
        """See BaseHTTPRequestHandler."""


def end_with(parent: int) -> None:
    """End this process with its parent."""
    wait_for_end_of(parent)
    os._exit(0)


def main() -> None:
    """Serve S3 on 127.0.0.1, on any free port, or two."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    if "--iam" in sys.argv:
        from tests.store import iam  # loads much of moto that most servers never need

        iam.install()
    ports: list[int] = []
    if "--tls" in sys.argv:
        at = sys.argv.index("--tls")
        pair = (sys.argv[at + 1], sys.argv[at + 2])
        secure = make_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietHandler, ssl_context=pair)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        ports.append(secure.port)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietHandler)
    print(server.port, *ports, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
