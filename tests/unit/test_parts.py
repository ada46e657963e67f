"""Parts of one version: what the fold makes of them, rule by rule; who must not read on; and rows of several writers as one run."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactmount.acts import PART_IDS_LIMIT, PARTS_LIMIT, Act, Close, Commit, Counts, DeleteArtifact, EndParts, Open, Part, SetAlias
from artifactmount.artifact import Artifact, Writer, append, head
from artifactmount.digest import chunk_digest
from artifactmount.ending import Ending
from artifactmount.errors import CorruptError, NeedsNewerError, RefusedError
from artifactmount.journal import Journal
from artifactmount.log import decode_checkpoint, decode_entry, encode_checkpoint, encode_entry
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import Place
from artifactmount.ranges import PackId
from artifactmount.rows import Change, Kind, mode_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.sealed import seal
from artifactmount.session import Session, SessionClosedError
from artifactmount.state import State
from artifactmount.steps import Steps, drive
from artifactmount.store.memory import MemoryStore
from artifactmount.union import ConflictError, between, unite
from tests.unit.test_log import START, commit, digest, done, entry_for, metadata, packs, put, step


def part(session: int, content: str = "", id_: str = "run") -> Part:
    return Part(id_, session, digest(content or str(session)), Counts(files=1), metadata((session, 1)))


def waiting() -> State:
    """Parts of the sessions 0 and 1, and session 4 of nobody. Head: 4."""
    return done(START, Open(bytes(16)), Open(bytes(16)), part(0), part(1), Open(bytes(16)))


def made(*ops: EndParts) -> Commit:
    """The version of the parts, with the packs 0/0 and 1/0 of theirs."""
    version = put(0, None, "all", (4, 0), (0, 0), (1, 0))
    return commit(4, packs((0, 0), (1, 0), (4, 0)), version, SetAlias("latest", 0), *ops)


BOTH = EndParts("run", (0, 1), 0)


def test_parts_become_a_version_and_their_sessions_end() -> None:
    state = waiting()
    assert [one.session for one in state.parts["run"]] == [0, 1] and state.open == {0, 1, 4}
    assert not state.is_garbage(PackId(0, 1)) and state.is_working(4) and not state.is_working(0)
    assert decode_checkpoint(encode_checkpoint(state)) == state
    state = done(state, made(BOTH))
    assert not state.parts and not state.open and state.packs == packs((0, 0), (1, 0), (4, 0)) and state.is_garbage(PackId(0, 1))
    assert decode_checkpoint(encode_checkpoint(state)) == state


def test_given_up() -> None:
    state = done(waiting(), commit(None, packs(), EndParts("run", (1,), None)))
    assert [one.session for one in state.parts["run"]] == [0] and state.open == {0, 4}
    assert not done(state, Close(0), commit(None, packs(), EndParts("run", (0,), None))).parts
    assert not done(waiting(), commit(None, packs(), DeleteArtifact())).parts


def test_a_lost_part_stays_until_it_is_run_again() -> None:
    state = done(waiting(), Close(1))
    assert [one.session for one in state.parts["run"]] == [0, 1] and state.is_garbage(PackId(1, 0))
    state = done(state, part(4, "1"))
    assert [one.session for one in state.parts["run"]] == [0, 4]
    assert decode_checkpoint(encode_checkpoint(state)) == state


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (part(9), "session 9 is not open"),
        (part(0, "more"), "or is a part already"),
        (part(4, "0"), "an equal part"),
        (part(4, id_="no id"), "no id for parts"),
        (replace(part(4), metadata=metadata((1, 1))), "not its session's"),
        (commit(1, packs((1, 0)), BOTH), "or is a part"),
        (made(), "packs that are not its session's"),
        (made(EndParts("run", (0,), None)), "packs that are not its session's"),
        (made(replace(BOTH, sessions=(0, 1, 4))), "that 'run' has not"),
        (made(replace(BOTH, sessions=(0, 1, 1))), "that 'run' has not"),
        (made(replace(BOTH, id="other")), "that 'other' has not"),
        (made(replace(BOTH, n=1)), "not live"),
        (commit(None, packs(), EndParts("run", (0,), 0)), "a version of other parts"),
        (commit(None, packs(), DeleteArtifact(), BOTH), "stands with other ops"),
    ],
)
def test_refused(act: Act, why: str) -> None:
    _, refusal = step(waiting(), act)
    assert refusal is not None and why in refusal


def test_a_part_is_not_committed() -> None:
    version = put(0, None, "mine", (0, 1), (0, 0))
    _, refusal = step(waiting(), commit(0, packs((0, 0), (0, 1)), version, SetAlias("latest", 0)))
    assert refusal is not None and "or is a part" in refusal


def test_an_equal_part_is_not_taken_twice() -> None:
    assert "an equal part" in (step(waiting(), part(4, "0"))[1] or "")
    assert step(waiting(), part(4, "0", "another"))[1] is None


def test_no_version_without_a_part_that_is_lost() -> None:
    """Neither of its packs, nor of the others alone."""
    state = done(waiting(), Close(1))
    assert "not its session's" in (step(state, made(BOTH))[1] or "")
    version = put(0, None, "half", (4, 0), (0, 0))
    half = commit(4, packs((0, 0), (4, 0)), version, SetAlias("latest", 0), BOTH)
    assert "a version of other parts" in (step(state, half)[1] or "")


def test_limits() -> None:
    some = waiting()
    one = some.parts["run"][0]
    many = replace(some, parts={"run": (one,) * PARTS_LIMIT})
    assert f"more than {PARTS_LIMIT} parts" in (step(many, part(4))[1] or "")
    ids = replace(some, parts={f"i{n}": (one,) for n in range(PART_IDS_LIMIT)})
    assert f"more than {PART_IDS_LIMIT} ids" in (step(ids, part(4))[1] or "")
    with pytest.raises(CorruptError):
        decode_checkpoint(encode_checkpoint(replace(some, parts={f"i{n}": () for n in range(PART_IDS_LIMIT + 1)})))
    with pytest.raises(CorruptError):
        decode_checkpoint(encode_checkpoint(many))
    for sessions in ((), tuple(range(PARTS_LIMIT + 1))):
        entry = entry_for(some, commit(None, packs(), EndParts("run", sessions, None)))
        with pytest.raises(CorruptError):
            decode_entry(seal_unchecked(encode_unchecked(entry)), entry.seq)


def encode_unchecked(entry: object) -> bytes:
    with patch("artifactmount.log.decode_entry"):
        return encode_entry(entry)  # type: ignore[arg-type]


def seal_unchecked(data: bytes) -> bytes:
    fields = json.loads(data)
    del fields["check"]
    return seal(fields)


def test_older_programs_stop_and_states_without_parts_are_what_they_were() -> None:
    """The word is in every entry that has to do with parts, and in every checkpoint behind one; without it, the entry is none."""
    for act in (part(0), commit(None, packs(), EndParts("run", (0,), None))):
        entry = entry_for(START, act)
        data = encode_entry(entry)
        assert json.loads(data)["needs"] == ["parts"]
        with patch("artifactmount.log._WORDS", frozenset()), pytest.raises(NeedsNewerError, match="needs a newer artifactmount"):
            decode_entry(data, 0)
        for wrong in (replace(entry, needs=()), replace(entry_for(START, Open(bytes(16))), needs=("parts",))):
            with pytest.raises(CorruptError):
                decode_entry(encode_unchecked(wrong), 0)
    assert "parts" not in json.loads(encode_checkpoint(done(START, Open(bytes(16)))))
    after = encode_checkpoint(done(waiting(), made(BOTH)))
    assert json.loads(after)["parts"] == {} and decode_checkpoint(after).needs == {"parts"}
    with patch("artifactmount.log._WORDS", frozenset()), pytest.raises(NeedsNewerError):
        decode_checkpoint(after)


def test_a_session_that_became_a_part_is_nobody_s_to_go_on_with(tmp_path: Path) -> None:
    """Neither by a journal, nor by the writer that does not know yet what became of its entry."""
    writer = Writer("me", "test", lambda: "2026-01-01T00:00:00.000000Z")
    for session, goes_on in ((0, False), (4, True)):
        with Journal(str(tmp_path / f"journal-{session}")) as journal:
            journal.begin(session)
            work = Session(Artifact("p", "animals"), writer, START, journal)
            assert work.resume(waiting()) is goes_on and journal.session == (session if goes_on else None)
    assert work.id == 4
    work.check(waiting())
    with pytest.raises(SessionClosedError):
        work.check(done(waiting(), part(4)))


@pytest.mark.parametrize("entries", [0, 70], ids=["", "behind a checkpoint"])
def test_an_end_without_effect_ends_nothing(entries: int) -> None:
    """What the fold refused stays in the log; the end before it counts, or none."""
    artifact, store = Artifact("p", "animals"), MemoryStore()
    writer = Writer("me", "test", lambda: "2026-01-01T00:00:00.000000Z")
    state = artifact.empty()

    def add(act: Act) -> None:
        nonlocal state
        with suppress(RefusedError):
            drive(store, append(artifact, state, lambda _: _just(act), writer))
        state = drive(store, head(artifact, state))

    acts: list[Act] = [Open(bytes(16)), part(0), *repeat(Open(bytes(16)), entries), commit(None, packs(), EndParts("run", (0,), 7))]
    for act in acts:
        add(act)
    ending = Ending(artifact, "run")
    assert drive(store, ending.of(state)) is None and state.parts
    add(commit(None, packs(), EndParts("run", (0,), None)))
    add(commit(None, packs(), EndParts("run", (0,), 7)))
    assert drive(store, ending.of(state)) == drive(store, Ending(artifact, "run").of(state)) == EndParts("run", (0,), None)


def _just(act: Act) -> Steps[Act | None]:
    yield from ()
    return act


# -- rows of several writers -----------------------------------------------------------------------------------------------------------
_DIRECTORY, _FILE = mode_of(Kind.DIRECTORY), mode_of(Kind.FILE)
_Rows = dict[tuple[bytes, bytes], bytes | None]


def run_of(rows: _Rows, session: int) -> Run:
    builder = RunBuilder()
    for at, ((key, name), content) in enumerate(sorted(rows.items())):
        if content is None:
            builder.add(key, name, Change.ADDED, _DIRECTORY, 0)
            continue
        chunk = chunk_digest(content)
        place = Place(PackId(session, 0), 90 + at, len(content), len(content))
        builder.add(key, name, Change.ADDED, _FILE, len(content), session, chunk, b"", chunk, [place])
    data = builder.finish()
    return Run(data, chunk_digest(data))


def table_of(*runs: Run) -> Table:
    return Table(memoryview(merge(None, runs)), check=False)


_TREE: _Rows = {(b"", b"a"): b"a", (b"", b"b"): b"b", (b"", b"d"): None, (b"d", b"e"): None, (b"d", b"x"): b"x", (b"d\0e", b"y"): b"y"}
_some = st.sets(st.sampled_from(sorted(_TREE)))


@settings(max_examples=60)
@given(st.lists(_some, min_size=1, max_size=4), _some)
def test_the_union_is_what_one_writer_would_have_made(parts: list[set[tuple[bytes, bytes]]], before: set[tuple[bytes, bytes]]) -> None:
    """The tree of all, each row with the place of the first that has it; and against any base, what leads from there to it."""

    def whole(paths: set[tuple[bytes, bytes]]) -> _Rows:
        paths = paths | ({(b"", b"d")} if any(key for key, _ in paths) else set())
        return {path: _TREE[path] for path in sorted(paths | ({(b"d", b"e")} if (b"d\0e", b"y") in paths else set()))}

    trees = [whole(paths) for paths in parts]
    data = unite([run_of(tree, session) for session, tree in enumerate(trees)])
    united, together = Run(data, chunk_digest(data)), {path: content for tree in trees for path, content in tree.items()}
    assert table_of(united).root == table_of(run_of(together, 9)).root
    files = [path for path in sorted(together) if together[path] is not None]
    first = [next(session for session, tree in enumerate(trees) if path in tree) for path in files]
    assert [chunk.place.pack.session for chunk in united.all_chunks()] == first
    base = table_of(run_of({path: b"other" if content == b"x" else content for path, content in whole(before).items()}, 7))
    delta = between(base, table_of(united), united)
    assert len(list(delta.given_places())) == len(list(delta.chunk_digests()))
    change = Run(changed := delta.finish(), chunk_digest(changed))
    assert Table(memoryview(merge(base, [change])), check=False).root == table_of(united).root


def test_a_conflict_says_where_and_who() -> None:
    one, same, other = ({(b"", b"d"): None, (b"d", b"x"): content} for content in (b"x", b"x", b"y"))
    with pytest.raises(ConflictError) as raised:
        unite([run_of(one, 0), run_of(same, 1), run_of(other, 2)])
    assert (raised.value.path, raised.value.one, raised.value.other) == (b"d/x", 0, 2)
    with pytest.raises(ConflictError):
        unite([run_of(one, 0), run_of({(b"", b"d"): b"a file"}, 1)])


def test_a_part_that_removes_is_none() -> None:
    builder = RunBuilder()
    builder.add(b"", b"a", Change.REMOVED, _FILE, 1)
    data = builder.finish()
    with pytest.raises(CorruptError):
        unite([run_of({}, 0), Run(data, chunk_digest(data))])
