"""A slice of the model over an encrypted artifact, in every run. All of it: `ARTIFACTMOUNT_TEST_ENCRYPT=1 scripts/test tests/model`."""

from __future__ import annotations

import pytest

from artifactmount.snapshot import Options
from tests import encryption
from tests.model.simulator import Plain
from tests.model.test_delete import file, put, stored, take
from tests.model.test_repository import knobs, repository
from tests.model.test_walks import test_two_deleters as two_deleters


@pytest.fixture(autouse=True)
def encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "ENCRYPTED", True)


def test_packs_that_die_in_part_are_opened_and_encrypted_anew() -> None:
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        client = repo.client()
        put(repo, client, "abc", "bc", "c")
        take(repo, client, ({"c": file(b"content of c"), "large": file(bytes(range(256)) * 9000)}, Options()))
        before = {item.key: repo.store.get(item.key) for item in repo.store.list_keys("", limit=1 << 20)}
        take(repo, client, frozenset({0}))
        state = repo.check()
        assert state.moved and b"content of a" not in stored(repo) and stored(repo).count(b"content of b") == 1
        for item in repo.store.list_keys("", limit=1 << 20):
            content = repo.store.get(item.key)
            assert b"content of" not in content and before.get(item.key, content) == content
        take(repo, client, frozenset({1}))
        take(repo, client, frozenset({2}))
        assert repo.data_keys() == set(repo.check().packs)


def test_two_deleters_of_an_encrypted_artifact() -> None:
    two_deleters()
