"""How fast a model is read that safetensors maps into memory from a mount, beside the same file on the disk, once both are cached.

    .venv/bin/python scripts/bench/safetensors_mapped.py [--size 256] [--rounds 7] [--limit 1.2] [DIR]

A file of `--size` MiB in 16 tensors; all tensors are read to the end, from the disk and from the mount alternately, by a new mapping in a
new process each time. A line of JSON a round, and one with the medians and their ratio at the end. What the mount gives is compared with
what was written. Everything is made in DIR (default: a temporary folder), which needs three times the size, and removed. With `--limit` it
exits with 1 when the ratio is above; timings on a busy machine are no tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file

_TENSORS = 16

#: What is timed: a mapping, and every tensor of it copied to the heap.
_READ = """
import sys, time
from hashlib import blake2b
from safetensors import safe_open
begin = time.perf_counter()
with safe_open(sys.argv[1], framework="numpy") as model:
    tensors = {name: model.get_tensor(name) for name in model.keys()}
seconds = time.perf_counter() - begin
digest = blake2b()
for name in sorted(tensors):
    digest.update(tensors[name])
print(seconds, digest.hexdigest())
"""


def read(path: Path) -> tuple[float, str]:
    """The seconds it took, and a digest of all that was read."""
    done = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, check=True)
    seconds, digest = done.stdout.split()
    return float(seconds), digest


def compare(disk: Path, mount: Path, rounds: int) -> float:
    """Print a line a round; the ratio of the medians."""
    right = read(disk)[1]
    if read(mount)[1] != right:  # this also fills the page cache
        raise SystemExit("the mount gives other bytes")
    taken: dict[Path, list[float]] = {disk: [], mount: []}
    for number in range(rounds):
        for path in (disk, mount) if number % 2 == 0 else (mount, disk):
            seconds, digest = read(path)
            if digest != right:
                raise SystemExit(f"{path}: other bytes than before")
            taken[path].append(seconds)
        print(json.dumps({"round": number, "disk": round(taken[disk][-1], 4), "mount": round(taken[mount][-1], 4)}), flush=True)
    on_disk, mounted = median(taken[disk]), median(taken[mount])
    print(json.dumps({"disk_median": round(on_disk, 4), "mount_median": round(mounted, 4), "ratio": round(mounted / on_disk, 3)}))
    return mounted / on_disk


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
