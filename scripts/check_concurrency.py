"""Many writers at once: N processes take M snapshots each of different content into one artifact; nothing may be lost, doubled or torn.

    .venv/bin/python scripts/check_concurrency.py [--processes 8] [--snapshots 10] [PROJECT]

PROJECT: a folder or s3://bucket/prefix (made when missing; default: a temporary folder). Exits with 1 and says what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ARTIFACT = "contended"


def artifactmount(environment: dict[str, str], *arguments: str | Path) -> str:
    """Run a command as a user would; its output. What fails says so."""
    command = [sys.executable, "-m", "artifactmount", *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {ran.returncode}: {ran.stderr.strip()}")
    return ran.stdout


def write(environment: dict[str, str], folder: Path, writer: int, snapshots: int) -> list[str]:
    """One writer: its staging folder changes before each snapshot. Returns the versions it was told."""
    staging = folder / f"staging-{writer}"
    staging.mkdir()
    # Every other writer has a cache of its own, as if on another machine.
    environment = environment | {"ARTIFACTMOUNT_CACHE": str(folder / f"cache-{writer if writer % 2 else 'shared'}")}
    told: list[str] = []
    for number in range(snapshots):
        (staging / f"file-{number % 3}").write_bytes(os.urandom(20_000))
        (staging / "who").write_text(f"{writer} {number}")
        told.append(json.loads(artifactmount(environment, "snapshot", staging, ARTIFACT, "--json"))["version"])
    return told


def check(project: str, folder: Path, processes: int, snapshots: int) -> list[str]:
    """What is wrong after all have written; nothing when all is well. `folder` is for what is needed on the way."""
    environment = os.environ | {"ARTIFACTMOUNT_PROJECT": project, "XDG_STATE_HOME": str(folder / "state")}
    environment |= {"ARTIFACTMOUNT_CACHE": str(folder / "cache-check")}
    artifactmount(environment, "init")
    with ThreadPoolExecutor(processes) as pool:
        told = list(pool.map(lambda writer: write(environment, folder, writer, snapshots), range(processes)))
    expected = [f"v{n}" for n in range(processes * snapshots)]
    versions = [version["version"] for version in json.loads(artifactmount(environment, "ls", ARTIFACT, "--json"))]
    problems: list[str] = []
    if versions != expected:
        problems.append(f"{len(versions)} versions instead of {len(expected)}, or with gaps")
    if sorted(version for mine in told for version in mine) != sorted(expected):
        problems.append("what the writers were told is not each version once")
    for writer, mine in enumerate(told):
        for number, version in enumerate(mine):
            target = folder / "read" / version
            artifactmount(environment, "download", f"{ARTIFACT}:{version}/who", target)
            if (target / "who").read_text() != f"{writer} {number}":
                problems.append(f"{version} does not hold what was snapshotted")
    artifactmount(environment, "verify")
    return problems


def main() -> int:
    """Parse, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--snapshots", type=int, default=10)
    parser.add_argument("project", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artifactmount-check-") as folder:
        project = arguments.project or str(Path(folder) / "project")
        problems = check(project, Path(folder), arguments.processes, arguments.snapshots)
    for problem in problems:
        print(problem)
    print(f"{arguments.processes} × {arguments.snapshots} snapshots: " + ("wrong" if problems else "all there, in order, each once"))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
