"""Small files that worker processes write for a download: the same files as without, and whatever they cannot do is done or said here."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactmount import filling, workers, writing
from artifactmount.cache import Cache
from artifactmount.crypto import AROUND, ProjectKey
from artifactmount.download import Downloaded, download
from artifactmount.errors import CorruptError, RefusedError
from artifactmount.names import parse
from artifactmount.pack import PackBuilder
from artifactmount.project import Project, open_store
from artifactmount.ranges import PackId
from artifactmount.snapshot import Options, take
from artifactmount.workers import WorkerLostError, Workers
from tests import encryption
from tests.cli.trees import File, Folder, Link, Tree, files_below, read, write

_MANY: Tree = {b"a/b/%03d" % n: File(b"%d " % (n % 50) * n) for n in range(120)}
TREE: Tree = {
    b"empty": File(b""),
    b"zeros": File(bytes(100_000)),
    b"run.sh": File(b"#!/bin/sh\n", executable=True),
    b"link": Link(b"empty"),
    b"large": File(os.urandom(1 << 20) * 3),
    b"a": Folder(),
    b"a/b": Folder(),
    **_MANY,
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    write(tmp_path / "staging", TREE)
    cache = Cache(str(tmp_path / "cache"))
    made = Project(open_store(str(tmp_path / "project")), cache, str(tmp_path / "state"), create=True)
    take(made, str(tmp_path / "staging"), "pets", Options())
    yield made
    cache.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Workers]:
    """Every file is one of many, jobs are small, and the workers that were started are here."""
    begun: list[Workers] = []
    start = Workers.start

    def starting(slot: int) -> Workers | None:
        found = start(slot)
        assert found is not None
        begun.append(found)
        return found

    monkeypatch.setattr(filling, "_MANY", 1)
    monkeypatch.setattr(filling, "_JOB_FILES", 7)
    monkeypatch.setattr(Workers, "start", starting)
    return begun


def to(project: Project, path: Path, **options: Any) -> Downloaded:
    return download(project, parse("pets"), str(path), **options)


def test_workers_write_what_is_written_here(project: Project, started: list[Workers], tmp_path: Path) -> None:
    done = to(project, tmp_path / "out")
    assert started and (done.written, done.bytes) == (125, sum(len(leaf.content) for leaf in TREE.values() if isinstance(leaf, File)))
    assert read(tmp_path / "out") == TREE
    for path in files_below(tmp_path / "out"):
        assert path.stat().st_mtime_ns == (tmp_path / "staging" / path.relative_to(tmp_path / "out")).stat().st_mtime_ns
    assert (tmp_path / "out/zeros").stat().st_blocks == 0
    assert to(project, tmp_path / "out").kept == 125


def test_a_download_goes_on_without_workers_that_died(project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any) -> None:
    give = Workers.give

    def dying(self: Workers, *given: Any, **content: Any) -> workers.Job:
        for worker in self._workers:
            worker._process.kill()
            worker._process.wait()
        return give(self, *given, **content)

    monkeypatch.setattr(Workers, "give", dying)
    to(project, tmp_path / "out")
    assert started and read(tmp_path / "out") == TREE


def test_what_came_meanwhile_is_replaced_or_refused_as_ever(
    project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any
) -> None:
    """By who downloads the same at the same time, say."""
    give, out, outside = Workers.give, tmp_path / "out", tmp_path / "outside"
    outside.write_bytes(b"precious")

    def planting(self: Workers, *given: Any, **content: Any) -> workers.Job:
        if not (out / "run.sh").is_symlink() and not (out / "a/b/003").exists():
            (out / "run.sh").unlink(missing_ok=True)
            (out / "run.sh").symlink_to(outside)
            (out / "a/b/003").write_bytes(b"half")
        return give(self, *given, **content)

    monkeypatch.setattr(Workers, "give", planting)
    to(project, out)
    assert read(out) == TREE and outside.read_bytes() == b"precious"


def test_a_folder_in_the_way_is_not_replaced(project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any) -> None:
    give, out = Workers.give, tmp_path / "out"

    def planting(self: Workers, *given: Any, **content: Any) -> workers.Job:
        (out / "a/b/119").mkdir(exist_ok=True)
        return give(self, *given, **content)

    monkeypatch.setattr(Workers, "give", planting)
    with pytest.raises(RefusedError, match="something else is in the way"):
        to(project, out)
    assert (out / "a/b/119").is_dir()


@encryption.plain_only
def test_damage_is_said_with_the_path_and_gives_no_wrong_file(project: Project, started: list[Workers], tmp_path: Path) -> None:
    for path in files_below(tmp_path / "project/artifacts/pets/data"):
        path.write_bytes(path.read_bytes().replace(b"#!/bin/sh", b"#!/bin/zh"))
    with pytest.raises(CorruptError, match=r"^run\.sh: "):
        to(project, tmp_path / "out")
    assert started and not (tmp_path / "out/run.sh").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".artifactmount")]


def test_nothing_is_written_through_a_folder_that_was_turned_meanwhile(
    project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any
) -> None:
    """A worker opens the folder by its path, and writes only where that is still the one it was."""
    give, out = Workers.give, tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()

    def turning(self: Workers, *given: Any, **content: Any) -> workers.Job:
        if not out.is_symlink():
            out.rename(tmp_path / "moved")
            out.symlink_to(tmp_path / "elsewhere")
        return give(self, *given, **content)

    monkeypatch.setattr(Workers, "give", turning)
    to(project, out)
    assert read(tmp_path / "moved") == TREE and read(tmp_path / "elsewhere") == {}


def test_without_files_that_have_no_name_they_are_renamed(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    """NFS, and some file systems in user space."""
    monkeypatch.setattr("artifactmount.target.put_new", lambda *_: False)
    to(project, tmp_path / "out")
    assert read(tmp_path / "out") == TREE


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert writing.put_new(folder, b"f", b"content", 10**18, True)
        assert not writing.put_new(folder, b"f", b"other", 10**18, False)
        (tmp_path / "link").symlink_to("nowhere")
        assert not writing.put_new(folder, b"link", b"other", 10**18, False)
        assert not writing.put_new(folder, b"x" * 256, b"other", 10**18, False)
    finally:
        os.close(folder)
    assert read(tmp_path) == {b"f": File(b"content", executable=True), b"link": Link(b"nowhere")}
    assert (tmp_path / "f").stat().st_mtime_ns == 10**18


def test_a_worker_gets_the_cipher_of_an_encrypted_project() -> None:
    cipher, pack, builder = ProjectKey(bytes(32), "00" * 16).cipher("pets"), PackId(3, 0), PackBuilder(AROUND, AROUND)
    digest = cipher.chunking.digest(b"secret")
    builder.add(digest, 6, b"secret")
    stored = cipher.pack(pack, builder)
    (row,) = cipher.whole(pack, stored)  # keys are held from now on
    there = pickle.loads(pickle.dumps(cipher))  # noqa: S301
    assert there.chunk(pack, row.offset, stored[row.offset :], 6, digest) == b"secret"


def test_a_job_that_does_not_fit_is_refused() -> None:
    crew = Workers(1, 4096)
    try:
        with pytest.raises(WorkerLostError, match="beside"):
            crew.give(writing.write_files, content=(bytes(4000), bytes(97)))
    finally:
        crew.close()
