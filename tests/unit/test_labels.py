"""Tags, time to live and W&B's digest of a version: in the card as older readers can read it, and changed without a new version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.cache import Cache
from artifactmount.card import Card, Labels
from artifactmount.describe import describe
from artifactmount.errors import NotFoundError, UsageError
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.snapshot import Options, take
from artifactmount.store.memory import MemoryStore

LABELS = Labels(("two words", "b"), 60, "0" * 32)


def test_a_card_with_labels_has_the_fields_that_older_readers_know() -> None:
    data = Card("note", {"a": 1}, LABELS).encode()
    assert json.loads(data) == {
        "metadata": {"a": 1, "artifactmount": {"tags": ["two words", "b"], "ttl": 60, "md5": "0" * 32}},
        "note": "note",
    }
    assert Card.decode(data) == Card("note", {"a": 1}, LABELS)
    assert Card.decode(Card("", {"a": 1}).encode()) == Card("", {"a": 1})


@pytest.mark.parametrize(
    "own",
    [3, {}, {"tags": []}, {"tags": ["a", "a"]}, {"tags": [1]}, {"tags": ["a/b"]}, {"ttl": 0}, {"ttl": True}, {"md5": "x"}, {"more": 1}],
)
def test_what_is_not_labels_is_somebodys_own_metadata(own: object) -> None:
    data = Card("", {"artifactmount": own}).encode()
    assert Card.decode(data) == Card("", {"artifactmount": own})


@pytest.mark.parametrize(
    "options",
    [Options(tags=("a", "a")), Options(ttl=-1), Options(ttl=1 << 33), Options(tags=("/",)), Options(metadata={"artifactmount": 1})],
)
def test_what_cannot_be_asked_for(options: Options) -> None:
    with pytest.raises(UsageError):
        options.check()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Two versions; v0 has labels."""
    cache = Cache(str(tmp_path / "cache"))
    project = Project(MemoryStore(), cache, str(tmp_path / "state"), create=True)
    (tmp_path / "staging").mkdir()
    for n, options in enumerate((Options(note="first", tags=("a",), ttl=60, md5="1" * 32, aliases=("best",)), Options())):
        (tmp_path / "staging" / "file").write_bytes(b"%d" % n)
        take(project, str(tmp_path / "staging"), "pets", options)
    yield project
    cache.close()


def card(project: Project, n: int) -> Card:
    return project.catalog("pets").card(project.existing("pets").versions[n])


def test_a_version_is_described_and_nothing_else_changes(project: Project) -> None:
    before = project.existing("pets")
    result = describe(project, parse("pets:v0"), Options(("good",), "other", tags=("b", "c"), ttl=0, latest=False))
    after = project.existing("pets")
    assert not result.changed and card(project, 0) == Card("other", {}, Labels(("b", "c"), None, "1" * 32))
    assert after.aliases == {"best": 0, "good": 0, "latest": 1}
    assert {n: v.digest for n, v in after.versions.items()} == {n: v.digest for n, v in before.versions.items()}
    seq = after.seq
    describe(project, parse("pets:v0"), Options(("good",), "other", latest=False))
    assert project.existing("pets").seq == seq  # nothing was different


def test_the_same_content_again_keeps_what_is_not_asked_for(project: Project, tmp_path: Path) -> None:
    (tmp_path / "staging" / "file").write_bytes(b"0")
    assert not take(project, str(tmp_path / "staging"), "pets", Options(metadata={"a": 1})).changed
    assert card(project, 0) == Card("first", {"a": 1}, Labels(("a",), 60, "1" * 32))


def test_a_version_that_is_not_there(project: Project) -> None:
    with pytest.raises(NotFoundError):
        describe(project, parse("pets:v7"), Options(note="x", latest=False))
