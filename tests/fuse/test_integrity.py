"""Right bytes or an error that says what is wrong, through a real mount of a folder project."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from tests.encryption import plain_only
from tests.fuse.mounts import Project, mounted, wait_until, write

pytestmark = [pytest.mark.needs_fuse, plain_only]

NUMBERS = random.Random(11)
FILES = {
    "sub/bad file": NUMBERS.randbytes(70_000),
    "good": NUMBERS.randbytes(70_000),
    "large": NUMBERS.randbytes(9 << 20),  # in packs of its own
    "well": NUMBERS.randbytes(70_000),
}


@pytest.fixture
def damaged(project: Project) -> Project:
    """A project with one version, not damaged yet; its user has forgotten whatever he remembered."""
    project.snapshot(write(project.root / "staging", FILES), "damaged")
    return project


def pack_with(project: Project, content: bytes) -> Path:
    """The pack in which this content lies as it is."""
    (found,) = (pack for pack in project.packs("damaged") if content in pack.read_bytes())
    return found


def rewrite(path: Path, content: bytes) -> None:
    """Put other bytes into a file that nobody was meant to change."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
    path.write_bytes(content)


def fails(path: Path) -> None:
    """Reading it is an I/O error, each time."""
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output") as caught:
            path.read_bytes()
        assert caught.value.errno == errno.EIO


def test_a_flipped_bit_is_an_error_that_the_log_names(damaged: Project) -> None:
    content = FILES["sub/bad file"]
    pack = pack_with(damaged, content)
    stored = bytearray(pack.read_bytes())
    stored[stored.index(content) + 40_000] ^= 0x10
    rewrite(pack, bytes(stored))
    with mounted(damaged) as mount:
        top = mount / "damaged/v0"
        fails(top / "sub/bad file")
        for name in ("good", "large", "well"):
            assert (top / name).read_bytes() == FILES[name]
        assert (top / "sub/bad file").stat().st_size == len(content)
        line = wait_until(lambda: next((line for line in mount.log.splitlines() if "bad file" in line), ""))
        assert "ERROR" in line and "damaged:v0" in line and "sub/bad file" in line and "digest" in line
        assert f"{pack.parent.name}/{pack.name}" in line


def test_a_flipped_bit_in_the_middle_of_a_large_file_spoils_only_what_lies_there(damaged: Project) -> None:
    content = FILES["large"]
    pack = pack_with(damaged, content[:1000])
    stored = bytearray(pack.read_bytes())
    stored[stored.index(content[5_000_000:5_000_100])] ^= 0x01
    rewrite(pack, bytes(stored))
    with mounted(damaged) as mount:
        descriptor = os.open(mount / "damaged/v0/large", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(descriptor, 1000, 0) == content[:1000]
            assert os.pread(descriptor, 1000, 8_500_000) == content[8_500_000:8_501_000]
            with pytest.raises(OSError, match="Input/output"):
                os.pread(descriptor, 1000, 5_000_000)
        finally:
            os.close(descriptor)


def test_a_lost_pack_is_an_error_for_its_files_alone(damaged: Project) -> None:
    pack = pack_with(damaged, FILES["good"])
    pack.unlink()
    with mounted(damaged) as mount:
        for name in ("good", "well", "sub/bad file"):
            fails(mount / "damaged/v0" / name)
        assert (mount / "damaged/v0/large").read_bytes() == FILES["large"]
        wait_until(lambda: "damaged:v0 good" in mount.log)


@pytest.mark.parametrize("cut", [1000, 0])
def test_a_pack_cut_short_is_an_error(damaged: Project, cut: int) -> None:
    pack = pack_with(damaged, FILES["well"])
    rewrite(pack, pack.read_bytes()[:cut])
    with mounted(damaged) as mount:
        fails(mount / "damaged/v0/well")
        assert (mount / "damaged/v0/large").read_bytes() == FILES["large"]


def test_a_version_whose_manifest_is_damaged_is_an_error_and_the_others_are_not(damaged: Project) -> None:
    """A second user, who has nothing of it in his cache."""
    before = set(damaged.packs("damaged"))
    damaged.snapshot(write(damaged.root / "staging", {"new": b"new"}), "damaged")
    for pack in set(damaged.packs("damaged")) - before:
        stored = bytearray(pack.read_bytes())
        stored[-5] ^= 0x80
        rewrite(pack, bytes(stored))
    other = Project(damaged.root / "other", damaged.url)
    with mounted(other) as mount:
        assert sorted(os.listdir(mount / "damaged")) == ["latest", "v0", "v1"]
        assert (mount / "damaged/v0/good").read_bytes() == FILES["good"]
        with pytest.raises(OSError, match="Input/output"):
            os.listdir(mount / "damaged/v1")
        assert (mount / "damaged/v0/well").read_bytes() == FILES["well"]


def test_what_is_put_right_again_reads_again(damaged: Project) -> None:
    pack = pack_with(damaged, FILES["good"])
    whole = pack.read_bytes()
    rewrite(pack, b"")
    with mounted(damaged) as mount:
        fails(mount / "damaged/v0/good")
        rewrite(pack, whole)
        assert (mount / "damaged/v0/good").read_bytes() == FILES["good"]
