"""A reader that knows an older state than there is: it finds what was moved, and never takes one chunk for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactmount.delete import delete_versions
from artifactmount.digest import chunk_digest
from artifactmount.errors import GoneError
from artifactmount.fetch import Fetcher
from artifactmount.store.memory import MemoryStore
from tests.unit.test_forgetting import OTHER, SECRET, SHARED, log, machine


def test_a_reader_that_knows_an_older_state_reads_on(tmp_path: Path) -> None:
    """What lives on was moved out of its pack; what is gone is said to be gone, and is no damage."""
    store = MemoryStore()
    with machine(store, tmp_path / "writer") as writer, machine(store, tmp_path / "reader") as reader:
        log(writer, tmp_path / "staging", {"secret": SECRET, "shared": SHARED}, "")
        log(writer, tmp_path / "staging", {"shared": SHARED, "other": OTHER}, "")
        older = reader.refresh("animals")
        run = reader.catalog("animals").run(older.versions[0])
        delete_versions(writer, "animals", [0])
        chunks = {chunk.digest: chunk for chunk in run.all_chunks()}
        fetcher = Fetcher(reader, "animals")
        assert fetcher.chunk(chunks[chunk_digest(SHARED)], older, run.digest) == SHARED
        with pytest.raises(GoneError):
            fetcher.chunk(chunks[chunk_digest(SECRET)], older, run.digest)
