"""The parts of a mount, counted: what stands between the kernel, the reader and the store when somebody asked for metrics.

Nothing else knows of it: without `--metrics` these are not there, so what is not counted costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence, Sized
from time import perf_counter
from typing import Any

from pyfuse3 import FUSEError

from artifactmount.blocks import Blocks
from artifactmount.cache import Cache
from artifactmount.errors import ArtifactError, DeniedError, KeyMissingError, UnreachableError, errno_name
from artifactmount.fetch import Fetcher
from artifactmount.fuse import Operations
from artifactmount.held import Part
from artifactmount.metrics import Metrics
from artifactmount.project import Project
from artifactmount.ranges import PackId
from artifactmount.reader import Hopper, Reader
from artifactmount.reference import Referent
from artifactmount.run import ChunkRef
from artifactmount.sources.access import Sources
from artifactmount.state import State
from artifactmount.store import Store
from artifactmount.store.kept import KeptFiles
from artifactmount.tree import File

_NAMES = ("lookup", "getattr", "readlink", "opendir", "readdir", "releasedir", "listxattr", "getxattr", "statfs")
_OPERATIONS = (*_NAMES, "open", "read", "release")
_CALLS = ("get", "list_keys", "list_prefixes", "create", "delete", "clock")

Call = Callable[..., Any]
Handler = Callable[..., Coroutine[Any, Any, Any]]


class MeteredReader(Reader):
    """A reader that counts where it finds what it is asked for: in memory, in the cache on disk, or in neither."""

    def __init__(self, project: Project, hopper: Hopper, sources: Sources, metrics: Metrics) -> None:
        super().__init__(project, hopper, sources)
        self._metrics = metrics
        self._blocks = _MeteredBlocks(project.cache, sources, metrics)
        self._results = {result: (metrics.lookups.labels(result), metrics.looked.labels(result)) for result in ("memory", "disk", "miss")}

    def _make_fetcher(self, artifact: str) -> Fetcher:
        return _MeteredFetcher(self._project, artifact, self._kept, self._metrics)

    def at_once(self, file: File) -> bytes | None:
        content = super().at_once(file)
        if content is not None:
            self._metrics.read.inc(len(content))
        return content

    def _found(self, result: str, content: Part) -> None:
        number, size = self._results[result]
        number.inc()
        size.inc(len(content))


class _MeteredFetcher(Fetcher):
    def __init__(self, project: Project, name: str, kept: KeptFiles | None, metrics: Metrics) -> None:
        super().__init__(project, name, kept)
        self._count = _of_source(metrics, "store")

    def chunk(self, ref: ChunkRef, state: State, run: bytes) -> bytes:
        content = super().chunk(ref, state, run)
        self._count([content])
        return content

    def whole_pack(self, pack: PackId, state: State, wanted: bytes) -> dict[bytes, bytes]:
        contents = super().whole_pack(pack, state, wanted)
        self._count(contents.values())
        return contents

    def neighbours(self, refs: Sequence[ChunkRef], state: State) -> dict[bytes, Part]:
        contents = super().neighbours(refs, state)
        self._count(contents.values())
        return contents


class _MeteredBlocks(Blocks):
    def __init__(self, cache: Cache, sources: Sources, metrics: Metrics) -> None:
        super().__init__(cache, sources)
        self._count = _of_source(metrics, "reference")

    def read(self, name: bytes, referent: Referent, size: int, start: int, stop: int) -> bytes:
        content = super().read(name, referent, size, start, stop)
        self._count([content])
        return content


def _of_source(metrics: Metrics, source: str) -> Callable[[Collection[Sized]], None]:
    number, size = metrics.fetched.labels(source), metrics.fetched_bytes.labels(source)

    def count(contents: Collection[Sized]) -> None:
        number.inc(len(contents))
        size.inc(sum(map(len, contents)))

    return count


def meter_operations(operations: Operations, metrics: Metrics) -> None:
    """Count the kernel's requests from now on."""
    for name in _OPERATIONS:
        setattr(operations, name, _timed(getattr(operations, name), name, metrics))


def _timed(handler: Handler, name: str, metrics: Metrics) -> Handler:
    seconds, given = metrics.requests.labels(name), metrics.read if name == "read" else None

    async def timed(*arguments: Any) -> Any:
        begin = perf_counter()
        try:
            answer = await handler(*arguments)
        except FUSEError as error:
            metrics.errors.labels(name, errno_name(error.errno)).inc()
            raise
        finally:
            seconds.observe(perf_counter() - begin)
        if given is not None:
            given.inc(len(answer))
        return answer

    return timed


def meter_store(store: Store, metrics: Metrics) -> None:
    """Count the calls of a store from now on. In place: others look at which kind of store it is."""
    for name in _CALLS:
        setattr(store, name, _called(getattr(store, name), name, metrics))


def _called(call: Call, name: str, metrics: Metrics) -> Call:
    def called(*arguments: Any, **named: Any) -> Any:
        begin, result = perf_counter(), "failed"
        try:
            answer = call(*arguments, **named)
            result = "ok"
        except ArtifactError as error:
            result = _result(error)
            raise
        finally:
            metrics.store.labels(name, result).observe(perf_counter() - begin)
        if name == "get":
            metrics.received.inc(len(answer))
        return answer

    return called


def _result(error: ArtifactError) -> str:
    match error:
        case KeyMissingError():
            return "missing"
        case DeniedError():
            return "denied"
        case UnreachableError():
            return "unreachable"
        case _:
            return "failed"


def meter_project(project: Project, metrics: Metrics) -> None:
    """Count the looks for news from now on."""
    for name in ("refresh", "names"):
        setattr(project, name, _looked(getattr(project, name), metrics))


def _looked(look: Call, metrics: Metrics) -> Call:
    def looked(*arguments: Any) -> Any:
        try:
            answer = look(*arguments)
        except ArtifactError:
            metrics.refreshes.labels("failed").inc()
            raise
        metrics.refreshes.labels("ok").inc()
        metrics.note_refresh()
        return answer

    return looked
