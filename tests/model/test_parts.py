"""Parts of one version from many machines: crashes, lost requests and others at every step; one version with all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from artifactmount.acts import Close, Commit, EndParts, PutVersion
from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.garbage import collect_steps
from artifactmount.gather import Gathering
from artifactmount.proposal import Options
from artifactmount.steps import Create, Step
from artifactmount.union import between
from tests.model.repository import Client, Repository, Tree, expected, with_directories
from tests.model.simulator import Chance, Drawn, Fault, Plain, Process
from tests.model.test_delete import put, stored
from tests.model.test_repository import knobs, repository
from tests.model.test_rules import collect, finish, quiet, remove_everything, snapshot
from tests.model.test_walks import opened, when

ID = "run"


def tree(text: str) -> Tree:
    return snapshot(text)[0]


def done(repo: Repository, process: Process) -> Process:
    """Do it to its end while the others stand still; it must succeed."""
    assert repo.world.finish(process).error is None, repr(process.error)
    return process


def parts(repo: Repository, client: Client, *texts: str, id_: str = ID) -> None:
    for text in texts:
        done(repo, client.part(tree(text), id_))


def versions(repo: Repository) -> list[Tree]:
    """The trees of the live versions."""
    state = repo.check(cold=False)
    return [repo.tree_of(version.actor) for version in state.versions.values()]


def _at(first: int, last: int, fault: Fault, _: str, call: int) -> Fault:
    return fault if first <= call <= last else Fault.NONE


def settled(repo: Repository) -> None:
    """Nothing waits any more, and nothing but what is live is stored."""
    state = repo.check()
    assert not state.open and not state.parts and repo.data_keys() == set(state.packs)


# -- one after the other ---------------------------------------------------------------------------------------------------------------
def test_what_parts_share_and_count_on() -> None:
    """Rows of two are one; what a live version has is not stored again; a pack that is kept in part is written anew; equal content is no
    new version; asked again, it is the same answer."""
    with quiet() as repo:
        one, two = repo.client(), repo.client()
        put(repo, one, "a")
        parts(repo, one, "ab", "bcd", "bcd")
        assert [part.counts.adds for part in repo.history.read().parts[ID]] == [12, 36]
        first = done(repo, two.finish(ID)).result[1]
        assert (first.version, first.changed, first.adds) == (1, True, 36) and stored(repo).count(b"content of b") == 1
        settled(repo)
        again = done(repo, one.finish(ID)).result[1]
        assert (again.version, again.changed) == (1, False)
        parts(repo, one, "ab", "cd", id_="another")
        assert len(repo.history.read().parts["another"]) == 2
        same = done(repo, one.finish("another")).result[1]
        assert (same.version, same.changed) == (1, False) and versions(repo) == [tree("a"), tree("abcd")]
        settled(repo)


def test_two_of_one_content_at_two_paths_keep_a_place_each() -> None:
    """Nobody has to write packs anew for that; and each place dies with its own row."""
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "a=x b", "c=x d")
        done(repo, client.finish(ID))
        assert stored(repo).count(b"content of x") == 2 and len(repo.history.read().packs) == 3
        put(repo, client, "c=x d")
        done(repo, client.delete({0}))
        assert stored(repo).count(b"content of x") == 1
        settled(repo)


def test_two_that_differ_at_one_path() -> None:
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "ab", "b=z")
        refused = repo.world.finish(client.finish(ID))
        assert isinstance(refused.error, RefusedError) and "b differs between part 0 (by c0-1" in str(refused.error)
        assert not repo.check().versions
        done(repo, client.drop(ID))
        settled(repo)
        assert isinstance(repo.world.finish(client.finish(ID)).error, NotFoundError)


def test_a_part_that_comes_after_the_finish() -> None:
    """A writer that is run again finds all of its part in the version; another part begins none that would be of itself alone."""
    with quiet() as repo:
        client, other = repo.client(), repo.client()
        parts(repo, client, "ax", "bx")
        done(repo, client.finish(ID))
        before = repo.history.read()
        for text in ("ax", "b"):
            joined = done(repo, other.part(tree(text), ID)).result[1]
            assert (joined.part, joined.version, joined.changed, joined.files, joined.parts) == (None, 0, False, len(text), 0)
        assert repo.history.read() == before
        for text in ("c", "a=z"):
            refused = repo.world.finish(client.part(tree(text), ID))
            assert isinstance(refused.error, RefusedError) and "run became animals:v0, and this part is not in it" in str(refused.error)
        assert versions(repo) == [tree("abx")]
        settled(repo)
        put(repo, client, "q")
        done(repo, client.delete({0}))
        refused = repo.world.finish(client.part(tree("ax"), ID))
        assert isinstance(refused.error, RefusedError) and "became animals:v0, which was deleted since" in str(refused.error)
        settled(repo)


def test_asked_again_a_finish_does_what_it_is_asked() -> None:
    """To the version that there is: an alias, a note; `latest` stays on what is newer. With the same asked, nothing is written."""
    with quiet() as repo:
        one, two = repo.client(), repo.client()
        parts(repo, one, "a", "b")
        done(repo, one.finish(ID))
        put(repo, one, "q")
        for wrote in (True, False):
            before = repo.history.read()
            result = done(repo, two.finish(ID, Options(("best",), "hello"))).result[1]
            assert (result.version, result.changed, result.aliases) == (0, False, ("best",))
            state = repo.history.read()
            assert (state != before) is wrote and state.aliases == {"latest": 1, "best": 0}
            assert one.catalog().card(state.versions[0]).note == "hello"
        settled(repo)
        refused = repo.world.finish(two.finish(ID, Options(type="model")))
        assert isinstance(refused.error, RefusedError) and "a name has one type" in str(refused.error)


def test_what_parts_leave_is_deleted_together() -> None:
    """Not one session after the other: a thousand of them would take a minute of requests."""
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, *"abcdefgh")
        deleted: list[tuple[str, ...]] = []
        repo.world.deleting = lambda keys, _: deleted.append(keys)
        done(repo, client.finish(ID))
        assert len(deleted) == 1 and len(deleted[0]) == 8
        settled(repo)


def test_parts_that_were_given_up_may_come_again() -> None:
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "a")
        done(repo, client.drop(ID))
        parts(repo, client, "b")
        assert done(repo, client.finish(ID)).result[1].changed and versions(repo) == [tree("b")]


def test_a_journal_does_not_go_on_with_a_part() -> None:
    """The machine loses power at any call of a part, right after its entry, too: the journal has the session still. A snapshot of the same
    folder goes on with it only where it is no part."""
    waited = resumed = calls = 0
    n = 1
    while n <= max(calls, 1):
        with quiet() as repo:
            client = repo.client()
            client.journal = str(repo.folder / "journal")
            repo.world.planned = partial(_at, n, n, Fault.CRASH_AFTER)
            process = client.part(tree("ab"), ID)
            repo.world.run()
            calls, n = (n + 1 if process.crashed else 0), n + 1
            repo.world.planned = None
            done(repo, client.snapshot(*snapshot("ab")))
            state = repo.check()
            waiting = [part.session for part in state.parts.get(ID, ())]
            assert set(waiting) <= state.open and list(state.versions) == [0]
            waited += bool(waiting)
            resumed += not waiting and {pack.session for pack in state.packs} == {0}
    assert waited and resumed


# -- gc and deletion -------------------------------------------------------------------------------------------------------------------
def test_gc_closes_parts_when_their_id_was_idle_and_forgets_them_later() -> None:
    """The first part waits for as long as others come; one that is lost is missed, not left out; seven graces later the id is forgotten."""
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "a")
        repo.world.store.time += 3000
        parts(repo, client, "b")
        repo.world.store.time += 3000
        done(repo, client.collect(3600))
        assert len(repo.history.read().open) == 2
        repo.world.store.time += 3000
        done(repo, client.collect(3600))
        assert not repo.history.read().open and not repo.data_keys()
        refused = repo.world.finish(client.finish(ID))
        assert isinstance(refused.error, RefusedError) and "part 0" in str(refused.error) and "is lost" in str(refused.error)
        parts(repo, client, "a", "b")
        assert done(repo, client.finish(ID)).result[1].changed
        parts(repo, client, "c", id_="another")
        repo.world.store.time += 4000
        done(repo, client.collect(3600))
        done(repo, client.collect(3600))
        assert repo.history.read().parts
        repo.world.store.time += 7 * 3600
        done(repo, client.collect(3600))
        settled(repo)


def test_a_dry_run_of_gc_forgets_nothing() -> None:
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "a")
        done(repo, client.close_sessions())
        before = repo.history.read()
        repo.world.run_one("gc", collect_steps(repo.artifact, before, repo.writer("gc"), 0, dry_run=True))
        assert repo.history.read() == before


def test_what_a_part_counts_on_is_deleted() -> None:
    """The part has to be run again; nothing is committed until it was."""
    with _prepared() as (repo, one, two):
        done(repo, two.delete({0}))
        refused = repo.world.finish(one.finish(ID))
        assert isinstance(refused.error, RefusedError) and "z of part 2 " in str(refused.error) and "lay in a version" in str(refused.error)
        done(repo, two.snapshot(*snapshot("zx")))
        assert done(repo, one.finish(ID)).result[1].version == 2  # somebody has z again
        settled(repo)


def test_the_artifact_goes_with_its_parts() -> None:
    with quiet() as repo:
        client = repo.client()
        parts(repo, client, "a")
        done(repo, client.close_sessions())
        parts(repo, client, "b")
        remove_everything(repo, client)
        assert not repo.history.read().parts


def test_a_slot_that_is_lost_to_a_foreign_entry_costs_a_finish_nothing() -> None:
    """All is worked out once, however often others are faster; anew where a version or a part came. Else a big one would never land."""
    with _prepared() as (repo, one, two):
        with (
            patch("artifactmount.gather.between", wraps=between) as built,
            patch.object(Gathering, "places", autospec=True, side_effect=Gathering.places) as placed,
        ):
            process, key = one.finish(ID), ""
            for n in range(6):
                repo.world.finish(process, until=lambda step, key=key: _ends_parts(step) and step.key != key)  # type: ignore[misc]
                key = process.main.pending.key  # type: ignore[union-attr]
                assert (built.call_count, placed.call_count) == ((1, 1) if n < 4 else (2, 2) if n == 4 else (3, 3))
                if n < 3:
                    parts(repo, two, str(n), id_="another")
                elif n == 3:
                    done(repo, two.snapshot(*snapshot("foreign")))
                elif n == 4:
                    parts(repo, two, "d")
            done(repo, process)
        assert built.call_count == placed.call_count == 3
        assert with_directories(versions(repo)[-1]) == with_directories(tree("zacbd"))


def _ends_parts(step: Step) -> bool:
    return isinstance(step, Create) and b'"end_parts"' in step.data


# -- at every step ---------------------------------------------------------------------------------------------------------------------
@contextmanager
def _prepared(chance: Chance | None = None) -> Iterator[tuple[Repository, Client, Client]]:
    """v0 = {z, q}, and two parts: {z, a, c} counts on z in v0's pack; both have c."""
    with knobs(small_packs=False, look_always=True), repository(chance or Plain()) as repo:
        repo.faithful = True
        one, two = repo.client(), repo.client()
        put(repo, two, "zq")
        parts(repo, one, "zac", "cb")
        yield repo, one, two


_WHOLE = with_directories(tree("zacb"))


def _steps_of(what: Callable[[Client], Process]) -> range:
    with _prepared() as (repo, one, _):
        return range(1, done(repo, what(one)).steps + 1)


def _gather(client: Client) -> Process:
    return client.finish(ID)


def _add(client: Client) -> Process:
    return client.part(tree("d"), ID)


@pytest.mark.parametrize("what", [_add, _gather], ids=["part", "finish"])
def test_a_crash_after_every_call(what: Callable[[Client], Process]) -> None:
    """A part's writer that dies is missed by nobody but its caller; run again, it is there once. A finish made all of it or nothing."""
    with _prepared() as (repo, one, _):
        calls = done(repo, what(one)).calls
    for n in range(1, calls + 1):
        with _prepared() as (repo, one, two):
            repo.faithful = False
            repo.world.planned = partial(_at, n, n, Fault.CRASH_AFTER)
            process = what(one)
            repo.world.run()
            assert process.crashed
            repo.world.planned = None
            assert [tree for tree in versions(repo)[1:] if with_directories(tree) != _WHOLE] == []
            if what is _add:
                parts(repo, one, "d")
            assert done(repo, two.finish(ID)).result[1].version == 1
            assert len(versions(repo)) == 2
            repo.check_quiet()


# 12: beyond the tries of one entry, so that its outcome stays unknown.
@pytest.mark.parametrize(("fault", "length"), [(Fault.LOST, 1), (Fault.DROPPED, 12), (Fault.LATE, 12)])
def test_a_store_that_fails_at_every_call_of_a_finish(fault: Fault, length: int) -> None:
    """Whatever was said: asked again, there is one version of all."""
    with _prepared() as (repo, one, _):
        calls = done(repo, _gather(one)).calls
    for n in range(1, calls + 1):
        with _prepared() as (repo, one, two):
            repo.faithful = False
            repo.world.planned = partial(_at, n, n + length - 1, fault)
            process = _gather(one)
            repo.world.run()
            assert process.error is None or isinstance(process.error, StoreError), repr(process.error)
            repo.world.planned = None
            assert done(repo, two.finish(ID)).result[1].version == 1
            assert [with_directories(each) for each in versions(repo)] == [with_directories(tree("zq")), _WHOLE]
            repo.check_quiet()


def _other_finish(repo: Repository, client: Client) -> None:
    done(repo, client.finish(ID))


def _delete_v0(repo: Repository, client: Client) -> None:
    finish(repo, client, frozenset({0}))


def _late_part(repo: Repository, client: Client) -> None:
    late = repo.world.finish(client.part(tree("d"), ID))
    assert late.error is None or (isinstance(late.error, RefusedError) and "this part is not in it" in str(late.error)), repr(late.error)


def _snapshot_of_all(repo: Repository, client: Client) -> None:
    done(repo, client.snapshot(*snapshot("zacb")))


_ENDS: dict[Callable[[Repository, Client], None], set[str]] = {
    _other_finish: {"made", "found"},
    _delete_v0: {"made", "gone"},
    _late_part: {"made"},
    collect: {"made", "lost"},
    remove_everything: {"found", "none"},  # what it made was deleted, and so is not there to be seen
    _snapshot_of_all: {"made", "found"},
}


@pytest.mark.parametrize("other", _ENDS)
def test_another_at_every_step_of_a_finish(other: Callable[[Repository, Client], None]) -> None:
    """Two finishes make one version; who is closed under it, or has counted on what went, refuses; a late part is in it, or refused."""
    ends: set[str] = set()
    for n in _steps_of(_gather)[:: 1 if other is _delete_v0 else 2]:
        with _prepared() as (repo, one, two):
            process = _gather(one)
            when(repo, process, n.__eq__, partial(other, repo, two))
            repo.world.run()
            repo.check(cold=False)
            made = [version.n for version in repo.history.read().versions.values() if version.actor == process.name]
            if process.error is None:
                ends.add("made" if made else "found")
                everything = {path for each in versions(repo) for path in each}
                assert other is remove_everything or everything >= set("zacb")
            else:
                assert isinstance(process.error, RefusedError | NotFoundError) and not made
                ends.add("lost" if "is lost" in str(process.error) else "gone" if "lay in" in str(process.error) else "none")
            if other is _late_part:  # who was told that it is taken is in the version
                (late,) = (each for each in repo.contributed.values() if each.tree == tree("d"))
                assert (late.result is not None) == ("d" in repo.tree_of(process.name)) and not repo.history.read().parts
            done(repo, two.collect(0))
            done(repo, two.collect(0))
            settled(repo)
    assert ends == _ENDS[other]


@pytest.mark.parametrize("other", [collect, remove_everything])
def test_another_at_every_step_of_a_part(other: Callable[[Repository, Client], None]) -> None:
    """It is there in the end, unless all of the other came after its entry."""
    after: list[bool] = []

    def do(repo: Repository, client: Client) -> None:
        after.append(len(repo.history.read().parts[ID]) == 3)
        other(repo, client)

    for n in _steps_of(_add):
        with _prepared() as (repo, one, two):
            process = _add(one)
            when(repo, process, n.__eq__, partial(do, repo, two))
            repo.world.run()
            assert process.error is None, repr(process.error)
            state = repo.check(cold=False)
            waiting = [part.session for part in state.parts.get(ID, ()) if part.session in state.open]
            assert (process.result[1].part in waiting) is not after[-1]
    assert not after[0] and after[-1]


def test_gc_closes_no_part_that_was_acknowledged_a_moment_ago() -> None:
    """Its writer was slow, and its session looks idle; its entry comes right before `gc`, or at any step of it."""
    n, more = 0, True
    while more:
        with quiet() as repo:
            one, two = repo.client(), repo.client()
            parts(repo, one, "q")
            writer = _add(one)
            repo.world.finish(writer, until=lambda step: isinstance(step, Create) and b'"part"' in step.data)
            assert writer.alive
            repo.world.store.time += 4000
            if not n:
                done(repo, writer)
            gc = two.collect(3600)
            repo.world.finish(gc, until=lambda _, gc=gc, n=n: gc.steps == n)  # type: ignore[misc]
            more = gc.alive
            done(repo, writer)
            done(repo, gc)
            state = repo.check(cold=False)
            assert writer.result[1].part in [part.session for part in state.parts[ID] if part.session in state.open], n
        n += 1
    assert n > 8


# -- in any order ----------------------------------------------------------------------------------------------------------------------
_letters = st.sets(st.sampled_from("abcde"), min_size=1, max_size=3).map(lambda letters: " ".join(sorted(letters)))
_job = st.one_of(_letters, _letters, st.just("finish"), st.sampled_from(("snapshot", "delete", "gc", "drop", "b=z")))


@settings(max_examples=10)
@given(st.data(), st.lists(st.lists(_job, min_size=1, max_size=3), min_size=2, max_size=3), st.integers(0, 4), st.booleans())
def test_in_a_storm(data: st.DataObject, jobs: list[list[str]], faults: int, small_packs: bool) -> None:
    """Lost answers, late requests, crashes; parts, finishes, snapshots, deletions and gc at the same time."""
    with knobs(small_packs=small_packs, look_always=True), repository(Drawn(data.draw), faults) as repo:
        for own in jobs:
            _work(repo.client(), own)
        repo.world.run()
        for line in repo.world.happened:
            note(line)
        for asked in repo.asked.values():
            assert expected(asked, closed=True, faulty=faults > 0), repr(asked.error)
        repo.check()
        repo.check_quiet()


def _work(client: Client, jobs: list[str], _: Process | None = None) -> None:
    if not jobs:
        return
    then = partial(_work, client, jobs[1:])
    match jobs[0]:
        case "finish":
            client.finish(ID, then=then)
        case "snapshot":
            client.snapshot(*snapshot("ab"), then)
        case "delete":
            client.delete({0}, then)
        case "gc":
            client.collect(0, then)
        case "drop":
            client.drop(ID, then)
        case text:
            client.part(tree(text), ID, then)


def test_one_commit_makes_the_version_and_ends_the_parts() -> None:
    """What R2 asks for: it keeps packs of its own session and of theirs, and no close stands before it."""
    with _prepared() as (repo, one, _):
        process = done(repo, _gather(one))
        acts = [entry.act for entry in repo.history.entries if entry.actor == process.name]
        (commit,) = (act for act in acts if isinstance(act, Commit))
        assert not any(isinstance(act, Close) for act in acts)
        (put_,), (end,) = ([op for op in commit.ops if isinstance(op, PutVersion)], [op for op in commit.ops if isinstance(op, EndParts)])
        own = opened(repo, process)
        assert end.n == put_.n == 1 and {session for session, _, _ in commit.keep.ranges} <= {*own, *end.sessions}
