"""Who sees a mount: two real users. The kernel decides, from what the mount shows."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount, Project, mounted, write

pytestmark = pytest.mark.needs_fuse

NOBODY = 65534
_SECONDS = 30


@pytest.fixture(scope="module")
def reachable() -> Iterator[Path]:
    """A folder that every user of this machine can reach, unlike what pytest makes."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pets(reachable: Path) -> Project:
    """A project with `pets:v0`."""
    project = Project(reachable)
    (write(project.root / "staging", {"cat": b"cat", "sub/dog": b"dog", "run": b"#!/bin/sh\n"}) / "run").chmod(0o755)
    (project.root / "staging/link").symlink_to("cat")
    project.snapshot(project.root / "staging", "pets")
    return project


def as_nobody(*command: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a program that another user runs."""
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    ran = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=_SECONDS, check=False)
    return ran.returncode, ran.stderr


def sees(mount: Mount) -> bool:
    """Whether another user can list and read; if not, by what he is told."""
    answers = [
        as_nobody("cat", mount / "pets/v0/sub/dog"),
        as_nobody("cat", mount / "pets/latest/link"),
        as_nobody("ls", mount / "pets/v0"),
    ]
    if all(code == 0 for code, _ in answers):
        return True
    assert all(code != 0 and os.strerror(errno.EACCES) in said for code, said in answers), answers
    return False


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ((), False),
        (("--allow-other", "--umask", "022"), True),
        (("--allow-other", "--umask", "077"), False),
        (("--allow-other", "--umask", "027", "--gid", str(NOBODY)), True),
    ],
)
def test_another_user_sees_what_the_options_say(pets: Project, options: tuple[str, ...], seen: bool) -> None:
    with mounted(pets, after=options) as mount:
        assert sees(mount) == seen
        assert (mount / "pets/latest/link").read_bytes() == b"cat"  # root sees its own mount in any case


def test_stat_shows_owner_group_and_bits_as_asked(pets: Project) -> None:
    with mounted(pets, after=("--uid", "12", "--gid", "4294967294", "--umask", "0127")) as mount:
        shown = {name: (mount.path / name).lstat() for name in ("", "pets", "pets/v0", "pets/v0/cat", "pets/v0/run", "pets/v0/link")}
    assert {(status.st_uid, status.st_gid) for status in shown.values()} == {(12, 4294967294)}
    modes = {name: stat.S_IMODE(status.st_mode) for name, status in shown.items()}
    assert modes == {"": 0o450, "pets": 0o450, "pets/v0": 0o450, "pets/v0/cat": 0o440, "pets/v0/run": 0o450, "pets/v0/link": 0o777}
