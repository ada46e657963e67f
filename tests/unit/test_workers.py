"""Worker processes: answers in order, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactmount import workers as module
from artifactmount.content import ContentReader, Read
from artifactmount.digest import SINGLE_LIMIT
from artifactmount.manifest import Table
from artifactmount.pack import open_chunk
from artifactmount.proposal import nothing
from artifactmount.reading import Root, list_folders
from artifactmount.rows import Kind
from artifactmount.scan import Found, scan
from artifactmount.staging import Staging
from artifactmount.workers import WorkerLostError, Workers

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
        if batch.block is None:
            for at, read in zip(batch.found, batch.reads, strict=True):
                chunk = read.chunk if read is not None else None
                kept = chunk._replace(stored=open_chunk(bytes(chunk.stored), chunk.plain, chunk.digest)) if chunk and chunk.stored else None
                found[at.path] = None if read is None else read._replace(record=tuple(read.record), chunk=kept)
        else:
            reads = list(reader._decode(batch.found, batch.block.reads, batch.block.stored))
            for at, read in zip(batch.found, reads, strict=True):
                assert read is not None
                chunk = read.chunk
                kept = chunk._replace(stored=open_chunk(bytes(chunk.stored), chunk.plain, chunk.digest)) if chunk and chunk.stored else None
                found[at.path] = read._replace(record=tuple(read.record), chunk=kept)
    return found


def test_workers_read_what_threads_read(tmp_path: Path) -> None:
    _tree(tmp_path, 3, 150)
    with Staging(str(tmp_path)) as staging:
        reader = ContentReader(staging, lambda _: False)
        try:
            assert _reads(staging, reader, 1 << 20) == _reads(staging, reader, 0)
            assert staging._workers is not None
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
        there = [(listing.key, listing.names, listing.modes, listing.records) for listing in staging.walk()]
        assert staging._workers is not None
    assert there == here and len(here) == 43


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
