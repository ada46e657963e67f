"""The fold: every act and op, every refusal by name, and the derivations against their definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.acts import (
    Act,
    Close,
    Commit,
    Counts,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    Metadata,
    Move,
    Op,
    Open,
    Purge,
    PutVersion,
    RemoveAlias,
    ReplaceRun,
    SetAlias,
    needs_of,
)
from artifactmount.errors import CorruptError, NeedsNewerError
from artifactmount.fold import fold
from artifactmount.log import Entry, decode_checkpoint, decode_entry, encode_checkpoint, encode_entry, entry_digest, needs_checkpoint
from artifactmount.ranges import PackId, PackRanges
from artifactmount.state import State, genesis

START = State.empty(genesis("p", "animals"))


def packs(*ids: tuple[int, int]) -> PackRanges:
    return PackRanges.of(PackId(*one) for one in ids)


def digest(text: str) -> bytes:
    return blake3(text.encode()).digest()


def metadata(*ids: tuple[int, int]) -> Metadata:
    return Metadata(packs(*ids), digest("run"), 10)


def put(
    n: int, base: int | None, content: str, meta: tuple[int, int], *content_packs: tuple[int, int], type_: str = "dataset"
) -> PutVersion:
    return PutVersion(n, base, digest(content), Counts(files=1), metadata(meta), packs(*content_packs), type_)


def entry_for(state: State, act: Act) -> Entry:
    seq = state.seq + 1
    checkpoint = blake3(encode_checkpoint(state)).digest() if needs_checkpoint(seq) else None
    return Entry(seq, state.digest, bytes(16), "2026-01-01T00:00:00.000000Z", "me", "test", act, needs_of(act), checkpoint)


def step(state: State, act: Act) -> tuple[State, str | None]:
    entry = entry_for(state, act)
    data = encode_entry(entry)
    assert decode_entry(data, entry.seq) == entry
    after, refusal = fold(state, entry, entry_digest(data))
    assert after.seq == entry.seq and after.digest == entry_digest(data)
    if refusal is not None:
        assert replace(after, seq=state.seq, digest=state.digest, needs=state.needs) == state
    return after, refusal


def done(state: State, *acts: Act) -> State:
    for act in acts:
        state, refusal = step(state, act)
        assert refusal is None
    return state


def commit(session: int | None, keep: PackRanges, *ops: Op) -> Commit:
    return Commit(session, keep, ops)


def two_versions() -> State:
    """v0 in packs 0/0 (content) and 0/1 (metadata); v1 in 2/0 and 2/1, naming 0/0 too. Head: 3."""
    first = commit(0, packs((0, 0), (0, 1)), put(0, None, "a", (0, 1), (0, 0)), SetAlias("latest", 0))
    second = commit(2, packs((2, 0), (2, 1)), put(1, 0, "b", (2, 1), (2, 0), (0, 0)), SetAlias("latest", 1))
    return done(START, Open(bytes(16)), first, Open(bytes(16)), second)


def test_two_versions() -> None:
    state = two_versions()
    assert state.packs == packs((0, 0), (0, 1), (2, 0), (2, 1)) and not state.trash and not state.open
    assert (state.highest, state.next, state.below(1), state.below(0), state.type) == (1, 2, 0, None, "dataset")
    assert state.chain(1) == [0, 1] and state.chain(0) == [0]
    assert state.versions[1].seq == 3 and state.aliases == {"latest": 1}


def test_a_chain_begins_with_the_newest_whole_manifest() -> None:
    state = two_versions()
    full = replace(state.versions[1].metadata, full=digest("full"), full_length=5)
    state = replace(state, versions={**state.versions, 1: replace(state.versions[1], metadata=full)})
    assert state.chain(1) == [1] and state.chain(0) == [0]


def test_deleting_the_older_version_moves_what_is_needed() -> None:
    state = done(two_versions(), Open(bytes(16)))
    gone = commit(
        4,
        packs((4, 0), (4, 1)),
        DeleteVersion(0),
        Move(((PackId(0, 0), PackId(4, 0)),)),
        ReplaceRun(1, None, Counts(), metadata((4, 1)), packs((0, 0), (2, 0))),
    )
    state = done(state, gone)
    assert state.packs == packs((2, 0), (4, 0), (4, 1))
    assert state.trash == packs((0, 0), (0, 1), (2, 1))
    assert state.resolve(PackId(0, 0)) == PackId(4, 0) and state.resolve(PackId(2, 0)) == PackId(2, 0)
    assert state.is_garbage(PackId(0, 0)) and state.is_garbage(PackId(4, 9)) and not state.is_garbage(PackId(4, 0))
    # A second move leaves no chain, and a purge takes only what it says.
    state = done(state, Purge(packs((0, 0), (9, 9))), Open(bytes(16)))
    assert state.trash == packs((0, 1), (2, 1))
    state = done(state, commit(7, packs((7, 0)), Move(((PackId(4, 0), PackId(7, 0)),))))
    assert state.moved == {PackId(0, 0): PackId(7, 0)} and PackId(4, 0) in state.trash
    assert state.packs == packs((2, 0), (4, 1), (7, 0))


def test_deleting_the_newest_version_and_latest_falls_back() -> None:
    state = done(two_versions(), commit(None, packs(), DeleteVersion(1), SetAlias("latest", 0)))
    assert state.packs == packs((0, 0), (0, 1)) and state.trash == packs((2, 0), (2, 1)) and state.next == 2
    state = done(state, commit(None, packs(), DeleteVersion(0), RemoveAlias("latest")))
    assert not state.versions and not state.packs and state.highest is None and state.type == "dataset"


def test_deleting_the_artifact() -> None:
    state = done(two_versions(), Open(bytes(16)), commit(None, packs(), DeleteArtifact()))
    assert not state.versions and not state.aliases and not state.packs and not state.open and state.type is None
    assert state.trash == packs((0, 0), (0, 1), (2, 0), (2, 1)) and state.next == 2


def test_describing_writes_the_card_anew() -> None:
    state = done(two_versions(), Open(bytes(16)), commit(4, packs((4, 0)), Describe(1, metadata((4, 0)))))
    assert state.trash == packs((2, 1)) and state.versions[1].packs == packs((0, 0), (2, 0))


V2 = put(2, 1, "c", (4, 1), (4, 0))
KEEP = packs((4, 0), (4, 1))
LATEST = SetAlias("latest", 2)
REFUSED: dict[str, Act] = {
    "close of a session that is not open": Close(0),
    "commit of a session that is not open": commit(2, packs((2, 5), (2, 6)), put(2, 1, "c", (2, 5), (2, 6)), LATEST),
    "keeps what is not its own": commit(4, packs((4, 0), (4, 1), (2, 7)), V2, LATEST),
    "keeps without a session": commit(None, KEEP, V2, LATEST),
    "a number that is not the next": commit(4, KEEP, replace(V2, n=3), SetAlias("latest", 3)),
    "a base that is not the highest below": commit(4, KEEP, replace(V2, base=0), LATEST),
    "content that a live version has": commit(4, KEEP, replace(V2, digest=digest("a")), LATEST),
    "another type": commit(4, KEEP, replace(V2, type="model"), LATEST),
    "names a pack that is not live": commit(4, KEEP, replace(V2, packs=packs((4, 0), (0, 7))), LATEST),
    "names a pack it does not keep": commit(4, packs((4, 1)), V2, LATEST),
    "metadata it does not keep": commit(4, packs((4, 0)), V2, LATEST),
    "metadata of somebody else": commit(4, KEEP, replace(V2, metadata=metadata((2, 1))), LATEST),
    "deletes what is not live": commit(None, packs(), DeleteVersion(7)),
    "deletes twice": commit(None, packs(), DeleteVersion(1), DeleteVersion(1), SetAlias("latest", 0)),
    "leaves a base that went": commit(None, packs(), DeleteVersion(0)),
    "replaces what is not live": commit(4, KEEP, ReplaceRun(7, 1, Counts(), metadata((4, 1)), packs())),
    "describes what is not live": commit(4, KEEP, Describe(7, metadata((4, 1)))),
    "describes what it deletes": commit(4, KEEP, DeleteVersion(1), Describe(1, metadata((4, 1))), SetAlias("latest", 0)),
    "alias to nothing": commit(None, packs(), SetAlias("best", 7)),
    "alias to what goes": commit(None, packs(), SetAlias("best", 1), DeleteVersion(1), SetAlias("latest", 0)),
    "alias named like a version": commit(None, packs(), SetAlias("v0", 1)),
    "alias with a slash": commit(None, packs(), SetAlias("a/b", 1)),
    "alias twice": commit(None, packs(), SetAlias("best", 1), SetAlias("best", 0)),
    "removes no alias": commit(None, packs(), RemoveAlias("best")),
    "latest left on nothing": commit(None, packs(), DeleteVersion(1)),
    "latest removed": commit(None, packs(), RemoveAlias("latest")),
    "moves what is not live": commit(4, KEEP, Move(((PackId(0, 7), PackId(4, 0)),))),
    "moves to what it does not keep": commit(4, packs((4, 1)), Move(((PackId(0, 0), PackId(4, 0)),))),
    "delete_artifact with others": commit(None, packs(), DeleteArtifact(), RemoveAlias("latest")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    state = done(two_versions(), Open(bytes(16)))
    assert step(state, REFUSED[name])[1] is not None
    assert step(state, commit(4, KEEP, V2, LATEST))[1] is None  # what the refused ones are variations of


@st.composite
def acts(draw: st.DrawFn, state: State) -> Act:
    """Mostly sensible acts: some are refused, which is also a history."""
    live, session = list(state.versions), draw(st.sampled_from([*sorted(state.open), None]))
    kind = draw(st.sampled_from(["open", "put", "delete", "alias", "close", "purge", "wipe"]))
    if kind == "open" or (session is None and kind in ("put", "close")):
        return Open(bytes(16))
    if kind == "put":
        assert session is not None
        content = draw(st.sampled_from(["x", "y", "z", f"c{state.seq}"]))
        old = draw(st.lists(st.sampled_from([*state.packs, PackId(0, 0)]), max_size=2))
        named = PackRanges.of([PackId(session, 0), *old])
        version = PutVersion(state.next, state.highest, digest(content), Counts(), metadata((session, 1)), named, "t")
        return commit(session, packs((session, 0), (session, 1)), version, SetAlias("latest", state.next))
    if kind == "close":
        assert session is not None
        return Close(session)
    if kind == "purge":
        return Purge(state.trash)
    if kind == "wipe":
        return commit(None, packs(), DeleteArtifact())
    if kind == "delete" and live:
        rest = live[:-1]
        return commit(None, packs(), DeleteVersion(live[-1]), SetAlias("latest", rest[-1]) if rest else RemoveAlias("latest"))
    return commit(None, packs(), SetAlias(draw(st.sampled_from(["best", "v1", "latest"])), draw(st.integers(0, 3))))


@given(st.data())
@settings(max_examples=40)
def test_any_history(data: st.DataObject) -> None:
    """Both ways of deriving the live packs agree, garbage stays garbage, and a checkpoint is the state."""
    state, garbage = START, set[PackId]()
    for _ in range(data.draw(st.integers(1, 25))):
        state, _ = step(state, data.draw(acts(state)))
        assert decode_checkpoint(encode_checkpoint(state)) == state
        named = [pack for v in state.versions.values() for pack in (*v.metadata.packs, *v.packs)]
        assert state.packs == PackRanges.of(state.resolve(pack) for pack in named)
        assert not set(state.packs) & set(state.trash)
        assert all(state.is_garbage(pack) for pack in garbage)
        garbage |= {PackId(s, n) for s in range(state.seq + 1) for n in range(2) if state.is_garbage(PackId(s, n))}
        assert [v.base for v in state.versions.values()] == [None, *list(state.versions)[:-1]][: len(state.versions)]
        assert ("latest" in state.aliases) == bool(state.versions)


def test_entry_64_proves_a_checkpoint() -> None:
    state = START
    for _ in range(70):
        state = done(state, Purge(packs()))
    at_63 = START
    for _ in range(64):
        at_63 = done(at_63, Purge(packs()))
    good = entry_for(at_63, Purge(packs()))
    for bad in (replace(good, checkpoint=None), replace(good, checkpoint=bytes(32))):
        with pytest.raises(CorruptError):
            fold(at_63, bad, bytes(32))
    with pytest.raises(CorruptError):
        fold(START, replace(entry_for(START, Purge(packs())), checkpoint=bytes(32)), bytes(32))


ENTRY = encode_entry(entry_for(two_versions(), commit(4, KEEP, V2, LATEST, Move(((PackId(0, 0), PackId(4, 0)),)))))


def test_every_flipped_bit_of_an_entry_is_noticed() -> None:
    for bit in range(len(ENTRY) * 8):
        damaged = bytearray(ENTRY)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError):
            decode_entry(bytes(damaged), 4)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), st.just(b"[" * 100_000), st.just(b"9" * 5000)))
def test_arbitrary_bytes_are_no_entry_and_no_checkpoint(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode_entry(data, 0)
    with pytest.raises(CorruptError):
        decode_checkpoint(data)


@given(st.integers(0, len(ENTRY) - 1))
def test_cut_short(length: int) -> None:
    with pytest.raises(CorruptError):
        decode_entry(ENTRY[:length], 4)


def test_another_slot_or_word() -> None:
    with pytest.raises(CorruptError):
        decode_entry(ENTRY, 5)
    newer = encode_entry(replace(entry_for(START, Open(bytes(16))), needs=("teleport",)))
    with pytest.raises(NeedsNewerError):
        decode_entry(newer, 0)
