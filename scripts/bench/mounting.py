"""A mount of any contestant while something is done with it, and what that takes, the daemon's part included. Knows no rows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from disk import drop_caches
from measure import ROOT, Daemon, FailedError, Figure, since, timed
from peers import Placed

if TYPE_CHECKING:
    from tests.store.servers import Server

_READY_SECONDS = 120
_PAGE = re.compile(r"metrics are at (http://\S+)")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A tree that can be read; `daemon`: who answers, None for a plain folder."""

    top: Path
    daemon: Daemon | None
    limit: float

    def figure(self, case: str, command: str, folder: Path | None = None, size: int = 0) -> Figure:
        """What a command takes in seconds; with the `size` in bytes of what it reads, how much a second. Raises FailedError."""
        before = self.daemon.requests() if self.daemon else {}
        busy = self.daemon.cpu() if self.daemon else 0.0
        done = timed(command, {}, folder or self.top, self.limit)
        facts = done.facts
        if self.daemon:
            facts |= {"daemon_cpu": round(self.daemon.cpu() - busy, 2), "private": self.daemon.private()}
            facts |= since(before, self.daemon.requests())
        if size:
            return Figure(case, round(size / done.wall / 1e9, 4), "GB/s", facts | {"wall": round(done.wall, 4)})
        return Figure(case, round(done.wall, 4), "s", facts)


@contextmanager
def mounted(placed: Placed, mountpoint: Path, counted: bool, limit: float, root: str | None = None) -> Iterator[Mounted]:
    """Mount, wait until its tree can be listed (`root` below the mountpoint, if not as of all), and unmount in the end.

    `counted`: ours counts what it is asked. Raises FailedError.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
    log = mountpoint.with_name("daemon.log")
    command = placed.line(placed.peer.mount, mnt=str(mountpoint), metrics="--metrics 0" if counted else "")
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["sh", "-c", command],
            env={**os.environ, **placed.environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        top = _wait(process, mountpoint / (placed.peer.root if root is None else root), log)
        page = _PAGE.search(log.read_text(errors="replace"))
        yield Mounted(top, Daemon(process.pid, page[1] if page else ""), limit)
    finally:
        _unmount(process, mountpoint)


def _wait(process: subprocess.Popen[bytes], root: Path, log: Path) -> Path:
    """Where the tree is, links resolved (restic's `latest` is one, and `find` would not follow it)."""
    limit = time.monotonic() + _READY_SECONDS
    while True:
        with suppress(OSError):
            if os.path.ismount(root) or os.listdir(root):
                return root.resolve()
        if process.poll() is not None or time.monotonic() > limit:
            raise FailedError(f"not mounted: {log.read_text(errors='replace').strip()[-300:]}")
        time.sleep(0.01)


def _unmount(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    for command in (["fusermount3", "-u"], ["umount"], ["umount", "--lazy"]):
        if not os.path.ismount(mountpoint):
            break
        subprocess.run([*command, str(mountpoint)], check=False, capture_output=True)
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if number is not None:
                os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def everything_cold() -> None:
    """Empty the kernel's caches. Raises FailedError where that may not be done."""
    if not drop_caches():
        raise FailedError("only root can empty the kernel's caches")


def bucket_server() -> AbstractContextManager[Server]:
    """The S3 server that the tests use, a process of its own on a port of its own: the same for every contestant."""
    sys.path.insert(0, str(ROOT))
    from tests.store.servers import s3_server

    return s3_server()
