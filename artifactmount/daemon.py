"""The daemon behind a mount: starting it, in the background or not, and ending it cleanly. Answers no requests itself.

`python -m artifactmount.daemon` is what the background is: a fresh process, because LMDB, threads and trio do not survive a fork. It tells
its parent through a pipe that the mount stands, or why not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

import pyfuse3
import trio

from artifactmount.cache import Cache
from artifactmount.config import read_config
from artifactmount.errors import ArtifactError, LockedError, RefusedError
from artifactmount.event_loop import lean
from artifactmount.fuse import Operations
from artifactmount.keys import Keyring
from artifactmount.log_lines import formatter
from artifactmount.memory import reuse_memory
from artifactmount.metered import MeteredReader, meter_operations, meter_project, meter_store
from artifactmount.metrics import Metrics, address_of
from artifactmount.mountpoint import READ_AHEAD_KIB, Record, check_allow_other, mount_at, prepare, within
from artifactmount.namespace import Namespace
from artifactmount.private import make_folder
from artifactmount.project import Project, open_store
from artifactmount.reader import Hopper, Reader
from artifactmount.sources.access import Access, Sources
from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.tree import Tree

_log = logging.getLogger(__name__)

_LOG_LIMIT = 4 << 20
#: Of memory that was let go of, for what is read ahead; of all threads together, as with one heap for each it was 200 MB instead of 84
#: after a GiB was read.
_BUFFER, _KEPT = 8 << 20, 16 << 20
SECRETS = ("ARTIFACTMOUNT_PASSPHRASE", "ARTIFACTMOUNT_NEW_PASSPHRASE")


@dataclass(frozen=True, slots=True)
class Mount:
    """What to mount where. `mountpoint` is absolute, links resolved; `budget` is the cache's, in bytes.

    `uid` and `gid`: whose the files are shown to be, of this process where None; `umask`: the permission bits they are shown without.
    `source`: what mountinfo shows as mounted there; `noexec`: whether nothing may be run from it. `metrics`: where they are served
    (`address_of`); nothing is counted where it is empty.
    `beneath`: whether an overlay is to lie over it.
    """

    url: str
    cache: str
    budget: int
    mountpoint: str
    state_directory: str
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    source: str = "artifactmount"
    noexec: bool = False
    log_format: str = "text"
    metrics: str = ""
    beneath: bool = False

    @property
    def record(self) -> Record:
        """The record of the daemon that serves it."""
        return Record(self.mountpoint, self.state_directory)


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


def start(mount: Mount, keyring: Keyring) -> subprocess.Popen[bytes]:
    """Mount in the background; returns the daemon's process when the tree can be listed. Raises what `serve` raises.

    The keys go through a pipe: everybody may read a process's arguments, and its environment stays for as long as it lives.
    """
    record = mount.record
    make_folder(os.path.dirname(record.log))
    with suppress(FileNotFoundError):
        if os.stat(record.log).st_size > _LOG_LIMIT:
            os.replace(record.log, record.log + ".1")
    read_end, write_end = os.pipe()
    with open(os.open(record.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "artifactmount.daemon", str(write_end), json.dumps(asdict(mount))],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )
    os.close(write_end)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(json.dumps([keyring.files, keyring.kms, keyring.passphrase, keyring.insists]).encode())
        with open(read_end, "rb") as pipe:
            answer = pipe.read()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if answer != b"ready":
        process.wait()
        raise _failure(answer, _said_since(record.log, before), record.log)
    os.stat(mount.mountpoint)  # answered by the daemon itself
    return process


def start_asking(mount: Mount, keyring: Keyring) -> subprocess.Popen[bytes]:
    """`start`; the passphrase is asked for here where there is somebody to ask: the daemon has no terminal."""
    try:
        return start(mount, keyring)
    except LockedError:
        if keyring.given or keyring.ask is None:
            raise
        return start(mount, Keyring(passphrase=keyring.ask(), insists=True))


def _failure(answer: bytes, said: str, log: str) -> ArtifactError:
    try:
        fields = json.loads(answer)
        message, exit_code = str(fields["error"]), int(fields["exit_code"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"the daemon ended before anything was mounted; see {log}")
    kind = LockedError if fields.get("locked") else ArtifactError
    error = kind(f"{message} ({said})" if said else message)
    error.exit_code = exit_code
    return error


def _said_since(log: str, before: int) -> str:
    """What libfuse and fusermount3 complained of: they speak to stderr only."""
    with suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        file.seek(before)
        return "; ".join(line.strip() for line in file if line.startswith(("fuse:", "fusermount3:")))
    return ""


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
