"""What is a user's own stays so: folders are made closed and closed when they are not, files that others may read are refused."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount.config import Config, ServerSideEncryption, read_config
from artifactmount.errors import RefusedError, UsageError
from artifactmount.private import close_folder, make_folder, read_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """022, whatever this process has."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_every_folder_that_was_missing_is_made_closed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for _ in range(2):
        make_folder(str(tmp_path / "there/a/b/c"))
    assert [mode_of(tmp_path / "there" / below) for below in ("", "a", "a/b", "a/b/c")] == [0o755, 0o700, 0o700, 0o700]
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_folder(str(tmp_path / path))


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1750, 0o2777])
def test_an_open_folder_is_closed_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    for _ in range(2):
        close_folder(str(folder), "cache")
    assert mode_of(folder) == mode & ~0o077
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"the cache folder {folder} was open to other users (mode {mode:03o})" in caplog.text


def test_a_folder_of_somebody_else_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o755)
    close_folder(str(tmp_path), "cache", ours=False)
    assert mode_of(tmp_path) == 0o755 and not caplog.records


def test_a_folder_for_everybody_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(RefusedError, match=r"everybody may write to; name a folder of your own"):
        close_folder(str(shared), "cache")
    assert mode_of(shared) == 0o1777
    close_folder(str(tmp_path / "missing"), "cache")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660])
def test_a_file_that_others_may_use_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"content")
    file.chmod(mode)
    with pytest.raises(RefusedError, match=rf"mode {mode:03o}\): refused; close it: chmod 600 {file}"):
        read_file(str(file), 100)
    file.chmod(0o600)
    assert read_file(str(file), 100) == b"content" and read_file(str(file), 3) == b"con"
    file.chmod(0o400)
    assert read_file(str(file), 100) == b"content"


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it somebody else's: who is not root becomes somebody else instead."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what its owner likes, however closed it is."""
    file = tmp_path / "secret"
    file.touch(0o600)
    give_away(file, monkeypatch)
    with pytest.raises(RefusedError, match=f"{file} belongs to user"):
        read_file(str(file), 100)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name in ("fifo", "folder"):
        with pytest.raises(RefusedError, match="no regular file"):
            read_file(str(tmp_path / name), 100)


@pytest.mark.parametrize("ours", [True, False])
def test_a_folder_that_belongs_to_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(0o700)
    give_away(folder, monkeypatch)
    with pytest.raises(RefusedError, match=f"cannot be {folder}, which belongs to user"):
        close_folder(str(folder), "cache", ours=ours)


def test_a_folder_that_cannot_be_closed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that knows no modes, for example: what lies there is everybody's."""

    def fails(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "chmod", fails)
    with pytest.raises(RefusedError, match="cannot be closed"):
        close_folder(str(tmp_path), "cache")


# -- the config file -------------------------------------------------------------------------------------------------------------------
def config_of(folder: Path, text: str, mode: int = 0o600) -> Config:
    (folder / "artifactmount").mkdir(exist_ok=True)
    file = folder / "artifactmount/config.toml"
    file.write_text(text)
    file.chmod(mode)
    return read_config({"XDG_CONFIG_HOME": str(folder)})


def test_the_config_says_project_and_encryption(tmp_path: Path) -> None:
    assert read_config({"XDG_CONFIG_HOME": str(tmp_path)}) == Config()
    assert config_of(tmp_path, "") == Config()
    assert config_of(tmp_path, 'project = "s3://b/p"\n[s3]\nsse = "AES256"') == Config("s3://b/p", ServerSideEncryption("AES256"))
    text = '[s3]\nsse = "aws:kms"\nsse-kms-key-id = "alias/mine"'
    assert config_of(tmp_path, text).sse == ServerSideEncryption("aws:kms", "alias/mine")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[s3]\nsse = "aes"', "sse in .s3. is one of AES256, aws:kms, aws:kms:dsse, not 'aes'"),
        ('[s3]\nsee = "AES256"', "knows no 'see'"),
        ('[s3]\nsse-kms-key-id = "k"', "not None"),
        ('[s3]\nsse = "AES256"\nsse-kms-key-id = "k"', "goes with sse"),
        ('[s3]\nsse = "aws:kms"\nsse-kms-key-id = 7', "goes with sse"),
        ('s3 = "AES256"', "s3 is a table"),
        ("project = ", "Invalid value"),
        ('keyfile = "/home/ann/my.key"', "knows no 'keyfile'"),
        ("[reference]\nallow = []", "knows no 'reference'"),
        ("project = 7", "project is a text"),
        ("key-file = true", "key-file is a text"),
    ],
)
def test_a_config_that_says_nothing_clear_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot read {tmp_path}/artifactmount/config.toml: .*{why}"):
        config_of(tmp_path, text)


def test_an_open_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="chmod 600"):
        config_of(tmp_path, 'project = "s3://b/p"', 0o644)


def test_a_variable_is_gone_from_where_others_see_it() -> None:
    script = """import os; from artifactmount.private import forget_variable
forget_variable("SECRET"); forget_variable("NONE")
seen = open("/proc/self/environ", "rb").read()
print("SECRET" in os.environ, b"horse" in seen, b"OTHER=kept" in seen)"""
    ran = subprocess.run([sys.executable, "-c", script], env={"SECRET": "correct horse", "OTHER": "kept"}, capture_output=True, check=True)
    assert ran.stdout == b"False False True\n"
