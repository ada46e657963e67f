"""A reference's record and what may be followed: one form each, and nothing of a stranger's leads elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.digest import chunk_digest
from artifactmount.errors import CorruptError, NeedsNewerError, RefusedError, UsageError
from artifactmount.refer import Rows
from artifactmount.reference import BLOCK, Referent, block_name, leads_into, name_of, normal_uri, path_of_uri, uri_of_path
from artifactmount.rows import RECORD_LIMIT, Change, Kind
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.sources import Found
from artifactmount.sources.access import Access
from artifactmount.sources.s3 import Bucket

GOOD = [
    Referent("s3://bucket/key"),
    Referent("s3://bucket/a b/ü?x#%41", "0123-4", "v.1"),
    Referent("file:///data/x"),
    Referent("file:///data/a%20b%FF", modified=-5, inode=(1 << 64) - 1),
    Referent("https://example.org/", '"abc"'),
    Referent("http://[::1]:8080/a/b%2Fc?x=/y", 'W/"abc"'),
    Referent("https://example.org/cat.png", modified=10**18),
]

BAD: list[dict[str, Any]] = [
    {},
    {"uri": 5},
    {"uri": "s3://bucket/"},
    {"uri": "s3://b/key"},
    {"uri": "s3://bucket/\ud800"},
    {"uri": "s3://bucket/a\0b"},
    {"uri": "s3://bucket/" + "k" * 1025},
    {"uri": "S3://bucket/key"},
    {"uri": "bucket/key"},
    {"uri": "s3://bucket/key", "version": "1"},
    {"uri": "s3://bucket/key", "etag": ""},
    {"uri": "s3://bucket/key", "etag": "a\r\nX-Evil: 1"},
    {"uri": "s3://bucket/key", "etag": " a"},
    {"uri": "s3://bucket/key", "etag": None},
    {"uri": "s3://bucket/key", "etag": "e" * 1025},
    {"uri": "s3://bucket/key", "modified": 1},
    {"uri": "s3://bucket/key", "other": 1},
    {"uri": "file:///data/../etc/passwd"},
    {"uri": "file:///data/%2E%2E/etc/passwd"},
    {"uri": "file:///data//x"},
    {"uri": "file:///data/./x"},
    {"uri": "file:///data/x/"},
    {"uri": "file:///"},
    {"uri": "file://host/x"},
    {"uri": "file:///%00"},
    {"uri": "file:///%61"},
    {"uri": "file:///data/a b"},
    {"uri": "file:///" + "n" * 256},
    {"uri": "file:///data/x", "modified": 1},
    {"uri": "file:///data/x", "modified": 1.5, "inode": 2},
    {"uri": "file:///data/x", "modified": True, "inode": 2},
    {"uri": "file:///data/x", "modified": 1, "inode": -2},
    {"uri": "file:///data/x", "modified": 1 << 63, "inode": 2},
    {"uri": "file:///data/x", "etag": "a"},
    {"uri": "http://user:secret@example.org/x"},
    {"uri": "http://example.org"},
    {"uri": "http://Example.org/x"},
    {"uri": "http://example.org/x#y"},
    {"uri": "http://example.org/a/../b"},
    {"uri": "http://example.org/a/%2e%2E/b"},
    {"uri": "http://example.org/a/%2e%2e%2Fb"},
    {"uri": "http://example.org/a\\b"},
    {"uri": "http://example.org/x y"},
    {"uri": "http://example.org/%zz"},
    {"uri": "http://example.org/x\r\nHost: other"},
    {"uri": "http:///x"},
    {"uri": "http://example.org/x", "etag": "a", "modified": 1},
    {"uri": "http://example.org/" + "x" * 20_000},
]


def in_json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("referent", GOOD, ids=lambda referent: ascii(referent.uri))
def test_a_record_has_one_form(referent: Referent) -> None:
    record = referent.encode()
    assert Referent.decode(record) == referent
    fields = json.loads(record)
    for other in (json.dumps(fields).encode(), record + b" ", record.replace(b"{", b'{"uri":"s3://other/x",', 1)):
        if other != record:
            with pytest.raises(CorruptError):
                Referent.decode(other)


@pytest.mark.parametrize("fields", BAD, ids=lambda fields: ascii(fields)[:60])
def test_what_could_lead_elsewhere_is_no_record(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        Referent.decode(in_json(fields))


def test_another_scheme_needs_a_newer_program() -> None:
    with pytest.raises(NeedsNewerError):
        Referent.decode(in_json({"uri": "gs://bucket/key"}))
    with pytest.raises(UsageError):
        Referent("gs://bucket/key").encode()


@given(st.binary(max_size=200) | st.sampled_from([r.encode() for r in GOOD]).flatmap(lambda r: st.integers(0, 8 * len(r) - 1).map(flip(r))))
def test_no_bytes_do_more_than_be_refused(record: bytes) -> None:
    try:
        referent = Referent.decode(record)
    except (CorruptError, NeedsNewerError):
        return
    assert referent.encode() == record


def flip(record: bytes) -> Any:
    return lambda bit: bytes(byte ^ (1 << bit % 8) if at == bit // 8 else byte for at, byte in enumerate(record))


@settings(max_examples=50)
@given(st.text(max_size=30), st.text(max_size=30), st.none() | st.text(max_size=5), st.none() | st.integers())
def test_what_is_encoded_is_decoded(scheme: str, rest: str, etag: str | None, modified: int | None) -> None:
    for known in (scheme, "s3", "file", "http", "https"):
        try:
            record = Referent(f"{known}://{rest}", etag, modified=modified).encode()
        except UsageError:
            continue
        assert Referent.decode(record).encode() == record


def test_a_run_with_a_record_beyond_the_limit_is_refused() -> None:
    for length, good in ((RECORD_LIMIT, True), (RECORD_LIMIT + 1, False)):
        record, builder = b"r" * length, RunBuilder()
        builder.add(b"", b"x", Change.ADDED, Kind.REFERENCE, 1, 0, chunk_digest(record), record)
        data = builder.finish()
        if good:
            assert Run(data, chunk_digest(data)).target(0) == record
        else:
            with pytest.raises(CorruptError):
                Run(data, chunk_digest(data))


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
        ("S3://bucket/A", "s3://bucket/A"),
        ("file:///data/a b", "file:///data/a%20b"),
        ("file:///data/a%20b/", "file:///data/a%20b"),
        ("file://localhost/data", "file:///data"),
        ("file:///data/\udcff", "file:///data/%FF"),
        ("HTTPS://Example.ORG/A?b=C", "https://example.org/A?b=C"),
    ],
)
def test_what_is_typed_becomes_its_one_form(typed: str, uri: str) -> None:
    assert normal_uri(typed) == uri and normal_uri(uri) == uri


@pytest.mark.parametrize("typed", ["", "/data", "animals", "s3://", "file://host/x", "http://a@b/", "ftp://x/y", "https://example.org/a b"])
def test_what_is_no_uri_is_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        normal_uri(typed)


def test_a_path_survives_as_a_uri() -> None:
    for path in (b"/a/b c/%41?#", b"/\xff\xfe", "/ü".encode(), b"/" + b"n" * 255):
        assert path_of_uri(uri_of_path(path)) == path
    assert [name_of(uri) for uri in ("s3://b-u-c/x/a%20b?c", "file:///x/a%20b", "https://h/a%20b?c/d", "https://h/")] == [
        b"a%20b?c",
        b"a b",
        b"a b",
        b"",
    ]


def test_a_prefix_opens_whole_components_only() -> None:
    assert leads_into("s3://bucket/a/b", "s3://bucket/a") and leads_into("s3://bucket/a", "s3://bucket/a")
    assert leads_into("s3://bucket/a", "s3://") and leads_into("s3://bucket/a", "s3://bucket/")
    assert not leads_into("s3://bucket2/a", "s3://bucket") and not leads_into("file:///database", "file:///data")
    assert not leads_into("https://example.org.evil/x", "https://example.org") and not leads_into("s3://bucket", "s3://bucket/")


def test_what_the_config_file_allows() -> None:
    assert Access.of({}).allows("s3://bucket/key") and not Access.of({}).allows("file:///x") and not Access.of({}).allows("https://h/x")
    access = Access.of({"allow": ["file:///data"], "my-bucket": {"profile": "hospital"}})
    assert access.names("file:///data/x") and not access.names("s3://bucket/x") and not Access.of({}).names("s3://bucket/x")
    assert access.buckets == {"my-bucket": Bucket("hospital")}
    assert access.allows("file:///data/x") and not access.allows("s3://bucket/x") and not access.allows("http://169.254.169.254/")
    typed = ["file:///", "S3://bucket", "file:///my data/", "https://Example.org"]
    assert Access.of({"allow": typed}).allowed == ("file://", "s3://bucket", "file:///my%20data", "https://example.org/")


@pytest.mark.parametrize(
    "table",
    [
        {"allow": "s3://"},
        {"allow": ["/data"]},
        {"allow": ["file://../x"]},
        {"my-bucket": 5},
        {"my-bucket": {"password": "x"}},
        {"my-bucket": {"profile": 5}},
    ],
    ids=str,
)
def test_what_the_config_file_cannot_say(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Access.of(table)


def test_a_block_is_named_by_all_that_makes_its_bytes() -> None:
    record = Referent("s3://bucket/key", "1").encode()
    others = [(record, BLOCK, 0), (record, BLOCK + 1, 0), (record, BLOCK, 1), (Referent("s3://bucket/key", "2").encode(), BLOCK, 0)]
    assert len({block_name(*other) for other in others}) == 4 and chunk_digest(record) not in {block_name(*other) for other in others}


@pytest.mark.parametrize("path", [b"a//b", b"..", b"a/../b", b"a/", b"n" * 256, b"a\0b", b"/".join([b"n" * 200] * 21)])
def test_what_cannot_be_a_path_is_refused_by_name(path: bytes) -> None:
    with pytest.raises(RefusedError, match="cannot be referenced"):
        Rows(b"").add(Found(path, Referent("s3://bucket/x", "1"), 1, 0))


def test_two_of_one_path_are_refused() -> None:
    rows = Rows(b"/under/here/")
    rows.add(Found(b"a/x", Referent("s3://bucket/x", "1"), 1, 0))
    rows.add(Found(b"a/y", Referent("s3://bucket/y", "1"), 1, 0))
    assert list(rows) == [(b"under\0here\0a", b"x"), (b"under\0here\0a", b"y")]
    assert rows.directories() == {b"under", b"under\0here", b"under\0here\0a"}
    with pytest.raises(RefusedError, match="twice"):
        rows.add(Found(b"a/x", Referent("s3://bucket/z", "1"), 1, 0))
