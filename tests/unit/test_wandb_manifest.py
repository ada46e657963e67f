"""W&B's manifest: what it says, and what a hostile one may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from artifactmount import wandb_manifest
from artifactmount.errors import CorruptError
from artifactmount.reference import Referent
from artifactmount.wandb_manifest import Untracked, WandbFile, WandbManifest, WandbReference, parse_manifest
from tests.wandb_artifacts import Contents, digest, file_entry, manifest, md5

ETAG = "d41d8cd98f00b204e9800998ecf8427e"


def parse(contents: Contents) -> WandbManifest:
    return parse_manifest(manifest(contents).encode())


def only(entry: dict[str, Any]) -> object:
    return parse({"a": entry}).entries[0]


def test_files_and_the_digest_of_all() -> None:
    contents = {"z": file_entry(b"z"), "sub/ä.png": file_entry(b""), "sub-1": file_entry(b"1")}
    parsed = parse(contents)
    assert parsed.digest == digest(contents)
    assert parsed.entries[1] == WandbFile("sub/ä.png".encode(), bytes.fromhex(ETAG), 0)
    assert [entry.path for entry in parsed.entries] == [b"z", "sub/ä.png".encode(), b"sub-1"]


def test_an_artifact_may_be_empty_and_a_size_unknown() -> None:
    assert parse({}) == WandbManifest((), digest({}))
    entry = only({"digest": md5(b"a")})
    assert isinstance(entry, WandbFile) and entry.size is None


@pytest.mark.parametrize(
    ("entry", "referent"),
    [
        (
            {"ref": "s3://bucket/a b", "digest": ETAG, "extra": {"etag": ETAG, "versionID": "Q.1"}},
            Referent("s3://bucket/a b", ETAG, "Q.1"),
        ),
        ({"ref": "s3://bucket/k", "digest": f"{ETAG}-2"}, Referent("s3://bucket/k", f"{ETAG}-2")),
        ({"ref": "s3://bucket/k", "digest": "s3://bucket/k"}, Referent("s3://bucket/k")),
        ({"ref": "https://Host/f", "digest": "x", "extra": {"etag": '"x"'}}, Referent("https://host/f", '"x"')),
        ({"ref": "https://host/f", "digest": "x"}, Referent("https://host/f", '"x"')),
        ({"ref": "http://host/f", "digest": 'W/"x"', "extra": {"etag": 'W/"x"'}}, Referent("http://host/f")),
        ({"ref": "file:///a b/c", "digest": md5(b"c")}, Referent("file:///a%20b/c")),
    ],
)
def test_a_reference_keeps_what_tells_a_change(entry: dict[str, Any], referent: Referent) -> None:
    assert only(entry | {"size": 5}) == WandbReference(b"a", referent, 5)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"ref": "gs://bucket/k", "digest": "x", "size": 1}, "gs://bucket/k"),
        ({"ref": "wandb-artifact://41/a", "digest": md5(b""), "size": 1}, "wandb-artifact"),
        ({"ref": "no uri", "digest": "x", "size": 1}, "no uri"),
        ({"ref": "s3://bucket/k", "digest": "s3://bucket/k"}, "checksum=False"),
        ({"ref": "s3://bucket", "digest": "x", "size": 1}, "without a key"),
        ({"ref": "https://u:p@host/f", "digest": "x", "size": 1}, "URL"),
        ({"ref": "file:///a/../../etc/passwd", "digest": "x", "size": 1}, "file"),
        ({"ref": "s3://bucket/k", "digest": "x", "size": 1, "extra": {"etag": "x\n"}}, "etag"),
    ],
)
def test_a_reference_that_cannot_be_tracked_says_why(entry: dict[str, Any], why: str) -> None:
    found = only(entry)
    assert isinstance(found, Untracked) and found.path == b"a" and why in found.why


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "../a", "a/../b", "a/./b", ".", "a//b", "a/", "nul\0", "\udc80", "x" * 256, "d/" * 2048 + "f"],
)
def test_a_path_stays_in_the_artifact(path: str) -> None:
    with pytest.raises(CorruptError, match="in W&B's manifest"):
        parse({path: file_entry(b"")})


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"digest": ""},
        {"digest": 7},
        {"digest": "\ud800"},
        {"digest": "AAAA"},
        {"digest": ETAG},
        {"digest": md5(b"") + "\n"},
        {"digest": md5(b"")[:-3] + "R=="},  # bits that no encoder sets
        file_entry(b"") | {"size": -1},
        file_entry(b"") | {"size": 1 << 62},
        file_entry(b"") | {"size": True},
        file_entry(b"") | {"size": 1.0},
        file_entry(b"") | {"ref": 7},
        file_entry(b"") | {"extra": []},
        {"digest": "x" * 20_000, "ref": "s3://bucket/k"},
    ],
)
def test_an_entry_that_is_none_is_refused(entry: Any) -> None:
    with pytest.raises(CorruptError, match="'a'"):
        parse({"a": entry})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"contents": []}',
        b'{"version": 2, "contents": {}}',
        b'{"contents": {}}',
        b"[" * 100_000,
        b'{"version": 1, "contents": {}, "n": ' + b"9" * 5000 + b"}",
        json.dumps({"version": 1, "contents": {"a": file_entry(b"a")}}).encode()[:-2],
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptError, match="manifest"):
        parse_manifest(content)


def test_a_name_stands_there_once() -> None:
    entry = json.dumps(file_entry(b"a"))
    with pytest.raises(CorruptError, match="'sub/a' twice"):
        parse_manifest(f'{{"version": 1, "contents": {{"sub/a": {entry}, "b": {entry}, "sub/a": {entry}}}}}'.encode())


def test_what_would_take_much_memory_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorruptError, match="1,000,000"):
        parse_manifest(b"[" + b"{}," * 2_100_000 + b"{}]")
    with pytest.raises(CorruptError, match="1,000,000"):
        parse_manifest(b"[" + b"1," * 8_100_000 + b"1]")
    monkeypatch.setattr(wandb_manifest, "MANIFEST_LIMIT", 1000)
    with pytest.raises(CorruptError, match="MiB"):
        parse_manifest(b" " * 1001)
