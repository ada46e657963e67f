"""Makes large projects in little time: the files are made up while they are snapshotted, so no disk has to hold a million of them.

    python made_up.py files COUNT          one version of artifact `files` (8 bytes each, 1,000 in a folder)
    python made_up.py versions N COUNT     N versions of artifact `versions` of COUNT files, 10 of them new in each
    python made_up.py artifacts N          N artifacts of one file

in the project that the environment names, which is made. Each version is a snapshot like any other, from what is staged to its commit.
"""

from __future__ import annotations

import os
import stat
import sys
from array import array
from collections.abc import Iterator

from artifactmount.project import Project
from artifactmount.proposal import Options
from artifactmount.rows import ROOT_KEY, Kind, child_key, mode_of
from artifactmount.settings import Settings
from artifactmount.snapshot import take_staged
from artifactmount.staging import Listing, Staged, Tracked, untracked

_PER_FOLDER = 1000
_TIME = 1_600_000_000_000_000_000
_SIZE = 8


class MadeUp(Staged):
    """A folder that is nowhere. A file's generation is its content, its inode, and its time in seconds."""

    def __init__(self, count: int) -> None:
        self.key = count.to_bytes(16, "big")
        self.generations = [0] * count

    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """See Staged."""
        count = len(self.generations)
        folders = [b"d%04d" % number for number in range(-(-count // _PER_FOLDER))]
        yield Listing(
            ROOT_KEY,
            folders,
            bytearray([mode_of(Kind.DIRECTORY)]) * len(folders),
            array("q", bytes(40 * len(folders))),
            _digests(len(folders)),
        )
        for number, folder in enumerate(folders):
            rows = range(number * _PER_FOLDER, min(count, (number + 1) * _PER_FOLDER))
            records = array("q")
            for row in rows:
                generation = self.generations[row]
                changed = _TIME + generation * 1_000_000_000
                records.extend((generation, _SIZE, changed, changed, mode_of(Kind.FILE)))
            names = [b"f%04d.bin" % (row % _PER_FOLDER) for row in rows]
            yield Listing(child_key(ROOT_KEY, folder), names, bytearray([mode_of(Kind.FILE)]) * len(names), records, _digests(len(names)))

    def read(self, path: bytes, limit: int) -> tuple[bytes, os.stat_result]:
        """See Staged."""
        number = int(path[1:5]) * _PER_FOLDER + int(path[7:11])
        generation = self.generations[number]
        seconds = _TIME // 1_000_000_000 + generation
        status = os.stat_result(
            (stat.S_IFREG | 0o644, generation, 0, 1, 0, 0, _SIZE, seconds, seconds, seconds),
            {"st_mtime_ns": seconds * 1_000_000_000, "st_ctime_ns": seconds * 1_000_000_000},
        )
        return number.to_bytes(4, "big") + generation.to_bytes(4, "big"), status

    def clock(self) -> int:
        """See Staged: long after all that was written."""
        return 2 * _TIME

    def open(self, path: bytes) -> int:
        """See Staged."""
        raise NotImplementedError("files this small are read")

    def target(self, path: bytes) -> bytes:
        """See Staged."""
        raise NotImplementedError("there are no links")

    def show(self, path: bytes) -> str:
        """See Staged."""
        return os.fsdecode(path)


def _digests(count: int) -> bytearray:
    return bytearray(32 * count)


def make(project: Project, what: str, number: int, count: int) -> None:
    """What the command line says."""
    if what == "files":
        take_staged(project, MadeUp(number), "files", Options())
    elif what == "artifacts":
        for artifact in range(number):
            take_staged(project, MadeUp(1), f"artifact{artifact:04d}", Options())
    else:
        staged = MadeUp(count)
        for version in range(number):
            for changed in range(version * 10, version * 10 + 10 if version else 0):
                staged.generations[changed * 7919 % count] = version
            take_staged(project, staged, "versions", Options())
            if version % 100 == 99:
                print(f"{version + 1} versions", flush=True)


if __name__ == "__main__":
    with Settings().open(create=True) as opened:
        make(opened, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
