"""An S3 endpoint that is an enemy: whatever it answers is an error of ours, takes bounded memory, and ends."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from artifactmount.errors import ArtifactError, StoreError
from artifactmount.store.s3 import S3Store

_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><ListBucketResult><Name>&j;</Name></ListBucketResult>"
)
_LIST = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
_KEY = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
_MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"


class Endpoint(ThreadingHTTPServer):
    """Answers every GET and HEAD with `answer`; `zeros` follow the body for as long as somebody listens."""

    daemon_threads = True
    answer: tuple[dict[str, str], bytes] = ({}, b"")
    zeros = 0
    requests = 0


class _Answers(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        """The answer, to anything."""
        self.server.requests += 1
        headers, body = self.server.answer
        self.send_response(206 if "Content-Range" in headers else 200)
        for name, value in {"Content-Length": str(len(body) + self.server.zeros), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(body)
            for _ in range(self.server.zeros >> 20):
                self.wfile.write(bytes(1 << 20))
        except OSError:
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - http.server's own name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own name
        """Say nothing."""


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def enemy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Endpoint, S3Store]]:
    with endpoint() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        store = S3Store("bucket", "p")
        yield server, store
        store.close()


ASKS: list[Callable[[S3Store], object]] = [lambda store: store.list_keys("a/"), lambda store: store.list_prefixes("a/")]


@pytest.mark.parametrize(
    "body",
    [
        _LIST.format("<Contents><Size>x</Size></Contents><CommonPrefixes><Prefix>p/a/b/</Prefix></CommonPrefixes>"),
        _LIST.format(_KEY.format("p/a/1").replace("2026", "never")) + "<",
        _LIST.format("<a>" * 10_000 + "</a>" * 10_000),
    ],
    ids=["no number", "cut", "deep"],
)
@pytest.mark.parametrize("ask", ASKS, ids=["keys", "prefixes"])
def test_a_listing_that_is_none_is_an_error_of_ours_or_empty(
    enemy: tuple[Endpoint, S3Store], body: str, ask: Callable[[S3Store], object]
) -> None:
    server, store = enemy
    server.answer = {}, body.encode("latin-1")
    tracemalloc.start()
    try:
        with suppress(ArtifactError):
            assert ask(store) in ([], ["b"])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_entities_that_refer_to_each_other_are_an_error_of_ours(enemy: tuple[Endpoint, S3Store]) -> None:
    """10^9 of them are meant; expat ends it at 8 MiB of text."""
    server, store = enemy
    server.answer = {}, _BOMB.encode()
    with pytest.raises(StoreError):
        store.list_keys("a/")


def test_keys_without_what_belongs_to_them_are_no_answer(enemy: tuple[Endpoint, S3Store]) -> None:
    server, store = enemy
    server.answer = {}, _LIST.format("<Contents><Size>1</Size></Contents>").encode()
    with pytest.raises(StoreError, match="makes no sense"):
        store.list_keys("a/")


def test_keys_that_were_not_asked_for_are_not_listed(enemy: tuple[Endpoint, S3Store]) -> None:
    server, store = enemy
    keys = ("p/a/1", "../../x", "p/b/1", "x", "p/a/2")
    server.answer = {}, _LIST.format("".join(map(_KEY.format, keys))).encode()
    assert [item.key for item in store.list_keys("a/")] == ["a/1", "a/2"]
    assert [item.key for item in store.list_keys("a/", after="a/1")] == ["a/2"]


def test_a_listing_that_goes_on_and_on_ends(enemy: tuple[Endpoint, S3Store]) -> None:
    server, store = enemy
    server.answer = {}, _LIST.format(_MORE + _KEY.format("p/a/1") + "<CommonPrefixes><Prefix>p/a/b/</Prefix></CommonPrefixes>").encode()
    assert [item.key for item in store.list_keys("a/")] == ["a/1"]
    with pytest.raises(StoreError, match="no end"):
        store.list_prefixes("a/")
    server.answer = {}, _LIST.format(_MORE).encode()
    assert store.list_keys("a/") == []
    with pytest.raises(StoreError, match="no end"):
        store.list_prefixes("a/")
    assert server.requests < 250


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes 0-99/100"}], ids=["ignores ranges", "claims a range"])
def test_no_more_is_taken_in_than_was_asked_for(enemy: tuple[Endpoint, S3Store], headers: dict[str, str]) -> None:
    server, store = enemy
    server.answer, server.zeros = (headers, b"x" * 100), 1 << 28
    tracemalloc.start()
    try:
        if headers:
            with pytest.raises(StoreError):
                store.get("a/1", 0, 100)
        else:
            assert store.get("a/1", 0, 100) == b"x" * 100
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
