"""A fresh ext4 to measure on: a file on a loop device. Knows nothing of what is measured there.

What a used root file system asks for creating a small file says nothing of a store: on one machine that was 0.7 to 0.8 ms of system CPU,
where a fresh ext4 took 0.05. Direct I/O, so that nothing lies in the page cache twice; read-ahead as a real disk there has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READ_AHEAD_KIB = 8192
_NO_DELAY = "lazy_itable_init=0,lazy_journal_init=0"  # else the kernel goes on formatting while it is measured


@contextmanager
def workplace(folder: Path | None, gib: int) -> Iterator[Path]:
    """An empty folder to measure in, removed in the end: on a new ext4 of `gib` GiB; in `folder`, if given, or where nobody is root."""
    if folder is None and os.geteuid() == 0:
        with fresh_disk(gib) as top:
            yield top
        return
    if folder is None:
        print("not root: no fresh file system, so that what creating files costs here is a part of every figure", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="artifactmount-bench-", dir=folder) as name:
        yield Path(name)


@contextmanager
def fresh_disk(gib: int) -> Iterator[Path]:
    """A new ext4, mounted in a temporary folder; unmounted, detached and removed in the end, however that comes. Needs root."""
    with tempfile.TemporaryDirectory(prefix="artifactmount-bench-") as name:
        image, top = Path(name, "disk"), Path(name, "top")
        top.mkdir()
        _run("fallocate", "-l", f"{gib}GiB", str(image))  # with its blocks: else the file system below finds them while it is measured
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", _NO_DELAY, str(image))
        device = _run("losetup", "--direct-io=on", "--show", "-f", str(image)).strip()
        try:
            Path("/sys/block", Path(device).name, "queue/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))
            _run("mount", "-o", "noatime", device, str(top))
            try:
                yield top
            finally:
                _unmount(top)
        finally:
            _run("losetup", "--detach", device)


def _unmount(top: Path) -> None:
    """A mount that a killed peer left below must not keep the disk."""
    with open("/proc/self/mounts") as file:
        below = [line.split()[1] for line in file if line.split()[1].startswith(f"{top}/")]
    for path in reversed(below):
        subprocess.run(["umount", "--lazy", path], check=False)
    try:
        _run("umount", str(top))
    except subprocess.CalledProcessError as error:
        print(f"{top} is in use, and goes when that ends: {error.stderr.strip()}", file=sys.stderr)
        _run("umount", "--lazy", str(top))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def drop_caches() -> bool:
    """Empty the kernel's caches of pages, names and inodes; False where that may not be done (only root may)."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def sync(path: Path) -> None:
    """Make durable what was written to the file system of `path`, and to no other."""
    subprocess.run(["sync", "--file-system", str(path)], check=True)


def stored(*tops: Path) -> int:
    """Bytes allocated below folders, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for top in tops:
        for folder, _, names in os.walk(top):
            for name in names:
                status = os.lstat(os.path.join(folder, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
