"""The daemon behind a mount, from its start to its clean end. Answers no requests itself.

`python -m artifactmount.daemon` is what the background is (`launch` starts it). It tells its parent through a pipe that the mount stands,
or why not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import pyfuse3
import trio

from artifactmount.cache import Cache
from artifactmount.config import read_config
from artifactmount.errors import ArtifactError, LockedError, RefusedError
from artifactmount.event_loop import lean
from artifactmount.fuse import Operations
from artifactmount.keys import Keyring
from artifactmount.launch import Mount
from artifactmount.log_lines import formatter
from artifactmount.memory import reuse_memory
from artifactmount.metered import MeteredReader, meter_operations, meter_project, meter_store
from artifactmount.metrics import Metrics, address_of
from artifactmount.mountpoint import READ_AHEAD_KIB, check_allow_other, mount_at, prepare, within
from artifactmount.namespace import Namespace
from artifactmount.project import Project, open_store
from artifactmount.reader import Hopper, Reader
from artifactmount.sources.access import Access, Sources
from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.tree import Tree

_log = logging.getLogger(__name__)

#: Of memory that was let go of, for what is read ahead; of all threads together, as with one heap for each it was 200 MB instead of 84
#: after a GiB was read.
_BUFFER, _KEPT = 8 << 20, 16 << 20


def serve(mount: Mount, ready: Callable[[], None], keyring: Keyring) -> None:
    """Mount, call `ready`, and answer until somebody unmounts, or SIGINT, SIGTERM or SIGHUP comes; then unmount.

    Raises ArtifactError when the project cannot be opened or nothing can be mounted there.
    """
    _raise_open_files()
    reuse_memory(_BUFFER, _KEPT, shared=True)
    if mount.allow_other:
        check_allow_other()
    with mount.record.held("" if mount.beneath else mount.url):  # what is beneath an overlay is for nobody else to find
        prepare(mount.mountpoint)
        store = open_store(mount.url)
        _check_roots(mount, store)
        cache, sources = Cache(mount.cache, mount.budget), Sources(Access.of(read_config(os.environ).references))
        try:
            with _metrics(mount, store, cache) as metrics:
                project = Project(store, cache, mount.state_directory, keyring=keyring)
                trio.run(_serve, project, sources, mount, ready, metrics)
        except BaseExceptionGroup as group:  # what leaves a nursery comes in groups, also when it is one
            ours = group.subgroup(ArtifactError)
            if ours is None:
                raise
            raise _first(ours) from group
        finally:
            sources.close()
            cache.close()


@contextmanager
def _metrics(mount: Mount, store: Store, cache: Cache) -> Iterator[Metrics | None]:
    """What counts, while it is served; None where nobody asked. It comes first: where the port is taken nothing is mounted."""
    if not mount.metrics:
        yield None
        return
    address, metrics = address_of(mount.metrics), Metrics()
    metrics.watch_cache(cache.usage)
    meter_store(store, metrics)
    port, end = metrics.serve(address)
    try:
        _log.info("metrics are at http://%s:%d/metrics", f"[{address.host}]" if ":" in address.host else address.host, port)
        yield metrics
    finally:
        end()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _check_roots(mount: Mount, store: Store) -> None:
    """A mount over the files that it is made from would wait for itself."""
    roots = {"cache": mount.cache, "state": mount.state_directory}
    if isinstance(store, FolderStore):
        roots["project"] = store.path
    for what, path in roots.items():
        path = os.path.realpath(path)
        if within(path, mount.mountpoint) or within(mount.mountpoint, path):
            raise RefusedError(f"the {what} folder {path} and the mountpoint {mount.mountpoint} must lie apart")


async def _serve(project: Project, sources: Sources, mount: Mount, ready: Callable[[], None], metrics: Metrics | None) -> None:
    async with trio.open_nursery() as nursery:
        hopper, tree = Hopper(nursery), Tree(time.time_ns())
        reader = Reader(project, hopper, sources) if metrics is None else MeteredReader(project, hopper, sources, metrics)
        operations = Operations(tree, Namespace(project, tree, hopper), reader, hopper, project.cache)
        if metrics is not None:
            meter_project(project, metrics)
            meter_operations(operations, metrics)
        operations.show_as(mount.uid, mount.gid, mount.umask)
        if mount.beneath:
            operations.lie_beneath()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            try:
                pyfuse3.init(operations, mount.mountpoint, _options(mount))
            except RuntimeError as error:
                raise RefusedError(f"{mount.mountpoint} cannot be mounted on: {error}") from error
            try:
                nursery.start_soon(_raise_read_ahead, operations.began, mount.mountpoint)
                nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
                nursery.start_soon(reader.tend)
                ready()
                with lean():
                    await pyfuse3.main()
            finally:
                # Where a signal ended it, this takes the mount away, also one in use: its users get errors, not hangs.
                pyfuse3.close(unmount=True)
                nursery.cancel_scope.cancel()


async def _end_on_signal(signals: object, scope: trio.CancelScope) -> None:
    async for number in signals:  # type: ignore[attr-defined]
        _log.info("ended by signal %d", number)
        scope.cancel()


def _options(mount: Mount) -> set[str]:
    # No max_read: pyfuse3 cannot tell libfuse of it, and the kernel's then differs from libfuse's (EPROTO).
    # `mount -a` compares the source with fstab's: it would mount once more on top of one that is called otherwise.
    source = re.sub(r"([\\,])", r"\\\1", mount.source)  # libfuse reads the options as one text, with commas between
    options = {f"fsname={source}", "subtype=artifactmount", "ro", "nosuid", "nodev", "default_permissions"}
    wanted = {"allow_other": mount.allow_other, "noexec": mount.noexec}
    return options | {name for name, asked in wanted.items() if asked}


async def _raise_read_ahead(began: trio.Event, mountpoint: str) -> None:
    """Have the kernel ask for more at once, as soon as the mount has begun: by then it has set what it may read ahead to 128 KiB."""
    await began.wait()
    present = mount_at(mountpoint)
    if present is None:
        return
    path = f"/sys/class/bdi/{present.device}/read_ahead_kb"
    try:
        with open(path, "w") as file:
            file.write(str(READ_AHEAD_KIB))
    except OSError as error:
        _log.info("reads come in pieces of 128 KiB; root could raise that: echo %d > %s (%s)", READ_AHEAD_KIB, path, error.strerror)


def leave(code: int) -> NoReturn:
    """End the process now: a thread that waits for a store that hangs must not keep an unmounted daemon."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def log_to(stream: object, form: str = "text") -> None:
    """Send warnings, and what the daemon tells of itself, to a stream, a line each; `form` as in log_lines.FORMATS."""
    lines = logging.StreamHandler(stream)  # type: ignore[call-overload]
    lines.setFormatter(formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    for chatty in ("botocore", "boto3", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _raise_open_files() -> None:
    """The mapped manifest of each version looked at keeps a descriptor (until Python 3.13); the usual limit of 1,024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _main(pipe: int, mount: Mount, keyring: Keyring) -> int:
    log_to(sys.stderr, mount.log_format)

    def ready() -> None:
        _log.info("%s is mounted at %s (process %d)", mount.url, mount.mountpoint, os.getpid())
        os.write(pipe, b"ready")
        os.close(pipe)

    try:
        serve(mount, ready, keyring)
    except ArtifactError as error:
        _log.error("%s", error)
        answer = {"error": str(error), "exit_code": error.exit_code, "locked": isinstance(error, LockedError)}
        with suppress(OSError):
            os.write(pipe, json.dumps(answer).encode())
        return error.exit_code
    _log.info("%s is unmounted", mount.mountpoint)
    return 0


if __name__ == "__main__":
    files, kms, passphrase, insists = json.loads(sys.stdin.read())
    leave(_main(int(sys.argv[1]), Mount(**json.loads(sys.argv[2])), Keyring(tuple(files), kms, passphrase, insists=insists)))
