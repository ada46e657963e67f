"""A small web server for one page, which one program asks for now and then. Knows nothing of what is on it, and trusts nobody who asks.

Apart from `metrics`, because http.server takes longer to import than most commands need, and they know addresses of metrics.
"""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

#: Answered at once; who comes then is sent away. A Prometheus or two ask every few seconds, and wait for milliseconds.
CONNECTIONS = 8


class Answers(WSGIRequestHandler):
    """One connection. Who says nothing, or takes nothing, for `timeout` seconds is sent away."""

    timeout = 5.0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name
        """Who asked is nobody's business."""


class Server(ThreadingMixIn, WSGIServer):
    """Answers in threads, in no more than CONNECTIONS at once."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._room = threading.Semaphore(CONNECTIONS)
        super().__init__((str(address[0]), port), Answers)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to answer, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who went away, or was sent away, is no news."""
