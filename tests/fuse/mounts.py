"""Real mounts for tests: projects in worlds of their own, used through the command line, and always unmounted.

    with mounted(project) as mount:
        assert os.listdir(mount.path) == ["animals"]

Whatever happens in the block, the mount is taken away by its path, and the daemon, if it still lives then, is killed by its pidfd: a
number that was given to another process meanwhile can never be hit.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from artifactmount.mountpoint import mount_at
from tests import encryption

T = TypeVar("T")

_COMMAND_SECONDS = 60
_END_SECONDS = 15
_POLL_SECONDS = 0.02


class Project:
    """A project, and a user of it who has a home, a cache and a state directory of his own, all below `root`."""

    def __init__(self, root: Path, url: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.url = url or str(root / "project")
        self.records = root / "state" / "artifactmount" / "mounts"
        self.segments = root / "cache" / "artifactmount" / "segments"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("ARTIFACTMOUNT_", "AWS_", "XDG_"))}
        self.environment |= {"HOME": str(root / "home"), "ARTIFACTMOUNT_PROJECT": self.url, "LC_ALL": "C.UTF-8", **(environment or {})}
        for name in ("config", "data", "cache", "state"):
            self.environment[f"XDG_{name.upper()}_HOME"] = str(root / name)
        (root / "home").mkdir(parents=True, exist_ok=True)
        self.environment |= encryption.variables(root / "home")
        if encryption.ENCRYPTED and not url:
            self.do("init")

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """The command line, running, its output in pipes."""
        command = [sys.executable, "-m", "artifactmount", *encryption.arguments(arguments)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def do(self, *arguments: str | Path, code: int = 0) -> str:
        """What the command line says when it ends with this exit code: stdout, or stderr where it is to fail."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=_COMMAND_SECONDS)
            finally:
                process.kill()
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}: {out}{err}"
        assert "Traceback" not in err and "Warning" not in err, err
        return err if code else out

    def snapshot(self, folder: Path, artifact: str, *options: str) -> str:
        """Make a folder the next version."""
        return self.do("snapshot", folder, artifact, *options)

    def packs(self, artifact: str) -> list[Path]:
        """The stored packs of a folder project."""
        return sorted(path for path in Path(self.url, "artifacts", artifact, "data").rglob("*") if path.is_file())

    def record(self, path: Path) -> dict[str, str]:
        """What the last daemon of a mountpoint wrote of itself."""
        for record in self.records.glob("*.json"):
            with suppress(ValueError):
                fields: dict[str, str] = json.loads(record.read_text())
                if fields["mountpoint"] == str(path):
                    return fields
        return {}


class Mount:
    """A mount that was made. `path` is its mountpoint, `pid` its daemon."""

    def __init__(self, project: Project, path: Path) -> None:
        self.project, self.path = project, path
        self.pid = 0
        self._descriptor: int | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def adopt(self) -> None:
        """Remember the daemon, in the place of one that ended."""
        if self._descriptor is not None:
            assert self.ended()
            os.close(self._descriptor)
            self._descriptor = None
        self.pid = int(self.project.record(self.path)["pid"])
        self._descriptor = os.pidfd_open(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._descriptor is not None
        signal.pidfd_send_signal(self._descriptor, number)

    def ended(self, seconds: float = _END_SECONDS) -> bool:
        """Whether the daemon has ended, or does within this time."""
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    @property
    def log(self) -> str:
        """What the daemon has logged."""
        return Path(self.project.record(self.path)["log"]).read_text(errors="surrogateescape")

    def take_away(self) -> None:
        """Leave no mount and no daemon, whatever there is."""
        while is_mounted(self.path):
            subprocess.run(["fusermount3", "-u", "-z", "--", self.path], check=True, timeout=_COMMAND_SECONDS)
        if self._descriptor is not None:
            try:
                if not self.ended():
                    self.signal(signal.SIGKILL)
                    assert self.ended()
            finally:
                os.close(self._descriptor)
                self._descriptor = None


@contextmanager
def mounted(project: Project, name: str = "mnt", *, options: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Iterator[Mount]:
    """Mount in the background at `root/name`, with `options` before the command and `after` behind. Unmounts in the end, if need be."""
    path = project.root / name
    if not is_mounted(path):  # a dead mount can be asked nothing
        path.mkdir(parents=True, exist_ok=True)
    mount = Mount(project, path)
    try:
        try:
            project.do(*options, "mount", path, *after)
        finally:
            if is_mounted(path):
                mount.adopt()
        yield mount
        if is_mounted(path) and not mount.ended(0):
            project.do("umount", path)
            assert mount.ended(0)  # `umount` waits for it
    finally:
        mount.take_away()


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there, without asking the mount."""
    return mount_at(str(path)) is not None


def wait_until(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """What `condition` returns, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(_POLL_SECONDS)
    return found


def tree_of(folder: Path | bytes) -> dict[bytes, tuple[str, bytes | int]]:
    """Everything below a folder: relative path -> its kind, and what it holds, or how large it is from 1 MiB on."""
    found: dict[bytes, tuple[str, bytes | int]] = {}
    top = os.fsencode(folder)
    pending = [b""]
    while pending:
        below = pending.pop()
        with os.scandir(os.path.join(top, below)) as entries:
            for entry in entries:
                path = os.path.join(below, entry.name)
                if entry.is_symlink():
                    found[path] = "link", os.readlink(entry.path)
                elif entry.is_dir():
                    found[path] = "folder", b""
                    pending.append(path)
                else:
                    found[path] = _file(entry)
    return found


def _file(entry: os.DirEntry[bytes]) -> tuple[str, bytes | int]:
    status = entry.stat()
    kind = "program" if status.st_mode & stat.S_IXUSR else "file"
    if status.st_size >= 1 << 20:
        return kind, status.st_size
    with open(entry.path, "rb") as file:
        return kind, file.read()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write these files into a folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
