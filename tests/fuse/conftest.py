"""What the tests of the mount share: a project of one's own, and one mount of many strange files that nobody changes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Project, mounted, write

LONG = "l" * 255
NEWLINE = "new\nline"
NOT_UTF8 = os.fsdecode(b"\xff\xfe-\x80")
MEBI = 1 << 20


@dataclass(frozen=True)
class Gallery:
    """A mounted project: `animals` with v0 and v1 (the seed example), `strange` with all kinds of files, `crowd` with 10,000."""

    mount: Mount
    seed: tuple[Path, Path]  # what v0 and v1 were made from
    strange: Path
    crowd: Path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty folder project and a new user."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    """Made once, as all that is done to it is reading."""
    root = tmp_path_factory.mktemp("gallery")
    project, numbers = Project(root), random.Random(7)
    first = write(root / "seed0", {"cat.png": numbers.randbytes(2_000_000), "dog.png": numbers.randbytes(1_000_000)})
    second = write(root / "seed1", {path.name: path.read_bytes() for path in sorted(first.iterdir())})
    write(second, {"rat.png": numbers.randbytes(3_000_000)})
    project.snapshot(first, "animals")
    project.snapshot(second, "animals", "--alias", "best")
    strange = make_strange(root / "strange", numbers)
    project.snapshot(strange, "strange")
    crowd = write(root / "crowd", {f"{number:05d}": b"%d" % (number % 100) for number in range(10_000)})
    project.snapshot(crowd, "crowd")
    with mounted(project) as mount:
        yield Gallery(mount, (first, second), strange, crowd)


def make_strange(folder: Path, numbers: random.Random) -> Path:
    """Every kind of name, file and link that Linux has and that can be versioned."""
    small = {NEWLINE: b"newline", NOT_UTF8: b"bytes", LONG: b"long", " space ": b"", "-rf": b"dash", "empty": b"", "a:b\\c*?": b"odd"}
    write(folder, small | {"sub/deeper/x": b"x", "sub.d/y": b"y", "sub-d/z": b"z"})
    write(folder, {"large": numbers.randbytes(12 * MEBI + 12345), "text": b"a line of text\n" * 200_000})
    with (folder / "sparse").open("wb") as file:
        file.truncate(100 * MEBI)
        file.seek(50 * MEBI)
        file.write(b"island")
    for name, mode in {"program": 0o755, "mine": 0o700, "group": 0o610, "odd": 0o645, "secret": 0o600}.items():
        write(folder, {name: name.encode()})
        (folder / name).chmod(mode)
    for name, moment in {"before1970": -1_500_000_001, "far": 7_000_000_000_123_456_789, "zero": 0}.items():
        write(folder, {name: b""})
        os.utime(folder / name, ns=(moment, moment))
    for name, target in {
        "dangling": "no/where",
        "absolute": "/etc/hostname",
        "loop": "loop",
        "up": "../strange",
        "inside": "sub/deeper/x",
    }.items():
        (folder / name).symlink_to(target)
    (folder / "links" / "to a folder").parent.mkdir()
    (folder / "links" / "to a folder").symlink_to("../sub")
    (folder / "hollow" / "hollower").mkdir(parents=True)
    return folder
