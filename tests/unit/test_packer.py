"""The numbers of packs: those of metadata have the order in which it is read, however its packs come to be stored."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from artifactmount.artifact import Artifact, Writer
from artifactmount.journal import Journal
from artifactmount.packer import Packer
from artifactmount.ranges import PackId
from artifactmount.sealed import unseal
from artifactmount.session import Session
from artifactmount.steps import Join, Spawn, Steps, drive, perform
from artifactmount.store.memory import MemoryStore

_ANIMALS, _WRITER = Artifact("project", "animals"), Writer("a", "t")
_PIECES = [random.Random(number).randbytes(1 << 20) for number in range(36)]  # three packs of them


def drive_backwards(store: MemoryStore, steps: Steps[Any]) -> Any:
    """As `drive`; but what was spawned last begins first, as threads may have it."""
    spawned: list[Steps[Any]] = []
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = None
        if isinstance(step, Spawn):
            spawned.append(step.steps)
        elif isinstance(step, Join):
            answer = [drive(store, each) for each in reversed(spawned)][::-1]
            spawned.clear()
        else:
            answer = perform(store, step)


@pytest.mark.parametrize("taken", [None, 0, 1])
def test_packs_of_metadata_have_numbers_in_order(taken: int | None) -> None:
    """`taken`: a number that an earlier process used, of which the journal is lost."""
    store = MemoryStore()
    packer = Packer(_ANIMALS, Session(_ANIMALS, _WRITER, _ANIMALS.empty()))
    session = drive(store, packer._session.open())
    if taken is not None:
        store.create(_ANIMALS.pack_key(PackId(session, taken)), b"other bytes")
    pieces = [(piece, bytes([number]) * 32, len(piece)) for number, piece in enumerate(_PIECES)]
    packs = drive_backwards(store, packer._store(pieces))
    assert packs == sorted(packs) and PackId(session, -1 if taken is None else taken) not in packs
    assert len(packs) == 3
    read: list[bytes] = []
    for pack in packs:
        content = store.get(_ANIMALS.pack_key(pack))
        read += (content[row.offset : row.offset + row.stored] for row in _ANIMALS.cipher.whole(pack, content))
    assert read == _PIECES


class WatchingStore(MemoryStore):
    """Takes a pack only if its number stands in the journal."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self.journal, self.numbers = journal, list[int]()

    def create(self, key: str, data: bytes) -> bool:
        pack = _ANIMALS.pack_of(key)
        if pack is not None:
            lines = [unseal(line, 1 << 20, "a line") for line in self.journal.read_bytes().splitlines()]
            assert pack.number <= max(line["reserved"] for line in lines if "reserved" in line)
            self.numbers.append(pack.number)
        return super().create(key, data)


def test_a_number_is_written_down_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifactmount.packer._RESERVED", 2)  # so that more than one time is needed
    store = WatchingStore(tmp_path / "journal")
    with Journal(str(store.journal)) as journal:
        packer = Packer(_ANIMALS, Session(_ANIMALS, _WRITER, _ANIMALS.empty(), journal))
        session = drive(store, packer._session.open())
        journal.begin(session)
        for piece in _PIECES[:5]:
            drive(store, packer._store([(piece, piece[:32], len(piece))]))
    assert store.numbers == [0, 1, 2, 3, 4]
