"""Worker processes: answers in order, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

from artifactmount import workers as module
from artifactmount.content import Batch, ContentReader, NewFiles, Read
from artifactmount.digest import SINGLE_LIMIT
from artifactmount.folders import Root
from artifactmount.listing import list_folders
from artifactmount.manifest import Table
from artifactmount.pack import open_chunk
from artifactmount.proposal import nothing
from artifactmount.rows import Kind
from artifactmount.scan import Found, scan
from artifactmount.staging import Staging
from artifactmount.workers import Job, WorkerLostError, Workers

EMPTY: Table = nothing()


def echo(slot: memoryview, number: int) -> tuple[int, int]:
    """Runs in a worker: the number comes back, with a byte of it in the shared memory."""
    slot[0] = number % 256
    return number, os.getpid()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Two of them."""
    started = Workers(2, 1 << 16)
    yield started
    started.close()


def test_answers_come_in_order_beside_their_memory(workers: Workers) -> None:
    for _ in range(3):
        jobs = [workers.give(echo, number) for number in range(workers.room)]
        answers = [(job.wait()[0], job.slot[0]) for job in jobs]
        assert answers == [(number, number) for number in range(workers.room)]


def test_there_are_as_many_processes_as_were_asked_for_and_none_is_left(workers: Workers) -> None:
    jobs = [workers.give(echo, number) for number in range(4)]
    processes = {job.wait()[1] for job in jobs}
    assert len(processes) == 2 and os.getpid() not in processes
    workers.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_worker_that_is_killed_is_told(workers: Workers) -> None:
    process = workers.give(echo, 1).wait()[1]
    os.kill(process, signal.SIGKILL)

    def ask_both() -> None:  # giving it work fails, or waiting for the answer
        for job in [workers.give(echo, 1), workers.give(echo, 2)]:
            job.wait()

    with pytest.raises(WorkerLostError):
        ask_both()


def test_a_job_that_would_fill_the_socket_is_refused(workers: Workers) -> None:
    with pytest.raises(WorkerLostError, match="bytes"):
        workers.give(list_folders, Root("/", 0, 0), [bytes(module._JOB_LIMIT)])
    assert workers.give(echo, 1).wait()[0] == 1


def _tree(root: Path, folders: int, files: int) -> None:
    for folder in range(folders):
        (root / f"{folder:02d}").mkdir()
        for file in range(files):
            (root / f"{folder:02d}" / f"{file:03d}").write_bytes(b"%d %d " % (folder, file) * (file % 7) * 100)
    (root / "00" / "link").symlink_to("000")
    (root / "large").write_bytes(os.urandom(SINGLE_LIMIT + 1))
    (root / "empty").mkdir()


def _reads(staging: Staging, reader: ContentReader, files: int) -> dict[bytes, Read | None]:
    """What reading gives of each path, as by itself."""
    found: dict[bytes, Read | None] = {}
    result = scan(staging, EMPTY, lambda _: None)

    def wanted(at: Found) -> bool:
        return at.listing is not None and at.listing.modes[at.row] == Kind.FILE and at.listing.size(at.row) <= SINGLE_LIMIT

    for batch in reader.small(result.found(), wanted, files):
        if isinstance(batch, NewFiles):
            reads: Iterable[Read | None] = reader._decode(batch.found, batch.reads, batch.stored)
        else:
            reads = batch.reads
        for at, read in zip(batch.found, reads, strict=True):
            chunk = read.chunk if read is not None else None
            kept = chunk._replace(stored=open_chunk(bytes(chunk.stored), chunk.plain, chunk.digest)) if chunk and chunk.stored else None
            found[at.path] = None if read is None else read._replace(record=tuple(read.record), chunk=kept)
    return found


def test_workers_read_what_threads_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, 3, 150)
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            here = _reads(staging, reader, 0)
            monkeypatch.setattr(reader, "one", _refuse)  # nothing is left to be read here
            assert _reads(staging, reader, 1 << 20) == here
        finally:
            reader.close()


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("this was to be done by a worker")


def test_new_files_of_a_folder_come_together(tmp_path: Path) -> None:
    _tree(tmp_path, 1, 150)
    (tmp_path / "00" / "link").unlink()
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            found = [at for at in scan(staging, EMPTY, lambda _: None).found() if at.key == b"00"]
            batches = list(reader.small(found, lambda _: True, 1 << 20))
            assert [type(batch) for batch in batches] == [NewFiles, NewFiles]
        finally:
            reader.close()


@pytest.mark.parametrize("files", [150, 3])
def test_a_worker_that_dies_with_work_in_its_hands(tmp_path: Path, files: int) -> None:
    _tree(tmp_path, 3, files)
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            here = _reads(staging, reader, 0)
            workers = staging.workers()
            assert workers is not None
            give = workers.give

            def killed_later(*arguments: Any) -> Job:
                for worker in workers._workers:
                    worker._process.send_signal(signal.SIGSTOP)
                job = give(*arguments)
                for worker in workers._workers:
                    worker._process.kill()
                return job

            workers.give = killed_later  # type: ignore[method-assign,assignment]
            assert _reads(staging, reader, 1 << 20) == here
        finally:
            reader.close()


def test_a_snapshot_goes_on_without_workers_that_died(tmp_path: Path) -> None:
    _tree(tmp_path, 3, 150)
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            workers = staging.workers()
            assert workers is not None
            for worker in workers._workers:
                worker._process.kill()
                worker._process.wait()
            assert _reads(staging, reader, 1 << 20) == _reads(staging, reader, 0)
        finally:
            reader.close()


def test_a_large_tree_is_listed_by_workers_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, 12, 5)
    for depth in range(30):
        (tmp_path / "/".join(["deep"] * (depth + 1))).mkdir()
    (tmp_path / ".artifactignore").write_text("07\n")
    with Staging(str(tmp_path)) as staging:
        here = [(listing.key, listing.names, listing.modes, listing.records) for listing in staging.walk()]
    monkeypatch.setattr("artifactmount.lookahead._MANY", 1)
    with Staging(str(tmp_path)) as staging:
        walk = staging.walk()
        there = [(listing.key, listing.names, listing.modes, listing.records) for listing in islice(walk, 1)]
        monkeypatch.setattr("artifactmount.staging.list_folder", _refuse)  # all below the root is listed by workers
        there += [(listing.key, listing.names, listing.modes, listing.records) for listing in walk]
    assert there == here and len(here) == 43


def test_what_lies_in_the_users_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, whose path begins with the folder that one is in."""
    (tmp_path / "pickle.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", ".", *sys.path])
    workers = Workers(1, 1 << 16)
    try:
        assert workers.give(list_folders, Root("/", 0, 0), []).wait() == []
    finally:
        workers.close()
    assert not (tmp_path / "ran").exists()


def test_a_worker_does_nothing_for_a_program_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifactmount.workers.__version__", "0.0.0+other")
    workers = Workers(1, 1 << 16)
    try:
        with pytest.raises(WorkerLostError):
            workers.give(echo, 1).wait()
    finally:
        workers.close()


def test_secrets_are_not_handed_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACTMOUNT_PASSPHRASE", "correct horse")
    workers = Workers(1, 1 << 16)
    try:
        process = workers.give(echo, 1).wait()[1]
        assert b"correct horse" not in Path(f"/proc/{process}/environ").read_bytes()
    finally:
        workers.close()


def test_where_none_can_be_started_it_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(Workers, "start", tried.append)
    with Staging(str(tmp_path)) as staging:
        assert staging.workers() is staging.workers() is None
    assert len(tried) == 1


def test_a_file_that_changed_since_it_was_listed_is_read_again(tmp_path: Path) -> None:
    _tree(tmp_path, 1, 150)
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            result = scan(staging, EMPTY, lambda _: None)
            (tmp_path / "00" / "003").write_bytes(b"other content")
            reads = {
                at.name: read
                for batch in reader.small(result.found(), lambda at: at.name == b"003", 1 << 20)
                if isinstance(batch, Batch)
                for at, read in zip(batch.found, batch.reads, strict=True)
            }
            read = reads[b"003"]
            assert read is not None and read.chunk is not None and read.record[1] == len(b"other content")
        finally:
            reader.close()


def test_answers_that_nobody_waits_for_are_in_nobodys_way(workers: Workers) -> None:
    """A snapshot that begins anew gives up what it had asked for."""
    for number in range(3 * workers.room):
        workers.give(echo, number)
    assert [workers.give(echo, number).wait()[0] for number in range(100, 110)] == list(range(100, 110))
