"""What is counted where: addresses, the places where chunks are found, and the store's answers."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from artifactmount.cache import Usage
from artifactmount.errors import KeyMissingError, RefusedError, UnreachableError, UsageError
from artifactmount.metered import MeteredReader, meter_project, meter_store
from artifactmount.metrics import Address, Metrics, address_of
from artifactmount.metrics_port import CONNECTIONS, Answers
from artifactmount.sources.access import Access, Sources
from tests.encryption import plain_only
from tests.fuse.test_tree import Eyes, World, seeing


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world, let go of in the end."""
    made = World(tmp_path)
    yield made
    for cache in made.caches:
        cache.close()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """A number as it is served; 0 where nothing was counted yet."""
    return registry.get_sample_value(f"artifactmount_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", Address("127.0.0.1", 9464)),
        ("0.0.0.0:9464", Address("0.0.0.0", 9464)),  # noqa: S104 - where somebody asks for it
        ("[::1]:0", Address("::1", 0)),
        ("node-1.example.org:80", Address("node-1.example.org", 80)),
    ],
)
def test_an_address_is_of_this_machine_unless_it_says_else(text: str, address: Address) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "x", "70000", ":9464", "::1:9464", "a b:1", "1.2.3.4:", "9464 "])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="not a port"):
        address_of(text)


def test_a_chunk_is_a_miss_then_in_memory_and_after_a_new_mount_on_disk(world: World) -> None:
    world.snapshot("animals", {"cat": b"cat" * 1000, "dog": b"dog" * 1000})
    metrics = [Metrics(), Metrics()]

    for number, wanted in enumerate(("miss", "disk")):
        registry = metrics[number].registry

        async def act(eyes: Eyes, counted: Metrics = metrics[number]) -> None:
            eyes.reader = MeteredReader(world.reader, eyes.hopper, Sources(Access(())), counted)
            file = await eyes.file("animals", "v0", "cat")
            for _ in range(3):
                assert await eyes.reader.read(file, 0, 5) == b"catca"

        seeing(world, act)
        lookups = {result: value(registry, "cache_lookups_total", result=result) for result in ("memory", "disk", "miss")}
        assert lookups == {"memory": 2, "disk": 0, "miss": 0, wanted: 1}
        assert value(registry, "cache_lookup_bytes_total", result=wanted) == 3000
        fetched = (value(registry, "fetched_chunks_total", source="store"), value(registry, "fetched_bytes_total", source="store"))
        assert fetched == ((1, 3000) if wanted == "miss" else (0, 0))


@plain_only
def test_the_answers_of_a_store_and_looks_for_news_are_counted(world: World) -> None:
    world.snapshot("animals", {"cat": b"cat"})
    metrics = Metrics()
    meter_store(world.store, metrics)
    meter_project(world.reader, metrics)
    world.reader.refresh("animals")
    got = len(world.store.get("project.json"))
    with pytest.raises(KeyMissingError):
        world.store.get("nothing")
    world.store.reachable = False
    with pytest.raises(UnreachableError):
        world.reader.refresh("animals")
    registry = metrics.registry

    def calls(result: str) -> float:
        return value(registry, "store_request_seconds_count", operation="get", result=result)

    assert calls("ok") == 3 and calls("missing") >= 1 and calls("unreachable") >= 1  # two entries, and project.json
    assert value(registry, "store_received_bytes_total") > got
    assert [value(registry, "refreshes_total", result=result) for result in ("ok", "failed")] == [1, 1]
    assert 0 <= value(registry, "refresh_age_seconds") < 60


def connect(port: int) -> socket.socket:
    """A connection that says nothing yet."""
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def scrape(port: int) -> bytes:
    """All that is answered to a request."""
    with connect(port) as asking:
        asking.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with asking.makefile("rb") as answer:
            return answer.read()


def test_who_is_silent_takes_neither_threads_nor_time_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = count()
    metrics = Metrics()
    metrics.watch_cache(lambda: Usage(next(looked), 2, 3))
    port, end = metrics.serve(Address("127.0.0.1", 0))
    try:
        assert b"artifactmount_cache_bytes" in scrape(port) and b"artifactmount_cache_bytes" in scrape(port)
        assert next(looked) == 1  # the cache was looked at once
        with ExitStack() as silent:
            held = [silent.enter_context(connect(port)) for _ in range(CONNECTIONS)]
            with connect(port) as one_more:
                assert one_more.recv(1) == b""  # sent away at once
            for each in held:
                each.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert each.recv(4) == b"HTTP"  # they had their room
        monkeypatch.setattr(Answers, "timeout", 0.05)
        with connect(port) as late:
            assert late.recv(1) == b""
    finally:
        end()


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(RefusedError, match=r"pip install 'artifactmount\[metrics\]'"):
        Metrics()


def test_the_documents_name_every_metric_and_label() -> None:
    """And no other."""
    page = (Path(__file__).parent.parent.parent / "artifactmount/docs/machines.md").read_text()
    rows = re.findall(r"^\| `(artifactmount_\w+)` \| ([^|]*)\|", page, re.MULTILINE)
    metrics = Metrics()
    metrics.watch_cache(lambda: Usage(0, 0, 0))
    for counted in (metrics.errors, metrics.lookups, metrics.looked, metrics.fetched, metrics.fetched_bytes, metrics.store):
        counted.labels(*"xy"[: len(counted._labelnames)])
    for counted in (metrics.requests, metrics.refreshes):
        counted.labels("x")
    served = {}
    for family in metrics.registry.collect():
        name = {"counter": "_total", "info": "_info"}.get(family.type, "")
        served[family.name + name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {n: s for n, s in served.items() if n[:8] != "process_"}
