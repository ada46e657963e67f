"""What is believed of a checkout's record: only what its user wrote, and of that only what makes sense."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactmount.checkout import COPY, OVERLAY, Checkout, Lived, find, locked, read
from artifactmount.errors import CorruptError, NeedsNewerError, NotFoundError, RefusedError
from artifactmount.workspace import lay_over

FIRST = Lived(0, "0" * 64)
OTHER = 1001  # another user's number


def checkout_at(path: Path) -> Checkout:
    """A record of a copy in `path`, kept."""
    path.mkdir()
    checkout = Checkout(str(path), "/project", "animals", COPY, FIRST, FIRST, 0, whole=True)
    with locked(checkout.path):
        checkout.write()
    return checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return checkout_at(tmp_path / "mine")


def test_what_is_written_is_read(checkout: Checkout) -> None:
    assert read(checkout.path) == checkout
    assert os.listdir(checkout.folder) == ["checkout.json"]
    os.mkdir(f"{checkout.path}/sub")
    assert find(f"{checkout.path}/sub") == checkout
    with pytest.raises(NotFoundError):
        find(f"{checkout.path}/sub", inside=False)


def test_programs_that_mount_inherit_no_secrets(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mount"
    program.write_text('#!/bin/sh\nexec env > "$PWD/seen"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ARTIFACTMOUNT_PASSPHRASE", "secret")
    lay_over(replace(checkout, method=OVERLAY))
    seen = {line.split("=")[0] for line in Path(checkout.below("seen")).read_text().splitlines()}
    assert seen <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}  # the last are the shell's own
    monkeypatch.setattr("artifactmount.workspace._PROGRAM_SECONDS", 0)
    program.write_text("#!/bin/sh\nread line < /dev/zero\n")
    with pytest.raises(RefusedError, match="did not end within"):
        lay_over(replace(checkout, method=OVERLAY))
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError, match="mount is missing"):
        lay_over(replace(checkout, method=OVERLAY))


def test_a_name_too_long_for_a_hidden_folder_beside_it_is_no_checkout(tmp_path: Path) -> None:
    assert read(str(tmp_path / ("n" * 255))) is None


@pytest.mark.needs_root
@pytest.mark.parametrize("what", [".", "checkout.json"])
def test_what_another_user_planted_is_refused(checkout: Checkout, what: str) -> None:
    os.chown(checkout.below(what), OTHER, OTHER)
    for at in (checkout.path, f"{checkout.path}/sub"):
        with pytest.raises(RefusedError, match=f"user {OTHER}: refused; .* work as that user"):
            find(at)


@pytest.mark.needs_root
def test_what_another_user_planted_is_not_locked(checkout: Checkout) -> None:
    os.chown(checkout.folder, OTHER, OTHER)
    with pytest.raises(RefusedError, match=f"user {OTHER}"), locked(checkout.path):
        pytest.fail("held")


@pytest.mark.parametrize("mode", [0o770, 0o705, 0o777])
def test_what_others_may_change_is_refused(checkout: Checkout, mode: int) -> None:
    os.chmod(checkout.folder, mode)
    with pytest.raises(RefusedError, match=rf"mode {mode:o}\): refused; close it: chmod 700"):
        read(checkout.path)
    with pytest.raises(RefusedError, match="chmod 700"), locked(checkout.path):
        pytest.fail("held")
    os.chmod(checkout.folder, 0o700)
    os.chmod(checkout.below("checkout.json"), mode)
    with pytest.raises(RefusedError, match=r"chmod 600"):
        read(checkout.path)


def test_a_link_leads_nowhere(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / ".other.artifactmount").symlink_to(checkout.folder)
    with pytest.raises(RefusedError, match="is no folder: refused; remove it"):
        read(str(tmp_path / "other"))
    with pytest.raises(RefusedError, match="is no folder: refused; remove it"), locked(str(tmp_path / "other")):
        pytest.fail("held")
    os.rename(checkout.below("checkout.json"), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", checkout.below("checkout.json"))
    with pytest.raises(CorruptError, match=r"checkout\.json cannot be read"):
        read(checkout.path)


NAMES: list[Any] = ["", ".", "../..", "a/b", "a,upperdir=/", "a:b", "a\n", "a" * 129, 1, None, ["a"], {}]


def changed(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda record: record | fields


LIVED: list[Any] = [
    None,
    [0, "0" * 64],
    {"number": 0},
    {"number": 0, "digest": "0" * 64, "more": 1},
    *({"number": number, "digest": "0" * 64} for number in (-1, True, 1.0, 10**18, "0", "0,upperdir=/etc", None, float("nan"))),
    *({"number": 0, "digest": digest} for digest in ("", "0" * 63, "0" * 64 + "\n", "G" * 64, "A" * 64, 0, None, ["0" * 64])),
]
HOSTILE: list[Callable[[dict[str, Any]], object]] = [
    *(changed(lower=lived) for lived in LIVED),
    changed(base=LIVED[4]),
    *(changed(artifact=name) for name in NAMES),
    *(changed(project=url) for url in ("", "a\0b", 1, None, ["/project"])),
    *(changed(method=method) for method in ("", "bind", 1, None, ["copy"], {"copy": 1})),
    *(changed(latest=number) for number in (-1, True, 0.0, "0", 10**18)),
    *(changed(whole=whole) for whole in (1, 0, "true", None)),
    changed(path="/elsewhere"),
    changed(note="x" * 70_000),
    lambda record: dict(list(record.items())[:-1]),
    lambda record: [record],
    lambda _: None,
    lambda _: "checkout",
    lambda _: 1,
    lambda _: [],
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_record_that_makes_no_sense_is_damaged(checkout: Checkout, number: int) -> None:
    where = Path(checkout.below("checkout.json"))
    where.write_text(json.dumps(HOSTILE[number](json.loads(where.read_text()))))
    with pytest.raises(CorruptError, match="damaged"):
        read(checkout.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\0", b"\xff", b"[" * 60_000, b" " * 70_000, b"9" * 5000], ids=range(7))
def test_what_is_no_json_is_damaged(checkout: Checkout, content: bytes) -> None:
    Path(checkout.below("checkout.json")).write_bytes(content)
    with pytest.raises(CorruptError, match="damaged"):
        read(checkout.path)


@pytest.mark.parametrize("format_", [2, 0, "1", None])
def test_a_newer_record_needs_a_newer_program(checkout: Checkout, format_: object) -> None:
    where = Path(checkout.below("checkout.json"))
    where.write_text(json.dumps(json.loads(where.read_text()) | {"format": format_, "more": 1}))
    with pytest.raises(NeedsNewerError, match=r"checkout\.json was written by a newer"):
        read(checkout.path)
