"""The log read backwards, and what a version changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from blake3 import blake3

from artifactmount.acts import Act, Close, Open, Purge
from artifactmount.artifact import Artifact, head
from artifactmount.errors import CorruptError
from artifactmount.history import change_of, changes, events
from artifactmount.log import Entry, decode_checkpoint, decode_entry, encode_checkpoint, encode_entry, needs_checkpoint
from artifactmount.ranges import PackRanges
from artifactmount.state import State
from artifactmount.steps import drive
from artifactmount.store.memory import MemoryStore
from tests.unit.trees import DIRECTORY, link, run_between, sized

ARTIFACT = Artifact("11" * 16, "animals")
COUNT = 200  # checkpoints are before entries 64, 128 and 192


def act_of(seq: int) -> Act:
    """Every fifth has no effect: it closes what is not open. The others open, and close what was opened."""
    if seq % 5 == 3:
        return Close(1_000_000)
    if seq % 5 in (0, 1):
        return Open(bytes([seq % 256]) * 16)
    return Close(seq - 2) if seq % 5 == 2 else Purge(PackRanges())


def write(store: MemoryStore, count: int, act: Callable[[int], Act] = act_of) -> State:
    """The state after so many entries. Other clients write refused entries, ours never do: so they are made here by hand."""
    state = ARTIFACT.empty()
    for seq in range(count):
        checkpoint = encode_checkpoint(state) if needs_checkpoint(seq) else None
        if checkpoint is not None:
            assert store.create(ARTIFACT.checkpoint_key(seq - 1), checkpoint)
        proof = None if checkpoint is None else blake3(checkpoint).digest()
        data = encode_entry(Entry(seq, state.digest, bytes(16), f"time {seq}", "me", "test", act(seq), (), proof))
        assert store.create(ARTIFACT.log_key(seq), data)
        state, _ = ARTIFACT.apply(state, data)
    return state


@pytest.fixture(scope="module")
def written() -> tuple[dict[str, bytes], State]:
    """Everything in a store with a long log, and its newest state."""
    store = MemoryStore()
    state = write(store, COUNT)
    return {item.key: store.get(item.key) for item in store.list_keys("", limit=10_000)}, state


def store_of(values: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    for key, data in values.items():
        store.create(key, data)
    return store


CHECKPOINTS = [ARTIFACT.checkpoint_key(seq) for seq in (63, 127, 191)]


@pytest.mark.parametrize("lost", [[], CHECKPOINTS[:1], CHECKPOINTS[2:], CHECKPOINTS[1:], CHECKPOINTS], ids=len)
def test_the_newest_comes_first_and_what_had_no_effect_is_marked(written: tuple[dict[str, bytes], State], lost: list[str]) -> None:
    """Also without checkpoints: they are derived, and only make it faster."""
    values, state = written
    store = store_of(values)
    store.delete(lost)
    found = list(events(store, ARTIFACT, state))
    assert [event.entry.seq for event in found] == list(reversed(range(COUNT)))
    assert [event.entry.act for event in found] == [act_of(seq) for seq in reversed(range(COUNT))]
    assert [event.entry.seq for event in found if event.refusal is not None] == [seq for seq in reversed(range(COUNT)) if seq % 5 == 3]
    assert found[-4].refusal == "session 1000000 is not open"
    assert drive(store, head(ARTIFACT)) == state


def test_a_checkpoint_with_other_bytes_is_not_believed(written: tuple[dict[str, bytes], State]) -> None:
    values, state = written
    store = store_of({**values, CHECKPOINTS[2]: values[CHECKPOINTS[0]]})
    assert sum(event.refusal is not None for event in events(store, ARTIFACT, state)) == COUNT // 5


def test_a_checkpoint_that_its_entry_does_not_prove_is_not_used(written: tuple[dict[str, bytes], State]) -> None:
    """It is one, and of the entry before, but says something else than the log."""
    values, state = written
    forged = encode_checkpoint(replace(decode_checkpoint(values[CHECKPOINTS[2]]), next=77))
    assert drive(store_of({**values, CHECKPOINTS[2]: forged}), head(ARTIFACT)) == state


def test_an_entry_of_another_history_is_not_followed(written: tuple[dict[str, bytes], State]) -> None:
    """By whoever knows the one before it: in the right slot, right by itself, and written behind something else."""
    values, state = written
    follows = encode_entry(Entry(COUNT, bytes(32), bytes(16), "time", "somebody else", "test", Purge(PackRanges())))
    with pytest.raises(CorruptError, match=f"entry {COUNT} does not follow entry {COUNT - 1}"):
        drive(store_of({**values, ARTIFACT.log_key(COUNT): follows}), head(ARTIFACT, state))


@pytest.mark.parametrize("count", [0, 1, 64, 65, 128])
def test_logs_that_end_where_a_block_does(count: int) -> None:
    store = MemoryStore()
    state = write(store, count)
    assert [event.entry.seq for event in events(store, ARTIFACT, state)] == list(reversed(range(count)))


def test_the_history_of_an_older_state_ends_there(written: tuple[dict[str, bytes], State]) -> None:
    values, _ = written
    store, state = store_of(values), ARTIFACT.empty()
    for seq in range(71):
        state, _ = ARTIFACT.apply(state, values[ARTIFACT.log_key(seq)])
    assert [event.entry.seq for event in events(store, ARTIFACT, state)] == list(reversed(range(71)))


@pytest.mark.parametrize("at", [0, 30, 100, 199])
def test_a_broken_chain_is_an_error(written: tuple[dict[str, bytes], State], at: int) -> None:
    """An entry that is valid by itself, in its slot, and not the one that the next names."""
    values, state = written
    old = decode_entry(values[ARTIFACT.log_key(at)], at)
    forged = encode_entry(Entry(at, old.prev, old.nonce, old.time, "somebody else", old.tool, old.act, (), old.checkpoint))
    found: list[int] = []
    with pytest.raises(CorruptError, match=rf"the log of animals is broken at entry {at}\b"):
        found.extend(event.entry.seq for event in events(store_of({**values, ARTIFACT.log_key(at): forged}), ARTIFACT, state))
    assert found == list(reversed(range(at + 1, COUNT)))  # what is newer is proven by the state
    for broken in (values[ARTIFACT.log_key(at)][:-1], b"", values[ARTIFACT.log_key((at + 1) % COUNT)]):
        with pytest.raises(CorruptError):
            list(events(store_of({**values, ARTIFACT.log_key(at): broken}), ARTIFACT, state))


def test_a_hole_is_an_error(written: tuple[dict[str, bytes], State]) -> None:
    values, state = written
    store = store_of(values)
    store.delete([ARTIFACT.log_key(150)])
    with pytest.raises(CorruptError, match="hole at entry 150"):
        list(events(store, ARTIFACT, state))


def test_what_a_run_changed() -> None:
    old = {b"d": DIRECTORY, b"d/gone": sized([b"12345"]), b"d/same": sized([b"same"]), b"kind": sized([b"a file"])}
    new = {b"d": DIRECTORY, b"d/same": sized([b"same"]), b"d/x": sized([b"1", b"23"]), b"kind": link(b"d/same"), b"\xff\n": sized([])}
    run = run_between(old, new)
    assert list(changes(run)) == [("M", b"kind", 6), ("A", b"\xff\n", 0), ("D", b"d/gone", 5), ("A", b"d/x", 3)]
    asked = [(b"", b"kind"), (b"", b"\xff\n"), (b"d", b"gone"), (b"d", b"x"), (b"d", b"same"), (b"", b"d"), (b"e", b"x"), (b"", b"gone")]
    assert [change_of(run, *one) for one in asked] == [("M", 6), ("A", 0), ("D", 5), ("A", 3), None, None, None, None]
    assert list(changes(run_between(new, new))) == []
