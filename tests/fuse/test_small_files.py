"""Small files are given to the kernel when they are first opened, where that takes no waiting."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse.mounts import Project, mounted, write
from tests.fuse.test_service import scraped

pytestmark = pytest.mark.needs_fuse

_FILES = {f"d{number % 3}/f{number}": random.Random(number).randbytes(1000 + number % 7 * 4096) for number in range(200)} | {
    "empty": b"",
    "large": random.Random(1).randbytes(300_000),
    "text": b"compressible " * 1000,
}


def requests(seen: dict[str, float], operation: str) -> float:
    """How many of one kind the kernel sent."""
    return seen[f'artifactmount_request_seconds_count{{operation="{operation}"}}']


@pytest.mark.usefixtures("answering")
def test_a_file_that_is_at_hand_is_read_without_a_read(project: Project) -> None:
    """As a folder's packs are, once a chunk of each was read."""
    project.snapshot(write(project.root / "staging", _FILES), "animals")
    with mounted(project, after=("--metrics", "0")) as mount:
        top = mount / "animals/v0"
        for _ in range(2):
            assert {path: (top / path).read_bytes() for path in _FILES} == _FILES
        seen = scraped(mount)
    assert requests(seen, "open") == 2 * len(_FILES)
    # The first of a pack, what the disk had not read yet, and the large one; the kernel may ask for a file in two parts.
    assert requests(seen, "read") <= 20
    assert seen["artifactmount_read_bytes_total"] == sum(map(len, _FILES.values()))


def test_many_who_open_the_same_files_at_once_all_get_them(project: Project) -> None:
    """Nothing is given where somebody may be waiting for an answer with the page locked: all would wait for each other."""
    project.snapshot(write(project.root / "staging", _FILES), "animals")
    with mounted(project) as mount, ThreadPoolExecutor(8) as readers:
        begin = threading.Barrier(8)

        def read(top: Path) -> bool:
            begin.wait(timeout=60)
            return all((top / path).read_bytes() == content for path, content in _FILES.items())

        assert all(readers.map(read, [mount / "animals" / version for version in ("v0", "latest") * 4]))
