"""What a mount counts, as Prometheus reads it, and the port where it is read. Knows nothing of who counts.

The only module that knows `prometheus_client`, which is imported when somebody asks for metrics. No label ever holds a name or a path: what
users call their artifacts is nobody else's business, and each value of a label is a series that is kept for ever.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artifactmount.cache import Usage
from artifactmount.errors import RefusedError, UsageError
from artifactmount.version import __version__

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram
    from prometheus_client.core import Metric

_ADDRESS = re.compile(r"(?:(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>\d{1,5})")
#: Seconds. What is in the kernel's reach takes 30 µs, a chunk from a bucket 30 ms, a store that is dead two minutes.
_BUCKETS = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

#: Seconds for which the size of the cache is not looked at again.
_STALE = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where metrics are served."""

    host: str
    port: int


def address_of(text: str) -> Address:
    """Of `PORT`, which is this machine's alone, or `HOST:PORT`. Port 0 takes a free one. Raises UsageError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise UsageError(f"not a port: {text!r}; write for example 9464, or 0.0.0.0:9464 where other machines may read it")
    return Address((match["host"] or "127.0.0.1").strip("[]"), int(match["port"]))


class Metrics:
    """Counters and histograms of one process. Threads may share them. Raises RefusedError where the library is missing."""

    def __init__(self) -> None:
        try:
            import prometheus_client as library
        except ImportError:
            raise RefusedError("--metrics needs the library prometheus-client: pip install 'artifactmount[metrics]'") from None
        library.disable_created_metrics()  # type: ignore[no-untyped-call]  # else a third of all series says when it began
        own = self.registry = library.CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return library.Counter(f"artifactmount_{name}", about, labels, registry=own)

        def histogram(name: str, about: str, *labels: str) -> Histogram:
            return library.Histogram(f"artifactmount_{name}", about, labels, registry=own, buckets=_BUCKETS)

        library.ProcessCollector(registry=own)
        library.Info("artifactmount_build", "What is running.", registry=own).info({"version": __version__})
        self.requests = histogram("request_seconds", "Requests of the kernel.", "operation")
        self.errors = counter("request_errors", "Requests that were answered with an error.", "operation", "errno")
        self.read = counter("read_bytes", "Bytes that programs were given.")
        self.lookups = counter("cache_lookups", "Chunks looked for, by where they were found.", "result")
        self.looked = counter("cache_lookup_bytes", "Bytes of those chunks.", "result")
        self.fetched = counter("fetched_chunks", "Chunks that were read from where they lie.", "source")
        self.fetched_bytes = counter("fetched_bytes", "Bytes of those chunks, unpacked.", "source")
        self.store = histogram("store_request_seconds", "Calls of the store.", "operation", "result")
        self.received = counter("store_received_bytes", "Bytes that the store sent, as stored.")
        self.refreshes = counter("refreshes", "Looks for news.", "result")
        self._refreshed = float("nan")
        age = library.Gauge("artifactmount_refresh_age_seconds", "Since the last look for news that the store answered.", registry=own)
        age.set_function(lambda: time.monotonic() - self._refreshed)

    def note_refresh(self) -> None:
        """The store has answered a look for news."""
        self._refreshed = time.monotonic()

    def watch_cache(self, usage: Callable[[], Usage]) -> None:
        """Show what the cache holds, asked when it is read."""
        self.registry.register(_CacheUsage(usage))

    def serve(self, address: Address) -> tuple[int, Callable[[], None]]:
        """Answer on an address, in a thread of its own; returns the port, and what ends it. Raises RefusedError when it cannot be had."""
        from prometheus_client import make_wsgi_app

        from artifactmount.metrics_port import Server

        try:
            server = Server(address.host, address.port)
        except OSError as error:
            raise RefusedError(
                f"metrics cannot be served at {address.host}:{address.port}: {error.strerror or error}; name another port"
            ) from error
        server.set_app(make_wsgi_app(self.registry))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, end


class _CacheUsage:
    """A collector: it looks into the cache's folder when somebody reads the metrics, and not again for some seconds."""

    def __init__(self, usage: Callable[[], Usage]) -> None:
        self._usage = usage
        self._seen: tuple[float, Usage] | None = None  # when, and what

    def collect(self) -> Iterator[Metric]:
        """Sizes in bytes."""
        from prometheus_client.core import GaugeMetricFamily

        now = time.monotonic()
        if self._seen is None or now - self._seen[0] >= _STALE:
            self._seen = now, self._usage()
        usage = self._seen[1]
        held = GaugeMetricFamily("artifactmount_cache_bytes", "What the cache holds on disk.", labels=["kind"])
        held.add_metric(["chunks"], usage.chunks)
        held.add_metric(["files"], usage.files)
        yield held
        yield GaugeMetricFamily("artifactmount_cache_budget_bytes", "What it may hold of chunks.", value=usage.budget)
