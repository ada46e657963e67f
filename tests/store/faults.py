"""Stores and networks that fail, each with a name: what a test needs to lose an answer at one exact place.

`proxy` stands between our S3 store and a real server. The classes wrap a store, or are one; they are implementations, not mocks.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from enum import Enum, auto
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from artifactmount.errors import StoreError
from artifactmount.store import Listed, Store
from artifactmount.store.memory import MemoryStore

ALWAYS = 1 << 30
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "proxy-connection", "te", "upgrade"}
_SERVER_SECONDS = 30


class Fault(Enum):
    """What happens to a request."""

    LOSE_ANSWER = auto()  # the server does it; the connection ends instead of an answer
    CUT_BODY = auto()  # the server does it; the answer ends in the middle of its body
    NO_LENGTH = auto()  # the server does it; the answer does not say how long it is, and ends in the middle
    GARBLE = auto()  # the server does it; bytes that are no TLS come instead of an answer
    RESET = auto()  # the server never sees it: the connection is reset
    BUSY = auto()  # the server never sees it: 503 SlowDown
    WITHOUT_HEADER = auto()  # the server sees it without the header `Rule.header`, as if it did not know it
    OTHER_RANGE = auto()  # the server does it; the answer claims to be the range `Rule.header`
    SLOW = auto()  # the server does it, `Rule.seconds` later
    BLACK_HOLE = auto()  # the server never sees it, and no answer comes; at `Proxy.heal` the connection ends


@dataclass(slots=True)
class Rule:
    """Of the requests with this method (or any) and this text in path or query, let `skip` pass, then hurt one in `every`, `times`."""

    fault: Fault
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int = ALWAYS
    every: int = 1
    header: str = ""
    seconds: float = 0
    hurt: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)


class Proxy:
    """An HTTP proxy for one server. `requests` is what came, in order: "PUT /bucket/key"."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.requests: list[str] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._healed = threading.Event()

    def add(self, rule: Rule) -> Rule:
        """Obey a rule from now on; where several fit, the first."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget all rules, and end what waits because of one."""
        with self._lock:
            self._rules.clear()
            healed, self._healed = self._healed, threading.Event()
        healed.set()

    def wait(self, seconds: float | None) -> None:
        """Until `heal`, or so long."""
        self._healed.wait(seconds)

    def judge(self, method: str, path: str) -> Rule | None:
        """What is to happen to a request that came."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            for rule in self._rules:
                if rule.method in ("", method) and rule.path in path:
                    rule.seen += 1
                    if rule.seen > rule.skip and (rule.seen - rule.skip) % rule.every == 0 and rule.hurt < rule.times:
                        rule.hurt += 1
                        return rule
            return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, proxy: Proxy, upstream: str, *args: Any) -> None:
        self.proxy, self.upstream = proxy, upstream
        super().__init__(*args)  # handles the connection to its end

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        rule = self.proxy.judge(self.command, unquote(self.path))
        fault = rule.fault if rule else None
        if fault is Fault.RESET:
            self._reset()
            return
        if fault is Fault.BLACK_HOLE:
            self.proxy.wait(None)
            self._reset()
            return
        if rule and fault is Fault.SLOW:
            self.proxy.wait(rule.seconds)
        if fault is Fault.BUSY:
            self._answer(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
            return
        without = rule.header if rule and fault is Fault.WITHOUT_HEADER else ""
        status, headers, answer = self._ask(body, without)
        match fault:
            case Fault.LOSE_ANSWER:
                self.close_connection = True
            case Fault.CUT_BODY:
                self._answer(status, {**headers, "content-length": str(len(answer))}, answer[: len(answer) // 2])
                self.close_connection = True
            case Fault.NO_LENGTH:
                self._answer(status, {**headers, "Connection": "close"}, answer[: len(answer) // 2], length=False)
            case Fault.GARBLE:
                # Under the TLS layer: what a broken box on the way does.
                socket.socket.send(self.connection, b"\x00" * 64)
                self.close_connection = True
            case Fault.OTHER_RANGE:
                self._answer(status, {**headers, "content-range": rule.header if rule else ""}, answer)
            case _:
                self._answer(status, headers, answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - the names that BaseHTTPRequestHandler looks for

    def _ask(self, body: bytes, without: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self.upstream, timeout=_SERVER_SECONDS)
        try:
            connection.request(self.command, self.path, body, {**_kept(self.headers, without), "Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, _kept(answer.headers, ""), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, *, length: bool = True) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length and "content-length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        # With a linger of 0 s a close sends RST; the reader holds the socket open, so it has to go first.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()


def _kept(headers: Message, without: str) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP | {without.lower()}}


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away in the middle is no news here."""


@contextmanager
def proxy(endpoint: str, *, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Proxy]:
    """A proxy in front of the server at `endpoint`, on a port of 127.0.0.1 (any free one), in threads of this process.

    In the end it takes no new connections, and resets those that are open at their next request.
    """
    made = Proxy("")
    with _Listener(("127.0.0.1", port), partial(_Handler, made, urlsplit(endpoint).netloc)) as listener:
        made.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_port}"
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.heal()
            made.add(Rule(Fault.RESET))
            listener.shutdown()
            thread.join()


class LosesAnswers:
    """Does everything that the store it wraps does, but the answers of the first `creates` creates are lost.

    After the first lost one, the next `reads` gets are lost, too.
    """

    def __init__(self, store: Store, *, creates: int = 1, reads: int = 0) -> None:
        self.url, self.place = store.url, store.place
        self.store = store
        self._creates, self._reads = creates, reads
        self._lost = False
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        with self._lock:
            lose = self._lost and self._reads > 0
            self._reads -= lose
        if lose:
            raise StoreError(f"{self.url}/{key}: the answer was lost")
        return self.store.get(key, start, stop)

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        created = self.store.create(key, data)
        with self._lock:
            lose = self._creates > 0
            self._creates -= lose
            self._lost |= lose
        if lose:
            raise StoreError(f"{self.url}/{key}: the answer was lost")
        return created

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        return self.store.list_keys(prefix, after, limit)

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        return self.store.list_prefixes(prefix, after, limit)

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        self.store.delete(keys)

    def clock(self) -> float:
        """See Store."""
        return self.store.clock()

    def close(self) -> None:
        """See Store."""
        self.store.close()


class Overwrites(MemoryStore):
    """Knows no If-None-Match: every create is done and says so, as some S3 servers do."""

    def create(self, key: str, data: bytes) -> bool:
        """Against the contract of Store."""
        self.delete([key])
        return super().create(key, data)
