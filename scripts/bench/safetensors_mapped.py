"""How fast a model is read that safetensors maps into memory from a mount, beside the same file on the disk, once both are cached.

    .venv/bin/python scripts/bench/safetensors_mapped.py [--size 256] [--rounds 7] [--limit 1.2] [DIR]

A file of `--size` MiB in 16 tensors; all tensors are copied to new memory, from the disk and from the mount alternately, by a new mapping
each time. A line of JSON a round, and one with the medians and their ratio at the end, by the clock and by the CPU time of the reader. What
the mount gives is compared with what is on the disk. Everything is made in DIR (default: a temporary folder), which needs three times the
size, and removed. With `--limit` it exits with 1 when the ratio is above; timings on a busy machine are no tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_TENSORS = 16


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, through a new mapping."""
    with safe_open(path, framework="numpy") as model:
        return {name: model.get_tensor(name) for name in model.keys()}  # noqa: SIM118 - it is no dict


def timed(path: Path) -> tuple[float, float]:
    """What it took to read a file, in seconds by the clock and of this process."""
    begin, began = time.perf_counter(), time.process_time()
    tensors(path)
    return time.perf_counter() - begin, time.process_time() - began


def compare(disk: Path, mount: Path, rounds: int) -> float:
    """Print a line a round; the ratio of the medians by the clock."""
    original, mapped = tensors(disk), tensors(mount)  # this also fills the page cache
    if original.keys() != mapped.keys() or not all(np.array_equal(original[name], mapped[name]) for name in original):
        raise SystemExit("the mount gives other bytes")
    del original, mapped
    clock: dict[Path, list[float]] = {disk: [], mount: []}
    own: dict[Path, list[float]] = {disk: [], mount: []}
    for number in range(rounds):
        for path in (disk, mount) if number % 2 == 0 else (mount, disk):
            seconds, busy = timed(path)
            clock[path].append(seconds)
            own[path].append(busy)
        print(json.dumps({"round": number, "disk": round(clock[disk][-1], 4), "mount": round(clock[mount][-1], 4)}), flush=True)
    medians = {
        "disk_median": median(clock[disk]),
        "mount_median": median(clock[mount]),
        "ratio": median(clock[mount]) / median(clock[disk]),
        "ratio_of_cpu": median(own[mount]) / median(own[disk]),
    }
    print(json.dumps({name: round(value, 4) for name, value in medians.items()}))
    return medians["ratio"]


def main() -> int:
    """Make, mount, read, unmount, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=256, help="MiB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, help="the ratio that is allowed (default: any)")
    parser.add_argument("folder", nargs="?")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifactmount-bench-", dir=options.folder) as name:
        folder = Path(name)
        source, mountpoint = folder / "source", folder / "mnt"
        source.mkdir()
        mountpoint.mkdir()
        numbers = np.random.default_rng(1)
        each = options.size * (1 << 20) // _TENSORS // 4
        save_file({f"layer{n:02d}": numbers.random(each, dtype=np.float32) for n in range(_TENSORS)}, source / "model.safetensors")
        environment = os.environ | {
            "ARTIFACTMOUNT_PROJECT": str(folder / "project"),
            "ARTIFACTMOUNT_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
        }

        def run(*arguments: str | Path) -> None:
            subprocess.run([sys.executable, "-m", "artifactmount", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)

        run("snapshot", source, "model")
        run("mount", mountpoint)
        try:
            ratio = compare(source / "model.safetensors", mountpoint / "model/v0/model.safetensors", options.rounds)
        finally:
            run("umount", mountpoint)
    if options.limit is not None and ratio > options.limit:
        print(f"the mount takes {ratio:.2f} × the disk, more than {options.limit}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
