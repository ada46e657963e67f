"""What lies in a folder, as plain bytes: in the order of bytes, whatever the names are; and cheap to begin with."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactmount import listing
from artifactmount.listing import FIELDS, ODD, ODD_NAMES, Listed, list_folder, stat_record
from artifactmount.rows import EXECUTABLE, Kind

_NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, ord("/")} & {*name} and name not in (b".", b".."))


def _list(folder: Path) -> Listed:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return list_folder(descriptor)
    finally:
        os.close(descriptor)


@given(st.lists(_NAMES, unique=True, max_size=12))
def test_names_come_in_the_order_of_bytes(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    """Text has another: a byte that is no UTF-8 stands between the others there, and below those of four bytes."""
    folder = tmp_path_factory.mktemp("folder")
    for name in names:
        (folder / os.fsdecode(name)).touch()
    assert _list(folder).names == sorted(names)


def test_text_and_bytes_are_not_ordered_alike(tmp_path: Path) -> None:
    names = [b"\xf0\x9f\x98\x80", b"\xff", b"\xee\x80\x80", b"a\nb"]
    assert sorted(map(os.fsdecode, names)) != [os.fsdecode(name) for name in sorted(names)]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    assert _list(tmp_path).names == sorted(names)


def test_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"some")
    (tmp_path / "b").write_bytes(b"more")
    (tmp_path / "b").chmod(0o700)
    (tmp_path / "c").mkdir()
    (tmp_path / "d").symlink_to("a")
    os.mkfifo(tmp_path / "e")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "f"))
    (tmp_path / "g").write_bytes(b"")
    found = _list(tmp_path)
    assert list(found.modes[:4]) == [Kind.FILE, Kind.FILE | EXECUTABLE, Kind.DIRECTORY, Kind.SYMLINK]
    assert [ODD_NAMES[mode] for mode in found.modes[4:6]] == ["FIFO", "socket"] and min(found.modes[4:6]) >= ODD
    assert found.modes[6] == Kind.FILE
    for row, name in enumerate(found.names):
        record = tuple(found.records[row * FIELDS : (row + 1) * FIELDS])
        if found.modes[row] == Kind.DIRECTORY:
            assert record == (0,) * FIELDS
        elif found.modes[row] < ODD:
            assert record == stat_record(os.lstat(tmp_path / os.fsdecode(name)))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, which only root may")
def test_a_device_and_what_hides_a_lower_file_have_one_mode_and_are_told_apart(tmp_path: Path) -> None:
    for name, device in ("a", os.makedev(0, 0)), ("b", os.makedev(1, 3)), ("c", os.makedev(0, 0)):
        try:
            os.mknod(tmp_path / name, stat.S_IFCHR | 0o600, device)
        except PermissionError:
            pytest.skip("devices cannot be made here")
    found = _list(tmp_path)
    assert [mode == listing.WHITEOUT for mode in found.modes] == [True, False, True]


def test_an_inode_beyond_int64_is_kept_as_a_number_of_its_own() -> None:
    fields = [(1 << 64) - 2, 5, 6, 7, Kind.FILE, 8, 9, 10, 11, Kind.FILE]
    assert list(listing._as_records(fields)) == [-2, 5, 6, 7, Kind.FILE, 8, 9, 10, 11, Kind.FILE]


def test_a_worker_that_lists_imports_nothing_that_hashes_or_logs() -> None:
    """It would start with twice the CPU, which a snapshot where nothing changed waits for."""
    script = (
        "import sys; from artifactmount import worker, listing;"
        "print(*sorted({'blake3', 'zstandard', 'logging', 'socket', 'subprocess', 'dataclasses'} & {*sys.modules}))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run((sys.executable, "-c", script), check=True, capture_output=True, text=True, env=environment).stdout
    assert shown == "\n"
