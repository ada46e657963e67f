"""What every source promises: exactly the bytes that were recorded, or an error that names what was and what is."""

from __future__ import annotations

from random import Random

import pytest

from artifactmount.errors import NotFoundError, SourceChangedError, SourceDeniedError
from artifactmount.reference import Referent
from artifactmount.sources import Found
from artifactmount.sources.access import Access, Sources
from tests.sources.places import Place

CONTENT = Random(5).randbytes(3_000_000)
OTHER = CONTENT[::-1]


def only(sources: Sources, uri: str, *, checksum: bool = True) -> Found:
    """The one thing at a URI."""
    (found,) = sources.find(uri, checksum=checksum)
    return found


def test_a_file_and_its_ranges(place: Place, sources: Sources) -> None:
    place.put("cat.png", CONTENT)
    found = only(sources, place.uri("cat.png"))
    assert (found.path, found.size, found.referent.uri) == (b"", len(CONTENT), place.uri("cat.png"))
    assert found.referent.checked and found.mtime > 10**18
    assert Referent.decode(found.referent.encode()) == found.referent
    sources.check(found.referent, found.size)
    for start, stop in ((0, 1), (0, len(CONTENT)), (1 << 20, 2 << 20), (len(CONTENT) - 1, len(CONTENT))):
        assert sources.read(found.referent, found.size, start, stop) == CONTENT[start:stop]
    assert only(sources, place.uri("cat.png")) == found


def test_an_empty_file(place: Place, sources: Sources) -> None:
    place.put("empty", b"")
    found = only(sources, place.uri("empty"))
    assert found.size == 0
    sources.check(found.referent, 0)


def test_everything_below_a_prefix(place: Place, sources: Sources) -> None:
    if not place.folders:
        return
    names = {"set/a": b"1", "set/b/c": b"22", "set/b/d/e ü": b"333", "set2/x": b"", "set.x": b""}
    for name, content in names.items():
        place.put(name, content)
    for uri in (place.uri("set"), place.uri("set") + "/"):
        found = {item.path.decode(): item for item in sources.find(uri.rstrip("/") if uri.startswith("file") else uri)}
        assert {path: item.size for path, item in found.items()} == {"a": 1, "b/c": 2, "b/d/e ü": 3}
        for path, item in found.items():
            assert sources.read(item.referent, item.size, 0, item.size) == names[f"set/{path}"]


def test_nothing_there(place: Place, sources: Sources) -> None:
    with pytest.raises(NotFoundError):
        list(sources.find(place.uri("nowhere")))


@pytest.mark.parametrize("other", [OTHER, CONTENT + b"x", CONTENT[:-1], b"x"], ids=["content", "longer", "shorter", "short"])
def test_a_source_that_changed_is_an_error(place: Place, sources: Sources, other: bytes) -> None:
    place.put("cat.png", CONTENT)
    was = only(sources, place.uri("cat.png"))
    place.put("cat.png", other)
    now = only(sources, place.uri("cat.png"))
    assert now != was
    for start, stop in ((0, 1), (0, len(CONTENT)), (len(CONTENT) - 10, len(CONTENT))):
        with pytest.raises(SourceChangedError, match="changed since") as caught:
            sources.read(was.referent, was.size, start, stop)
        if was.referent.etag is not None and now.referent.etag is not None:
            assert was.referent.etag in str(caught.value) and now.referent.etag in str(caught.value)
    with pytest.raises(SourceChangedError, match="changed since"):
        sources.check(was.referent, was.size)
    sources.check(now.referent, now.size)


def test_a_source_that_is_gone_is_an_error(place: Place, sources: Sources) -> None:
    place.put("cat.png", CONTENT)
    for checksum in (True, False):
        found = only(sources, place.uri("cat.png"), checksum=checksum)
        place.delete("cat.png")
        for call in (lambda f=found: sources.read(f.referent, f.size, 5, 9), lambda f=found: sources.check(f.referent, f.size)):
            with pytest.raises(SourceChangedError, match="is gone"):
                call()
        place.put("cat.png", CONTENT)


def test_without_a_checksum_only_the_size_is_noticed(place: Place, sources: Sources) -> None:
    place.put("cat.png", CONTENT)
    found = only(sources, place.uri("cat.png"), checksum=False)
    assert found.referent == Referent(place.uri("cat.png")) and not found.referent.checked
    assert sources.read(found.referent, found.size, 0, 5) == CONTENT[:5]
    place.put("cat.png", OTHER)
    assert only(sources, place.uri("cat.png"), checksum=False).referent == found.referent
    sources.check(found.referent, found.size)
    assert sources.read(found.referent, found.size, 0, 5) == OTHER[:5]
    place.put("cat.png", OTHER + b"x")
    for call in (lambda: sources.read(found.referent, found.size, 5, 9), lambda: sources.check(found.referent, found.size)):
        with pytest.raises(SourceChangedError, match="its size was 3000000 and is 3000001"):
            call()


def test_what_is_not_allowed_is_not_asked(place: Place, sources: Sources) -> None:
    place.put("cat.png", CONTENT)
    found = only(sources, place.uri("cat.png"))
    for allowed in ((), ("s3://bucket",), (place.uri("cat"),)):
        strict = Sources(Access(allowed))
        with pytest.raises(SourceDeniedError, match=r"references\.allow"):
            strict.read(found.referent, found.size, 0, 1)
        with pytest.raises(SourceDeniedError):
            strict.check(found.referent, found.size)
        strict.close()
