"""Sources that are enemies: whatever a server answers about a reference is the bytes that were recorded, or an error of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from artifactmount.errors import ArtifactError, RefusedError, SourceChangedError, SourceDeniedError, SourceError
from artifactmount.reference import Referent
from artifactmount.sources.access import Access, Sources
from artifactmount.sources.s3 import Bucket
from tests.store.test_hostile_endpoint import Endpoint, endpoint

TIME = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
GOOD = {**TIME, "ETag": '"a"', "Content-Range": "bytes 0-4/5"}
#: Headers that take the place of GOOD's; None: it is left out.
ANSWERS: dict[str, dict[str, str | None]] = {
    "no time": {"Last-Modified": None},
    "a time that is none": {"Last-Modified": "yesterday"},
    "a time far away": {"Last-Modified": "Fri, 31 Dec 9999 23:59:59 GMT"},
    "a zone that is none": {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 +9999"},
    "a range of 5,000 digits": {"Content-Range": f"bytes {'9' * 5000}-1/5"},
    "a range of more than there is": {"Content-Range": f"bytes 0-4/{'9' * 19}"},
    "a size of 5,000 digits": {"Content-Range": None, "Content-Length": "9" * 5000},
    "a size below nothing": {"Content-Range": None, "Content-Length": "-5"},
    "no number": {"Content-Range": None, "Content-Length": "five"},
    "an empty ETag": {"ETag": ""},
    "an ETag that is none": {"ETag": '"\xff\x1b[2J"'},
    "an encoding that is none": {"Content-Encoding": "\x1b", "Transfer-Encoding": "x"},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A server that is whatever it is taken for."""
    with endpoint() as made:
        variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server_port}", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
        variables |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "NO_PROXY": "127.0.0.1"}
        variables |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        yield made


def test_an_answer_that_makes_no_sense_is_an_error_of_ours(server: Endpoint) -> None:
    sources = Sources(Access(("s3://", "http://")))
    web = f"http://127.0.0.1:{server.server_port}/x"
    try:
        for name, other in ANSWERS.items():
            headers = {header: value for header, value in {**GOOD, **other}.items() if value is not None}
            server.answer = headers, b"12345"
            for referent in (Referent("s3://bucket/key", "a"), Referent("s3://bucket/key"), Referent(web, '"a"'), Referent(web)):
                with suppress(ArtifactError):
                    assert all(found.referent.uri == referent.uri for found in sources.find(referent.uri)), name
                with suppress(SourceError):
                    sources.check(referent, 5)
                with suppress(SourceError):
                    assert sources.read(referent, 5, 0, 5) == b"12345", name
    finally:
        sources.close()


def test_what_an_answer_lacks_is_said(server: Endpoint) -> None:
    sources = Sources(Access())
    try:
        server.answer = {"ETag": '"a"'}, b"12345"
        with pytest.raises(SourceError, match="makes no sense"):
            list(sources.find("s3://bucket/key"))
        server.answer = {**GOOD, "Content-Range": f"bytes {'9' * 5000}-1/5"}, b"12345"
        assert sources.read(Referent("s3://bucket/key", "a"), 5, 0, 5) == b"12345"  # it is all of it, whatever the range is called
        with pytest.raises(SourceError, match="asked for bytes 1 to 5"):
            sources.read(Referent("s3://bucket/key", "a"), 5, 1, 5)
    finally:
        sources.close()


def test_a_weak_etag_of_a_bucket_proves_nothing(server: Endpoint) -> None:
    sources, uri = Sources(Access()), "s3://bucket/key"
    try:
        server.answer = {**GOOD, "ETag": 'W/"a"'}, b"12345"
        with pytest.raises(RefusedError, match="no strong ETag"):
            list(sources.find(uri))
        assert [found.referent for found in sources.find(uri, checksum=False)] == [Referent(uri)]
        for etag in ("a", 'W/"a'):
            with pytest.raises(SourceChangedError, match="is none"):
                sources.read(Referent(uri, etag), 5, 0, 5)
    finally:
        sources.close()


@pytest.mark.parametrize("how", [Bucket("nowhere"), Bucket(None, "nonsense"), Bucket(None, "http://192.0.2.1"), Bucket(None, "https://[")])
def test_a_bucket_that_cannot_be_reached_as_configured_is_denied(server: Endpoint, how: Bucket) -> None:
    """It was a wrong usage, which neither `verify --references` nor `--allow-missing-references` went past."""
    sources = Sources(Access(buckets={"bucket": how}))
    try:
        with pytest.raises(SourceDeniedError, match="cannot use s3://bucket"):
            sources.check(Referent("s3://bucket/key", "a"), 5)
    finally:
        sources.close()
