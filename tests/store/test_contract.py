"""What every store promises (artifactmount/store/__init__.py), one promise per test, over each kind of store."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactmount.errors import KeyMissingError, RefusedError, UsageError
from artifactmount.store import Listed, Store, probe
from artifactmount.store.folder import FolderStore
from artifactmount.store.s3 import S3Store
from tests.store.faults import Fault, Overwrites, Proxy, Rule

LARGEST = 16 << 20  # nothing larger is ever stored
HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\n",
    "a b",
    "a\\b",
    "ä",
    "~é",
]
# In the order of their bytes: "-" and "." sort before "/", "0" behind it.
SIBLINGS = ["a-b/x", "a.b/x", "a/x", "a/y", "a0/x", "b/x"]
SIBLING_NAMES = ["a", "a-b", "a.b", "a0", "b"]


def keys(found: list[Listed]) -> list[str]:
    return [item.key for item in found]


def fill(store: Store, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: store.create(name, name.encode()), names))


def at_once(count: int, call: Callable[[int], bool]) -> list[bool]:
    """What `call` returned in each of `count` threads that were let go together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> bool:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# Create


def test_create_then_get(store: Store) -> None:
    assert store.create("a/b", b"bytes") is True
    assert store.get("a/b") == b"bytes"


def test_a_second_create_changes_nothing(store: Store) -> None:
    store.create("a/b", b"first")
    assert store.create("a/b", b"second") is False
    assert store.create("a/b", b"first") is False
    assert store.get("a/b") == b"first"


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_of_many_threads_exactly_one_creates(store: Store, size: int) -> None:
    for turn in range(3):
        key = f"log/{turn}"
        won = at_once(16, lambda number, key=key: store.create(key, bytes([number]) * size))  # type: ignore[misc]
        assert won.count(True) == 1
        assert store.get(key) == bytes([won.index(True)]) * size


def test_create_after_delete_is_new(store: Store) -> None:
    store.create("a", b"old")
    store.delete(["a"])
    assert store.create("a", b"new") is True
    assert store.get("a") == b"new"


# Get


def test_bytes_come_back_as_they_were(store: Store) -> None:
    for number, value in enumerate((b"", b"\0", bytes(range(256)) * 3, b"\r\n\r\n0\r\n", b"\x1f\x8b\x08 looks like gzip")):
        assert store.create(f"k{number}", value)
        assert store.get(f"k{number}") == value


def test_the_largest_value_comes_back_whole_and_in_ranges(store: Store) -> None:
    value = random.Random(1).randbytes(LARGEST)
    assert store.create("pack", value)
    assert store.get("pack") == value
    assert store.get("pack", LARGEST - 3) == value[-3:]
    assert store.get("pack", 5 << 20, 11 << 20) == value[5 << 20 : 11 << 20]


def test_a_range_is_a_slice(store: Store) -> None:
    store.create("ten", b"0123456789")
    for start in (0, 1, 4, 9, 10, 11, 1000):
        for stop in (None, 0, 1, 4, 9, 10, 11, 1000):
            assert store.get("ten", start, stop) == b"0123456789"[start:stop], (start, stop)


def test_ranges_of_nothing_are_empty(store: Store) -> None:
    store.create("empty", b"")
    for start, stop in ((0, None), (0, 5), (3, None), (3, 5)):
        assert store.get("empty", start, stop) == b"", (start, stop)


def test_a_missing_key_says_which(store: Store) -> None:
    store.create("a/b", b"")
    for start, stop in ((0, None), (0, 5), (3, None)):
        with pytest.raises(KeyMissingError) as caught:
            store.get("a/c", start, stop)
        assert caught.value.key == "a/c"


def test_what_stands_above_or_below_a_key_is_none(store: Store) -> None:
    store.create("a/b/c", b"")
    for key in ("a", "a/b", "a/b/c/d", "other/b"):
        with pytest.raises(KeyMissingError):
            store.get(key)
        store.delete([key])
    assert store.get("a/b/c") == b""


def test_a_hostile_key_is_refused_by_every_call(store: Store) -> None:
    for key in HOSTILE:
        for call in (
            lambda: store.get(key),  # noqa: B023 - called at once
            lambda: store.get(key, 5, 5),  # noqa: B023
            lambda: store.create(key, b""),  # noqa: B023
            lambda: store.delete([key]),  # noqa: B023
        ):
            with pytest.raises(UsageError, match="not a key"):
                call()
    assert store.list_keys("") == []


def test_a_hostile_prefix_leads_nowhere(store: Store) -> None:
    store.create("a/b/c", b"")
    for prefix in ("../", "/", "/etc/", "a/../", "a//", "a"):
        with pytest.raises(UsageError):
            store.list_prefixes(prefix)
        assert all(key.startswith("a/") for key in keys(store.list_keys(prefix)))


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> bool:
        for turn in range(6):
            key = f"t{number}/{turn}"
            value = f"{number} {turn}".encode() * 1000
            assert store.create(key, value)
            assert store.get(key) == value
            assert store.get(key, 5, 900) == value[5:900]
            assert key in keys(store.list_keys(f"t{number}/"))
            if turn % 2:
                store.delete([key])
        return True

    assert all(at_once(8, work))
    assert len(store.list_keys("")) == 8 * 3


# List


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert store.list_keys("") == []
    assert store.list_prefixes("") == []
    assert store.list_keys("a/") == []
    assert store.list_prefixes("a/") == []


def test_keys_come_in_byte_order_with_size_and_time(store: Store) -> None:
    names = [*SIBLINGS, "B/x", "a/Z", "a/_", "log/0000000000000010", "log/0000000000000009"]
    fill(store, names)
    found = store.list_keys("")
    assert keys(found) == sorted(names)
    assert [item.size for item in found] == [len(name) for name in sorted(names)]
    assert all(abs(item.modified - time.time()) < 60 for item in found)


def test_keys_by_prefix_and_after(store: Store) -> None:
    fill(store, SIBLINGS)
    for prefix in ("", "a", "a/", "a-", "a.b/", "a/x", "a/xx", "c", "b/x"):
        expected = [key for key in SIBLINGS if key.startswith(prefix)]
        assert keys(store.list_keys(prefix)) == expected
        for after in ("a-b/x", "a/x", "b/x", "0", "a", "a/", "a/x0", "zzz"):
            behind = [key for key in expected if key > after]
            assert keys(store.list_keys(prefix, after)) == behind, (prefix, after)
            assert keys(store.list_keys(prefix, after, limit=2)) == behind[:2], (prefix, after)


def test_at_most_limit_come(store: Store) -> None:
    fill(store, SIBLINGS)
    for limit in (0, 1, 2, 5, 6, 7):
        assert keys(store.list_keys("", limit=limit)) == SIBLINGS[:limit]
        assert store.list_prefixes("", limit=limit) == SIBLING_NAMES[:limit]


def test_pages_of_keys_join_without_a_gap(store: Store) -> None:
    # A bucket's pages hold at most 1000: more would take long to fill, and small pages join in the same way.
    count, limit = (230, 50) if isinstance(store, S3Store) else (2345, 1000)
    names = [f"data/{i:06d}" for i in range(count)]
    fill(store, [*names, "data-/x", "data0"])
    found: list[str] = []
    while page := keys(store.list_keys("data/", found[-1] if found else "", limit)):
        assert len(page) == min(limit, count - len(found))
        found += page
    assert found == names
    assert keys(store.list_keys("data/", limit=count + 100)) == names


def test_names_between_slashes(store: Store) -> None:
    fill(store, ["artifacts/a/log/0", "artifacts/a/log/1", "artifacts/b/data/0/1", "artifacts/file", "artifacts0/c/d", "top"])
    assert store.list_prefixes("") == ["artifacts", "artifacts0"]
    assert store.list_prefixes("artifacts/") == ["a", "b"]
    assert store.list_prefixes("artifacts/a/") == ["log"]
    assert store.list_prefixes("artifacts/a/log/") == []
    assert store.list_prefixes("nothing/") == []


@pytest.mark.parametrize("prefix", ["", "artifacts/"])
def test_a_name_that_begins_another_is_not_lost(store: Store, prefix: str) -> None:
    """Names in byte order: "a", "a-b"; their keys: "a-b/x", "a/x". A store that pages by keys must not trip over that."""
    fill(store, [prefix + key for key in [*SIBLINGS, "a", "b-/x", "0"] if not (key == "a" and isinstance(store, FolderStore))])
    names = sorted([*SIBLING_NAMES, "b-"])
    assert store.list_prefixes(prefix) == names
    for after in [*names, "A", "a-", "a.", "a/", "zzz"]:
        behind = [name for name in names if name > after]
        assert store.list_prefixes(prefix, after) == behind
        for limit in (1, 2, 3):
            assert store.list_prefixes(prefix, after, limit) == behind[:limit]


def test_pages_of_names_join_without_a_gap(store: Store) -> None:
    count, limit = (20, 7) if isinstance(store, S3Store) else (350, 1000)
    names = sorted(name for i in range(count) for name in (f"n{i}", f"n{i}-x", f"n{i}.y"))
    fill(store, [*(f"artifacts/{name}/log" for name in names), *(f"artifacts/n{i}_" for i in range(20))])  # and keys between them
    found: list[str] = []
    while page := store.list_prefixes("artifacts/", found[-1] if found else "", limit):
        found += page
    assert found == names


# Delete


def test_delete_takes_these_keys_and_no_others(store: Store) -> None:
    fill(store, SIBLINGS)
    store.delete(["a/x", "a0/x", "not/there", "a/x", "b"])
    assert keys(store.list_keys("")) == ["a-b/x", "a.b/x", "a/y", "b/x"]
    assert store.list_prefixes("") == ["a", "a-b", "a.b", "b"]


def test_delete_of_nothing_and_of_missing_keys_is_fine(store: Store) -> None:
    store.delete([])
    store.delete(["a", "b/c"])
    store.create("a", b"")
    store.delete(["a"])
    store.delete(("a",))
    assert store.list_keys("") == []


def test_delete_of_many(store: Store) -> None:
    names = [f"data/{i:06d}" for i in range(1100)]
    there = names if not isinstance(store, S3Store) else [*names[:60], *names[-60:]]  # in both batches
    fill(store, [*there, "data0"])
    store.delete(names)
    assert keys(store.list_keys("")) == ["data0"]


def test_creates_beside_deletes(store: Store) -> None:
    """A folder that becomes empty goes: a create beside it must not fail for that."""

    def work(number: int) -> bool:
        for turn in range(5 if isinstance(store, S3Store) else 40):
            assert store.create(f"a/b/{number}", b"x" * (turn + 1))
            assert store.get(f"a/b/{number}") == b"x" * (turn + 1)
            store.delete([f"a/b/{number}"])
        return True

    assert all(at_once(8, work))
    assert store.list_keys("") == []


# Two stores of one place, and the probe


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_two_stores_of_one_place_see_each_other(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first: Store
    second: Store
    if kind == "folder":
        first, second = FolderStore(str(tmp_path / "f")), FolderStore(str(tmp_path / "f"))
    else:
        server = request.getfixturevalue("s3_environment")
        bucket = server.make_bucket()
        first, second = S3Store(bucket, "p"), S3Store(bucket, "p")
    assert first.create("a", b"1")
    assert not second.create("a", b"2")
    assert second.get("a") == b"1"
    second.delete(["a"])
    with pytest.raises(KeyMissingError):
        first.get("a")
    first.close()
    second.close()


def test_close_twice_is_fine(store: Store) -> None:
    store.create("a", b"")
    store.close()
    store.close()


def test_the_probe_accepts_a_store_that_refuses(store: Store) -> None:
    store.create("project", b"document")
    probe(store, "project", b"document")
    assert store.get("project") == b"document"


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.LOSE_ANSWER, Fault.RESET])
def test_the_probe_asks_a_server_again_that_did_not_answer(fault: Fault, s3_proxy: Proxy, proxied_store: S3Store) -> None:
    """It did not, so that one 503 at the wrong time was the end of a whole command."""
    proxied_store.create("project", b"document")
    rule = s3_proxy.add(Rule(fault, "PUT", times=2))
    probe(proxied_store, "project", b"document")
    assert rule.hurt == 2


def test_the_probe_refuses_a_store_that_overwrites() -> None:
    store = Overwrites("memory:overwrites")
    store.create("project", b"document")
    with pytest.raises(RefusedError, match="memory:overwrites overwrites"):
        probe(store, "project", b"document")
    assert store.get("project") == b"document"


@pytest.mark.moto_only("take a signed header out on the way, which Ceph notices")
def test_the_probe_refuses_a_server_that_ignores_the_condition(s3_proxy: Proxy, proxied_store: S3Store) -> None:
    s3_proxy.add(Rule(Fault.WITHOUT_HEADER, "PUT", header="If-None-Match"))
    proxied_store.create("project", b"document")
    with pytest.raises(RefusedError, match="ignores If-None-Match"):
        probe(proxied_store, "project", b"document")


def test_the_clock_is_the_one_that_stamps(store: Store) -> None:
    before = store.clock()
    store.create("a", b"x")
    (listed,) = store.list_keys("a")
    # S3 tells both to the second.
    assert before - 1 <= listed.modified <= store.clock() + 1
