"""Files that are kept open: they answer from the page cache or not at all, and never hold on to what was deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifactmount.store.folder import FolderStore
from artifactmount.store.kept import KeptFiles

_CONTENT = bytes(range(256)) * 100


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(str(tmp_path))
    store.create("packs/a", _CONTENT)
    store.create("packs/b", _CONTENT)
    return store


def open_files(folder: Path) -> int:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and os.readlink(link).startswith(str(folder)) for link in links)


def test_only_what_is_kept_is_answered_from(store: FolderStore) -> None:
    kept = KeptFiles(store)
    assert kept.peek("packs/a", 0, 10) is None
    for _ in range(2):  # the second time reads ahead
        kept.keep("packs/a", 0)
        assert kept.peek("packs/a", 100, 300) in (_CONTENT[100:400], None)  # None: the file system cannot tell, or it was evicted
    assert kept.peek("packs/a", len(_CONTENT) - 10, 11) is None  # cut short: whoever fetches it says so
    assert kept.peek("packs/b", 0, 10) is None


def test_a_deleted_file_is_not_answered_from(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    kept.keep("packs/a", 0)
    store.delete(["packs/a"])
    assert kept.peek("packs/a", 0, 10) is None
    assert open_files(tmp_path) == 0


def test_what_is_unused_or_deleted_is_let_go_of(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    kept.keep("packs/a", 0)
    kept.keep("packs/b", 0)
    kept.let_go()
    assert open_files(tmp_path) == 2  # used since they were opened
    kept.keep("packs/b", 0)
    store.delete(["packs/b"])
    kept.let_go()
    assert open_files(tmp_path) == 0


def test_what_is_no_file_is_not_kept(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    os.mkfifo(tmp_path / "packs/fifo")
    (tmp_path / "packs/link").symlink_to("a")
    for key in ("packs/fifo", "packs/link", "packs/none"):
        kept.keep(key, 0)
        assert kept.peek(key, 0, 10) is None
    assert open_files(tmp_path) == 0


def test_few_are_kept(store: FolderStore, tmp_path: Path) -> None:
    kept = KeptFiles(store)
    for number in range(70):
        store.create(f"many/{number}", b"x")
        kept.keep(f"many/{number}", 0)
    assert open_files(tmp_path) == 64
    kept.let_go(everything=True)
    assert open_files(tmp_path) == 0
