"""Small files that worker processes write for a download: the same files as without, and whatever they cannot do is done or said here."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from artifactmount import filling, folders, workers, writing
from artifactmount.cache import Cache
from artifactmount.crypto import AROUND, ProjectKey
from artifactmount.download import _PARALLEL, Downloaded, download
from artifactmount.errors import CorruptError, RefusedError
from artifactmount.filling import Filling
from artifactmount.names import parse
from artifactmount.pack import PackBuilder
from artifactmount.progress import Silent
from artifactmount.project import Project, open_store
from artifactmount.ranges import PackId
from artifactmount.snapshot import Options, take
from artifactmount.target import Target
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


def test_workers_write_what_is_written_here(project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any) -> None:
    put = Target.put

    def only_empty(self: Target, key: bytes, name: bytes, content: bytes, mtime: int, executable: bool) -> None:
        assert not content, f"{name!r} was left to this process"
        put(self, key, name, content, mtime, executable)

    monkeypatch.setattr(Target, "put", only_empty)
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


def test_a_download_goes_on_without_workers_that_die_at_their_work(
    project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any
) -> None:
    """They are stopped as soon as one has a job, are given more, and are dead when the first answer is waited for."""
    give, wait = Workers.give, workers.Job.wait
    given: list[workers.Job] = []
    unanswered: list[int] = []

    def stopping(self: Workers, *job: Any, **content: Any) -> workers.Job:
        given.append(give(self, *job, **content))
        if len(given) == 1:
            for worker in self._workers:
                worker._process.send_signal(signal.SIGSTOP)
        return given[-1]

    def killing(self: workers.Job) -> Any:
        if not unanswered:
            unanswered.append(sum(not job.done for job in given))
            for worker in started[0]._workers:
                worker._process.kill()
                worker._process.wait()
        return wait(self)

    monkeypatch.setattr(Workers, "give", stopping)
    monkeypatch.setattr(workers.Job, "wait", killing)
    done = to(project, tmp_path / "out")
    assert unanswered[0] >= 1 and done.written == 125 and read(tmp_path / "out") == TREE


def test_without_workers_threads_write_and_one_is_told(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    told: list[tuple[int, int, int]] = []
    writers: set[int] = set()
    turns, together, put = count(), threading.Barrier(2), Target.put

    class Told(Silent):
        def advance(self, done_bytes: int, done_files: int) -> None:
            told.append((threading.get_ident(), done_bytes, done_files))

    def met(self: Target, key: bytes, name: bytes, content: bytes, mtime: int, executable: bool) -> None:
        if content and threading.get_ident() not in writers:
            writers.add(threading.get_ident())
            if next(turns) < 2:
                together.wait(30)  # broken where one thread does it all
        put(self, key, name, content, mtime, executable)

    monkeypatch.setattr(filling, "_JOB_FILES", 7)
    monkeypatch.setattr(Target, "put", met)
    done = to(project, tmp_path / "out", progress=Told())
    assert read(tmp_path / "out") == TREE and threading.get_ident() not in writers
    assert {thread for thread, _, _ in told} == {threading.get_ident()}
    assert (sum(size for _, size, _ in told), sum(files for _, _, files in told)) == (done.bytes, 124)  # a link is no file


def test_no_more_is_held_than_is_said(project: Project, started: list[Workers], tmp_path: Path, monkeypatch: Any) -> None:
    most: list[int] = []
    step = Filling._step

    def counted(self: Filling) -> None:
        under_way = (group.length for group, _ in (*self._fetching, *self._given, *self._here))
        assert self._held == sum(under_way)
        most.append(self._held)
        step(self)

    monkeypatch.setattr(filling, "_HELD_BYTES", 800)
    monkeypatch.setattr(filling, "_JOB_BYTES", 300)
    monkeypatch.setattr(filling, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(Filling, "_step", counted)
    to(project, tmp_path / "out")
    assert 400 < max(most) <= 800 and read(tmp_path / "out") == TREE


def test_the_first_error_ends_a_download_by_threads(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    put = Target.put

    def failing(self: Target, key: bytes, name: bytes, content: bytes, mtime: int, executable: bool) -> None:
        if name == b"050":
            raise RefusedError("no room for 050")
        put(self, key, name, content, mtime, executable)

    monkeypatch.setattr(filling, "_JOB_FILES", 7)
    monkeypatch.setattr(Target, "put", failing)
    with pytest.raises(RefusedError, match="no room for 050"):
        to(project, tmp_path / "out")
    assert not (tmp_path / "out/a/b/050").exists()
    monkeypatch.setattr(Target, "put", put)
    to(project, tmp_path / "out")
    assert read(tmp_path / "out") == TREE


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


def test_threads_write_into_more_folders_than_stay_open(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(folders, "_OPEN", 4)
    files = [(b"d%d" % (n % 40), b"f%d" % n) for n in range(800)]
    with Target(str(tmp_path / "out")) as target, ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda file: target.put(file[0], file[1], file[0], 10**18, False), files):
            pass
    found = read(tmp_path / "out")
    assert {path: leaf.content for path, leaf in found.items() if isinstance(leaf, File)} == {b"/".join(file): file[0] for file in files}


def test_where_a_file_gets_no_name_later_that_is_tried_only_once(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    """Where /proc is not mounted: no worker is started, and not every file written twice."""
    tried: list[bytes] = []

    def without_proc(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    def counted(folder: int, name: bytes, *about: Any) -> bool:
        tried.append(name)
        return writing.put_new(folder, name, *about)

    monkeypatch.setattr(filling, "_MANY", 1)
    monkeypatch.setattr(Workers, "start", lambda _: pytest.fail("workers were started"))
    monkeypatch.setattr(os, "link", without_proc)
    monkeypatch.setattr("artifactmount.target.put_new", counted)
    to(project, tmp_path / "out")
    assert read(tmp_path / "out") == TREE and len(tried) <= 1 + 2 * _PARALLEL  # each thread may find out


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
