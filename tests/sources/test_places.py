"""What is special of one kind of source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import pytest

from artifactmount.errors import NotFoundError, RefusedError, SourceChangedError, SourceDeniedError, SourceError
from artifactmount.reference import BLOCK, Referent
from artifactmount.sources import Found
from artifactmount.sources.access import Access, Sources
from artifactmount.sources.s3 import Bucket
from tests.sources.places import BucketPlace, FolderPlace, WebPlace
from tests.sources.test_contract import CONTENT, only
from tests.store.faults import Fault, Proxy, Rule, proxy
from tests.store.servers import Server


# -- buckets -----------------------------------------------------------------------------------------------------------------------
def test_a_pinned_version_still_has_the_old_bytes(versioned: BucketPlace, sources: Sources) -> None:
    versioned.put("a/cat", b"old")
    versioned.put("a/dog", b"dog")
    found = {item.path: item for item in sources.find(versioned.uri("a"))}
    alone = only(sources, versioned.uri("a/cat"))
    assert alone.referent == found[b"cat"].referent and alone.referent.version
    versioned.put("a/cat", b"new")
    versioned.delete("a/dog")
    for item, content in ((found[b"cat"], b"old"), (found[b"dog"], b"dog")):
        sources.check(item.referent, 3)
        assert sources.read(item.referent, 3, 0, 3) == content
    (now,) = sources.find(versioned.uri("a"))  # neither old versions nor what was deleted
    assert (now.path, sources.read(now.referent, 3, 0, 3)) == (b"cat", b"new")
    versioned.client.delete_object(Bucket=versioned.bucket, Key="some/a/cat", VersionId=str(alone.referent.version))
    with pytest.raises(SourceChangedError, match=f"version {alone.referent.version} is gone"):
        sources.read(alone.referent, 3, 0, 3)


def test_a_key_comes_before_a_folder_and_markers_are_no_files(bucket: BucketPlace, sources: Sources) -> None:
    for name in ("a", "a/", "a/b/", "a/b/c"):
        bucket.put(name, b"" if name.endswith("/") else b"x")
    assert only(sources, bucket.uri("a")).path == b""
    assert only(sources, bucket.uri("a/")).path == b"b/c"
    assert {item.path for item in sources.find(f"s3://{bucket.bucket}")} == {b"some/a", b"some/a/b/c"}
    bucket.put("a/", b"full")
    with pytest.raises(RefusedError, match="ends with a slash"):
        list(sources.find(bucket.uri("a/")))


def test_keys_are_taken_as_they_are(bucket: BucketPlace, sources: Sources) -> None:
    for name in ("a b", "a%20b", "q?x=1#y", "ü", "a+b"):
        bucket.put(f"odd/{name}", name.encode())
    found = {item.path.decode(): item for item in sources.find(bucket.uri("odd"))}
    for name, item in found.items():
        assert sources.read(item.referent, item.size, 0, item.size) == name.encode()
        assert only(sources, bucket.uri(f"odd/{name}")).referent == item.referent
    assert len(found) == 5


def test_no_bucket_and_no_access(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources(Access())
    with pytest.raises(NotFoundError):
        list(sources.find("s3://no-such-bucket-anywhere/x"))
    with pytest.raises(SourceChangedError):
        sources.check(Referent("s3://no-such-bucket-anywhere/x", "1"), 1)
    sources.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    sources = Sources(Access())
    with pytest.raises(SourceError):
        sources.check(Referent("s3://bucket/x", "1"), 1)
    sources.close()


def test_a_bucket_has_an_endpoint_and_a_profile_of_its_own(
    bucket: BucketPlace, s3_environment: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("x", b"x")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    known = s3_environment.environment()
    pair = f"aws_access_key_id = {known['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {known['AWS_SECRET_ACCESS_KEY']}\n"
    (tmp_path / "credentials").write_text(f"[hospital]\n{pair}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    sources = Sources(Access(buckets={bucket.bucket: Bucket("hospital", s3_environment.endpoint)}))
    assert sources.read(only(sources, bucket.uri("x")).referent, 1, 0, 1) == b"x"
    sources.close()


@pytest.fixture
def network(bucket: BucketPlace, s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What is between our code and the bucket."""
    with proxy(s3_environment.endpoint) as made:
        for name, value in s3_environment.environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        yield made


def test_a_body_cut_short_is_asked_for_again(bucket: BucketPlace, sources: Sources, network: Proxy) -> None:
    bucket.put("x", CONTENT)
    found = Found(b"", Referent(bucket.uri("x"), md5(CONTENT, usedforsecurity=False).hexdigest()), len(CONTENT), 0)
    cut = network.add(Rule(Fault.CUT_BODY, "GET", "/x", times=2))
    assert sources.read(found.referent, found.size, 5, 100_000) == CONTENT[5:100_000]
    assert cut.hurt == 2
    network.add(Rule(Fault.CUT_BODY, "GET", "/x"))
    with pytest.raises(SourceError):
        sources.read(found.referent, found.size, 5, 100_000)


@pytest.mark.moto_only("take a signed header out on the way, which Ceph notices")
@pytest.mark.parametrize("header", ["If-Match", "Range"])
def test_a_server_that_ignores_what_it_was_asked_is_not_believed(
    bucket: BucketPlace, sources: Sources, network: Proxy, header: str
) -> None:
    bucket.put("x", CONTENT)
    found = Found(b"", Referent(bucket.uri("x"), md5(CONTENT, usedforsecurity=False).hexdigest()), len(CONTENT), 0)
    network.add(Rule(Fault.WITHOUT_HEADER, "GET", header=header))
    if header == "Range":
        with pytest.raises(SourceError, match="asked for bytes 5 to 9"):
            sources.read(found.referent, found.size, 5, 9)
        assert sources.read(found.referent, found.size, 0, found.size) == CONTENT
    bucket.put("x", CONTENT[::-1])
    with pytest.raises(SourceChangedError):
        sources.read(found.referent, found.size, 5, 9)


# -- files -------------------------------------------------------------------------------------------------------------------------
def test_no_link_leads_out_of_what_was_recorded(tmp_path: Path, sources: Sources) -> None:
    place = FolderPlace(tmp_path / "disk")
    place.put("a/x", b"x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/x").write_bytes(b"s")
    found = only(sources, place.uri("a"))
    (place.path / "a").rename(place.path / "b")
    (place.path / "a").symlink_to(tmp_path / "secret")
    bare = Referent(found.referent.uri)
    for referent in (found.referent, bare):
        with pytest.raises(SourceChangedError):
            sources.read(referent, 1, 0, 1)
    (place.path / "a").unlink()
    (place.path / "a").mkdir()
    (place.path / "a/x").symlink_to(tmp_path / "secret/x")
    with pytest.raises(SourceChangedError):
        sources.read(bare, 1, 0, 1)


def test_a_link_to_a_file_is_the_file(tmp_path: Path, sources: Sources) -> None:
    place = FolderPlace(tmp_path / "disk")
    place.put("real/x", b"x")
    (place.path / "links").mkdir()
    (place.path / "links/y").symlink_to("../real/x")
    (found,) = sources.find(place.uri("links"))
    assert (found.path, found.referent.uri) == (b"y", place.uri("real/x"))
    (place.path / "links/folder").symlink_to("../real")
    with pytest.raises(RefusedError, match="no file"):
        list(sources.find(place.uri("links")))
    os.unlink(place.path / "links/folder")
    os.mkfifo(place.path / "links/fifo")
    with pytest.raises(RefusedError, match="fifo is no file"):
        list(sources.find(place.uri("links")))


def test_a_file_of_the_same_size_and_time_is_another_inode(tmp_path: Path, sources: Sources) -> None:
    place = FolderPlace(tmp_path / "disk")
    place.put("x", b"one")
    os.utime(place.path / "x", ns=(5, 5))
    found = only(sources, place.uri("x"))
    place.put("x", b"two")
    os.utime(place.path / "x", ns=(5, 5))
    with pytest.raises(SourceChangedError, match="inode"):
        sources.read(found.referent, 3, 0, 3)


# -- web ---------------------------------------------------------------------------------------------------------------------------
def test_without_an_etag_the_time_has_to_do(web: WebPlace, sources: Sources) -> None:
    web.put("x", b"one")
    os.utime(web.path / "x", (1e9, 1e9))
    found = only(sources, f"{web.host}/timed/x")
    assert found.referent == Referent(f"{web.host}/timed/x", modified=10**18)
    assert sources.read(found.referent, 3, 1, 3) == b"ne"
    os.utime(web.path / "x", (1e9 + 1, 1e9 + 1))
    with pytest.raises(SourceChangedError, match="its time"):
        sources.read(found.referent, 3, 1, 3)
    with pytest.raises(RefusedError, match="--no-checksum"):
        only(sources, f"{web.host}/bare/x")
    assert only(sources, f"{web.host}/bare/x", checksum=False).referent == Referent(f"{web.host}/bare/x")


def test_a_weak_etag_proves_nothing(web: WebPlace, sources: Sources) -> None:
    """It stays when bytes change: other bytes of the same size were read as those recorded."""
    web.put("x", b"one")
    os.utime(web.path / "x", (1e9, 1e9))
    there = f"{web.host}/weak/x"
    assert only(sources, there).referent == Referent(there, modified=10**18)
    with pytest.raises(SourceChangedError, match='its ETag was W/"abc" and is none'):  # recorded before that was known
        sources.read(Referent(there, 'W/"abc"'), 3, 0, 3)
    with pytest.raises(SourceChangedError, match="is none"):
        sources.check(Referent(there, 'W/"abc"'), 3)


@pytest.mark.parametrize("how", ["weak", "timed"])
def test_a_time_that_the_next_change_might_keep_proves_nothing(web: WebPlace, sources: Sources, how: str) -> None:
    web.put("x", b"one")
    there, now = f"{web.host}/{how}/x", os.stat(web.path / "x").st_mtime
    for age in (0, 50, -1000):
        os.utime(web.path / "x", (now - age, now - age))
        with pytest.raises(RefusedError, match="a minute old"):
            only(sources, there)
        assert only(sources, there, checksum=False).referent == Referent(there)
    os.utime(web.path / "x", (now - 62, now - 62))
    found = only(sources, there)
    assert found.referent == Referent(there, modified=int(now - 62) * 10**9)
    web.put("x", b"two")
    with pytest.raises(SourceChangedError, match="its time"):
        sources.read(found.referent, 3, 0, 3)


def test_a_server_without_ranges_will_do_for_a_block(web: WebPlace, sources: Sources) -> None:
    web.put("small", b"s" * BLOCK)
    web.put("large", b"l" * (BLOCK + 1))
    found = only(sources, f"{web.host}/whole/small")
    assert sources.read(found.referent, BLOCK, 0, BLOCK) == b"s" * BLOCK
    with pytest.raises(RefusedError, match="no ranges"):
        only(sources, f"{web.host}/whole/large")
    with pytest.raises(SourceError, match="does not serve the range"):
        sources.read(found.referent, BLOCK, 5, 9)
    with pytest.raises(SourceError, match="encoded"):
        only(sources, f"{web.host}/packed/small")


def test_a_redirect_leads_only_to_what_is_allowed(web: WebPlace, sources: Sources) -> None:
    web.put("x", b"x")
    there = f"{web.host}/to/{web.host}/plain/x"
    found = only(sources, there)
    assert found.referent.uri == there and sources.read(found.referent, 1, 0, 1) == b"x"
    strict = Sources(Access((f"{web.host}/to/",)))
    with pytest.raises(SourceDeniedError, match="redirected"):
        strict.read(found.referent, 1, 0, 1)
    strict.close()
    loop = f"{web.host}/plain/x"
    for _ in range(7):
        loop = f"{web.host}/to/{loop}"
    for uri in (f"{web.host}/to/file:///etc/passwd", f"{web.host}/to/ftp://x/y", loop):
        with pytest.raises(SourceError):
            only(sources, uri)
    with pytest.raises(SourceDeniedError):
        only(sources, f"{web.host}/denied/x")
