"""Mountpoints as the kernel tells of them, and the record that each of our daemons keeps of itself. Knows no project and no FUSE.

A mount is never asked about itself: a stat of one whose daemon is stopped hangs. What is mounted comes from mountinfo (proc(5)), and
whether its daemon lives from a lock that it holds on its record for as long as it does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from artifactmount.errors import ArtifactError, NotFoundError, RefusedError, UsageError
from artifactmount.private import make_folder

KIND = "fuse.artifactmount"
#: Of the kernel, for each mount. Sequential readers then send requests of 1 MiB instead of 128 KiB: a quarter more throughput, an eighth of
#: the trips.
READ_AHEAD_KIB = 4096
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_UNMOUNT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo. `device` is the file system's "major:minor"."""

    path: str
    device: str
    kind: str

    @property
    def ours(self) -> bool:
        """Whether it is one of this program's."""
        return self.kind == KIND


def mounted() -> list[Mounted]:
    """Everything mounted here, in the order of mounting."""
    found: list[Mounted] = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split(b" ")  # the kernel escapes blank, tab and newline; other white space may stand in a name
            path = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            found.append(Mounted(os.fsdecode(path), os.fsdecode(fields[2]), os.fsdecode(fields[fields.index(b"-") + 1])))
    return found


def mount_at(path: str) -> Mounted | None:
    """What is mounted exactly at `path` (the uppermost, where several are)."""
    return next((mount for mount in reversed(mounted()) if mount.path == path), None)


def find(url: str, state_directory: str) -> str | None:
    """Where a daemon of this user shows the project at `url`; None where none does."""
    for mount in mounted():
        if mount.ours and Record(mount.path, state_directory).project() == url:
            return mount.path
    return None


def check_apart(path: str) -> None:
    """Refuse a folder that lies in one of our mounts, or holds one: a version of versions is never what was meant."""
    # The uppermost comes first: of mounts on one folder, `max` takes the first it sees.
    above = max((mount for mount in reversed(mounted()) if within(path, mount.path)), key=lambda mount: len(mount.path), default=None)
    if above is not None and above.ours:
        raise RefusedError(f"{path} lies in the mount {above.path}; copy what you need to a folder of its own first")
    below = next((mount for mount in mounted() if mount.ours and within(mount.path, path)), None)
    if below is not None:
        raise RefusedError(f"{path} holds the mount {below.path}; unmount it, or mount it elsewhere")


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it; both absolute, links resolved."""
    return os.path.commonpath((path, folder)) == folder


def locate(path: str) -> str:
    """The absolute path of a mountpoint, links above it resolved, without touching what is mounted there."""
    path = os.path.abspath(path)
    located = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return located if mount_at(located) else os.path.realpath(path)


def check_allow_other(config: str = "/etc/fuse.conf") -> None:
    """Refuse what fusermount3 would refuse without saying what to do: showing files to others is root's to allow."""
    if os.geteuid() == 0:
        return
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            allowed = any(line.strip() == "user_allow_other" for line in file)
    except FileNotFoundError:
        allowed = False
    except OSError:
        return  # fusermount3 may read it, and decides
    if not allowed:
        raise RefusedError(f"--allow-other is for root, unless {config} has the line user_allow_other; ask root to add it")


def prepare(path: str) -> None:
    """Make sure that something can be mounted at `path`, whose record MUST be held. Clears what a killed daemon left.

    Raises NotFoundError, UsageError, RefusedError.
    """
    present = mount_at(path)
    if present is not None and present.ours:
        if not _disconnected(path):  # of somebody who keeps his records elsewhere
            raise RefusedError(f"{path} is mounted already; `artifactmount umount {path}` unmounts it")
        _fusermount(path, lazy=True)
    if not os.path.lexists(path):
        raise NotFoundError(f"no folder {path} to mount on; make it first: mkdir {path}")
    if not os.path.isdir(path):
        raise UsageError(f"{path} is not a folder; only a folder can be mounted on")


def _disconnected(path: str) -> bool:
    """Whether a mount's daemon is gone: the kernel answers for it then, at once. (A stat could come from what the kernel remembers.)"""
    try:
        os.statvfs(path)
    except OSError:
        return True
    return False


def unmount(path: str, record: Record, *, lazy: bool) -> None:
    """Unmount what `artifactmount mount` mounted at `path`, and wait until its daemon has ended.

    Raises NotFoundError when nothing of ours is there; RefusedError when it is in use (not with `lazy`, which takes the name away at once
    and the rest when the last user is done).
    """
    present = mount_at(path)
    if present is None or not present.ours:
        raise NotFoundError(f"nothing of artifactmount is mounted at {path}; `findmnt -t {KIND}` shows what is")
    daemon = _open_daemon(record)
    try:
        _fusermount(path, lazy=lazy or (daemon is None and _disconnected(path)))
        if daemon is not None and not lazy:
            _wait_for(daemon, record)
    finally:
        if daemon is not None:
            os.close(daemon)


def _fusermount(path: str, *, lazy: bool) -> None:
    try:
        done = subprocess.run(
            ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        raise RefusedError("fusermount3 is missing; install the package fuse3") from None
    if done.returncode:
        if "busy" in done.stderr:
            raise RefusedError(f"{path} is in use; close what uses it (`fuser -vm {path}` shows it), or unmount with --lazy")
        raise RefusedError(f"{path} was not unmounted: {' '.join(done.stderr.split())}")


def _open_daemon(record: Record) -> int | None:
    """A descriptor of the daemon's process, if it lives: its number alone could be another's by the time that it is waited for."""
    pid = record.pid()
    if pid is None:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if record.pid() == pid:  # it held its record after the descriptor was made, so it is the one
        return descriptor
    os.close(descriptor)
    return None


def _wait_for(daemon: int, record: Record) -> None:
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    if not poll.poll(_UNMOUNT_SECONDS * 1000):
        raise ArtifactError(f"unmounted, but the daemon has not ended after {_UNMOUNT_SECONDS} s; see {record.log}")


class Record:
    """What a daemon leaves for others to find: its process number, and a lock that says it lives; and where its log is."""

    def __init__(self, mountpoint: str, state_directory: str) -> None:
        name = blake3(os.fsencode(mountpoint)).hexdigest()[:32]
        self.mountpoint = mountpoint
        self.path = os.path.join(state_directory, "mounts", f"{name}.json")
        self.log = os.path.join(state_directory, "mounts", f"{name}.log")

    @contextmanager
    def held(self, url: str) -> Iterator[None]:
        """Hold the record while mounted. Raises RefusedError when another daemon has it."""
        make_folder(os.path.dirname(self.path))
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RefusedError(f"{self.mountpoint} is mounted already, or is being mounted") from None
            written = json.dumps({"pid": os.getpid(), "mountpoint": self.mountpoint, "project": url, "log": self.log})
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, written.encode("utf-8", "surrogateescape"), 0)
            yield
        finally:
            os.close(descriptor)

    def pid(self) -> int | None:
        """The process of the daemon, if it lives."""
        with suppress(ValueError, KeyError, TypeError):
            return int(self._read()["pid"])
        return None

    def project(self) -> str | None:
        """The URL of the project that the daemon shows, if it lives."""
        return self._read().get("project")

    def _read(self) -> dict[str, Any]:
        """What a daemon that lives wrote of itself; nothing, if there is none."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(ValueError):
                fields = json.loads(os.pread(descriptor, 65536, 0))
                return fields if isinstance(fields, dict) else {}
        finally:
            os.close(descriptor)
        return {}
