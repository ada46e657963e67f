"""Read far more than the cache may hold, twice, through a real mount of a bucket, and show that it never held more than its budget.

    .venv/bin/python scripts/check_cache_budget.py [--read 1073741824] [--budget 67108864] [DIR]

The bucket is moto's, in a process of its own on this machine. Everything is made in DIR (default: a temporary folder) and removed. The
suite does the same with 150 MiB (tests/fuse/test_s3.py). Exit code 1 when a byte was wrong or the budget was exceeded by a tenth.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuse.mounts import Mount, Project, mounted
from tests.store.servers import s3_server

_FILE = 8 << 20
_BLOCK = 1 << 20
_TOLERANCE = 1.1
_EVERY = 0.02  # seconds between two looks at the segments


def _make(folder: Path, size: int) -> dict[str, str]:
    """Incompressible files; returns their digests by name."""
    folder.mkdir()
    numbers, digests = random.Random(1), {}
    for number in range(-(-size // _FILE)):
        content = numbers.randbytes(min(_FILE, size - number * _FILE))
        (folder / f"{number:05d}").write_bytes(content)
        digests[f"{number:05d}"] = blake2b(content).hexdigest()
    return digests


def _held(project: Project) -> int:
    total = 0
    with suppress(FileNotFoundError), os.scandir(project.segments) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


def _digest(path: Path) -> str:
    digest = blake2b()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else the kernel alone would answer the second time
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Watch:
    """Looks at the segments all the time, and keeps the most they ever held."""

    def __init__(self, project: Project) -> None:
        self.most = self.looks = 0
        self._project, self._done = project, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            self.most, self.looks = max(self.most, _held(self._project)), self.looks + 1


def _read_twice(mount: Mount, digests: dict[str, str], say: Callable[[str], None]) -> int:
    """Read every file, and again in the other order; returns how many were wrong."""
    wrong = 0
    for turn, names in enumerate((sorted(digests), sorted(digests, reverse=True)), 1):
        begin = time.perf_counter()
        for name in names:
            if _digest(mount / "read/v0" / name) != digests[name]:
                say(f"WRONG: {name}")
                wrong += 1
        say(f"reading {turn}: {time.perf_counter() - begin:.1f} s")
    return wrong


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", type=int, default=1 << 30, help="bytes to read, twice")
    parser.add_argument("--budget", type=int, default=64 << 20, help="bytes the cache may hold")
    parser.add_argument("directory", nargs="?", metavar="DIR")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory, prefix="artifactmount.") as folder, s3_server() as server:
        root = Path(folder)
        project = Project(root / "user", f"s3://{server.make_bucket()}/p", server.environment())
        project.do("init")
        digests = _make(root / "staging", chosen.read)
        print(project.snapshot(root / "staging", "read").strip())
        with mounted(project, options=("--cache-size", str(chosen.budget))) as mount, _Watch(project) as watch:
            wrong = _read_twice(mount, digests, print)
        after = _held(project)
    ok = not wrong and max(watch.most, after) <= chosen.budget * _TOLERANCE
    print(f"{len(digests)} files, {chosen.read} bytes, read twice; {wrong} wrong")
    print(f"budget {chosen.budget}; most held {watch.most} ({watch.most / chosen.budget:.1%}, {watch.looks} looks), after {after}")
    print("ok" if ok else "NOT OK")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
