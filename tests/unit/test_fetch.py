"""A reader that knows an older state than there is: it finds what was moved, and never takes one chunk for another."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from artifactmount.delete import delete_versions
from artifactmount.digest import chunk_digest
from artifactmount.errors import GoneError
from artifactmount.fetch import Fetcher
from artifactmount.held import joined
from artifactmount.store.folder import FolderStore
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


def test_neighbours_are_read_in_one_go_and_a_damaged_one_costs_nobody_else(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "store"))
    contents = {f"{number}": Random(number).randbytes(5000) for number in range(4)} | {"4": b"compressible" * 500}
    with machine(store, tmp_path / "home") as project:
        log(project, tmp_path / "staging", contents, "")
        state = project.refresh("animals")
        refs = list(project.catalog("animals").run(state.versions[0]).all_chunks())
        fetcher, plain = Fetcher(project, "animals"), {chunk_digest(content): content for content in contents.values()}
        found = fetcher.neighbours(refs, state)
        assert {name: bytes(joined([part])) for name, part in found.items()} == plain
        assert len({id(part.buffer) for part in found.values()}) == 2  # what is stored as it is was not copied
        place = refs[2].place
        (pack,) = {state.resolve(ref.place.pack) for ref in refs}
        with open(store.path_of(project.artifact("animals").pack_key(pack)), "r+b") as file:
            file.seek(place.offset)
            file.write(b"damage")
        assert set(fetcher.neighbours(refs, state)) == set(plain) - {refs[2].digest}


def test_a_chunk_of_another_length_than_the_run_says_is_not_ready(tmp_path: Path) -> None:
    """It may be in the cache for another file; given to the kernel, it would make this one longer."""
    store = MemoryStore()
    with machine(store, tmp_path / "home") as project:
        log(project, tmp_path / "staging", {"file": SHARED}, "")
        state = project.refresh("animals")
        run = project.catalog("animals").run(state.versions[0])
        (ref,) = run.all_chunks()
        fetcher = Fetcher(project, "animals")
        assert fetcher.ready(ref) is None
        assert fetcher.chunk(ref, state, run.digest) == fetcher.ready(ref) == SHARED
        for length in (len(SHARED) - 1, len(SHARED) + 1):
            assert fetcher.ready(ref._replace(place=ref.place._replace(plain=length))) is None
