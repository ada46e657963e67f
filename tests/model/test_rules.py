"""One rule of the protocol at a time, where a small history shows what it is for (tests/mutants.py switches each off)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from artifactmount.artifact import Artifact, Writer
from artifactmount.ranges import PackId
from artifactmount.session import Session
from artifactmount.snapshot import Options
from artifactmount.steps import drive
from artifactmount.store.memory import MemoryStore
from tests.model.repository import NAME, PROJECT, Client, Repository, Tree
from tests.model.simulator import Plain
from tests.model.test_delete import Job, counted_for, file, put, start, stored, take
from tests.model.test_repository import knobs, repository
from tests.model.test_walks import opened, when


def snapshot(content: str) -> tuple[Tree, Options]:
    """A tree of one-letter files: "ab" holds the files a and b, "a=b" the file a with the content of b."""
    items = [item.partition("=") for item in (content.split() if " " in content or "=" in content else content)]
    return {name: file(b"content of " + (of or name).encode()) for name, _, of in items}, Options()


@contextmanager
def quiet() -> Iterator[Repository]:
    """A repository where nothing is lost or late."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        yield repo


def finish(repo: Repository, client: Client, job: Job) -> None:
    """Do a job while the others stand still."""
    assert repo.world.finish(start(client, job)).error is None


# -- liveness is of a place ------------------------------------------------------------------------------------------------------------
def store_b_twice(repo: Repository, one: Client, two: Client) -> None:
    """v0 = {p: b, z} in the pack A, and v1 = {x: b, y} in B: of snapshots that raced, so that both have stored b."""
    process = start(one, snapshot("x=b y"))
    when(repo, process, lambda _: bool(repo.data_keys()), partial(finish, repo, two, snapshot("p=b z")))
    repo.world.run()
    assert process.error is None
    state = repo.check(cold=False)
    assert list(state.versions) == [0, 1] and stored(repo).count(b"content of b") == 2


def test_a_copy_elsewhere_keeps_no_chunk_alive() -> None:
    """v0 goes. z lives on in A, and b lives on, but in B: so A is written anew without b."""
    with quiet() as repo:
        one, two = repo.client(), repo.client()
        store_b_twice(repo, one, two)
        take(repo, two, snapshot("y z"))
        take(repo, two, frozenset({0}))
        assert stored(repo).count(b"content of b") == 1
        assert repo.data_keys() == set(repo.check().packs)


def test_a_place_that_went_is_not_used_because_its_content_lives_elsewhere() -> None:
    """A snapshot counts on b in A; then v0 goes, and A with it; b in B is another place."""
    with quiet() as repo:
        one, two = repo.client(), repo.client()
        store_b_twice(repo, one, two)
        steps = range(1, take(repo, repo.client(), snapshot("q=b")).steps + 1)
    for n in steps:
        with quiet() as repo:
            one, two, three = repo.client(), repo.client(), repo.client()
            store_b_twice(repo, one, two)
            process = start(three, snapshot("q=b"))
            when(repo, process, n.__eq__, partial(finish, repo, two, frozenset({0})))
            repo.world.run()
            assert process.error is None, repr(process.error)
            assert repo.data_keys() == set(repo.check(cold=False).packs)


def test_a_pack_that_moved_twice() -> None:
    """P -> Q -> R: the run that names c in P is copied as it is, and P leads to R for as long as it does."""
    with quiet() as repo:
        client = repo.client()
        put(repo, client, "abc", "bc", "c", "cd")
        (first,) = repo.history.read().versions[0].packs
        moved: list[PackId] = []
        for n in range(3):
            take(repo, client, frozenset({n}))
            state = repo.check()
            assert list(state.moved) == [first] and {first} <= set(state.versions[n + 1].packs)
            moved.append(state.moved[first])
        assert len({first, *moved}) == 3 and moved[1] == moved[2]  # nothing of R died when v2 went
        assert stored(repo).count(b"content of") == 2


# -- uploads and sessions --------------------------------------------------------------------------------------------------------------
def test_two_processes_of_one_user_at_one_time_open_two_sessions() -> None:
    """All but the nonce is equal in what they send. Without it, each would take the entry for its own, and store under the other's id."""
    artifact, store, writer = Artifact(PROJECT, NAME), MemoryStore(), Writer("me", "test", lambda: "1970-01-01T00:00:00.000000Z")
    sessions = [Session(artifact, writer, artifact.empty()) for _ in range(2)]
    assert [drive(store, session.open()) for session in sessions] == [0, 1]


def test_a_number_that_holds_other_bytes_is_not_used() -> None:
    """R1: an earlier process of the session stored something else under the pack's key."""
    with quiet() as repo:
        process = start(repo.client(), snapshot("ab"))

        def occupy() -> None:
            (session,) = opened(repo, process)
            assert repo.store.create(repo.artifact.pack_key(PackId(session, 0)), b"other bytes")

        when(repo, process, lambda _: bool(opened(repo, process)), occupy)
        repo.world.run()
        assert process.error is None
        state = repo.check()
        assert {pack.number for pack in state.packs} == {1, 2}


def test_gc_at_every_step_of_a_snapshot() -> None:
    """With no grace at all: a session is closed before anything of it is deleted (R3 is checked at each deletion)."""
    for n in counted_for("z", job=snapshot("ab")):
        with quiet() as repo:
            one, two = repo.client(), repo.client()
            put(repo, two, "z")
            process = start(one, snapshot("ab"))
            when(repo, process, n.__eq__, partial(collect, repo, two))
            repo.world.run()
            assert process.error is None
            assert list(repo.check(cold=False).versions) == [0, 1]
            collect(repo, two)
            assert repo.data_keys() == set(repo.check(cold=False).packs)


def test_a_snapshot_at_every_step_of_gc() -> None:
    """What gc lists may be of a session that was opened, and has committed, since it read the head."""
    n = steps = 0
    while n <= steps:
        n += 1
        with quiet() as repo:
            one, two = repo.client(), repo.client()
            put(repo, two, "z")
            process = two.collect(0)
            when(repo, process, n.__eq__, partial(finish, repo, one, snapshot("ab")))
            repo.world.run()
            assert process.error is None
            repo.check(cold=False)
            steps = process.steps
    assert steps > 2


def collect(repo: Repository, client: Client) -> None:
    assert repo.world.finish(client.collect(0)).error is None


# -- the whole artifact ----------------------------------------------------------------------------------------------------------------
def test_the_artifact_goes_at_every_step_of_a_snapshot() -> None:
    """Its session is closed, and what it stored is gone with all the rest; it begins again, and its number is one of its own."""
    for n in counted_for("za", job=snapshot("ab")):
        with quiet() as repo:
            one, two = repo.client(), repo.client()
            put(repo, two, "za")
            process = start(one, snapshot("ab"))
            when(repo, process, n.__eq__, partial(remove_everything, repo, two))
            repo.world.run()
            assert process.error is None
            state = repo.check(cold=False)
            assert state.next == 2 and not state.open


def remove_everything(repo: Repository, client: Client) -> None:
    assert repo.world.finish(client.delete_everything()).error is None
    assert not repo.data_keys() and not repo.history.read().open


def test_a_snapshot_at_every_step_of_the_artifact_s_deletion() -> None:
    """What a snapshot stored and committed behind the deletion is not swept with it."""
    n = steps = lived = 0
    while n <= steps:
        n += 1
        with quiet() as repo:
            one, two = repo.client(), repo.client()
            put(repo, two, "za", "ab")
            process = two.delete_everything()
            when(repo, process, n.__eq__, partial(finish, repo, one, snapshot("ac")))
            repo.world.run()
            assert process.error is None
            state = repo.check(cold=False)
            lived += bool(state.versions)
            assert repo.data_keys() == set(state.packs)
            steps = process.steps
    assert lived > 2
