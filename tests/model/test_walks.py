"""The walks of docs/protocol.md, step by step as they stand there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from artifactmount.acts import Close, Commit, Open
from artifactmount.errors import StoreError
from artifactmount.liveness import Plan, plan_deletion
from artifactmount.retention import Rule, expired
from artifactmount.snapshot import Options
from tests.model.repository import Repository, pack_of
from tests.model.simulator import Plain, Process
from tests.model.test_delete import counted_for, file, put, stored, take
from tests.model.test_repository import knobs, repository


def opened(repo: Repository, process: Process) -> list[int]:
    """The sessions that a process opened."""
    repo.history.read()
    return [entry.seq for entry in repo.history.entries if entry.actor == process.name and isinstance(entry.act, Open)]


def when(repo: Repository, process: Process, is_so: Callable[[int], bool], then: Callable[[], None]) -> None:
    """As soon as it is so behind a step of a process (told its number), let it stand still and do something else to its end."""

    def after(name: str, step: int) -> None:
        if name == process.name and is_so(step):
            repo.world.after_step = lambda *_: None
            then()

    repo.world.after_step = after


def test_two_deleters() -> None:
    """v0, v1 and v2 share a pack P; the one that deletes v0 has copied b and c, when v1, which had b, is deleted."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        author, one, two = repo.client(), repo.client(), repo.client()
        put(repo, author, "abc", "bc", "c")
        first = one.delete({0})

        def stored_two(_: int) -> bool:  # the copy of b and c, and the run of v1
            return len([pack for pack in repo.data_keys() if pack.session in opened(repo, first)]) == 2

        def other() -> None:
            second = repo.world.finish(two.delete({1}))
            assert second.error is None and list(repo.history.read().versions) == [0, 2]
            assert stored(repo).count(b"content of b") == 2  # v0 has it still, and there is the copy

        when(repo, first, stored_two, other)
        repo.world.run()
        assert first.error is None
        state = repo.check()
        (session,) = opened(repo, first)
        (commit,) = (entry.act for entry in repo.history.entries if entry.actor == first.name and isinstance(entry.act, Commit))
        assert commit.keep.ranges == ((session, 2, 3),)  # what it had stored before is no longer what is needed
        assert list(state.versions) == [2] and repo.data_keys() == set(state.packs)
        assert b"content of a" not in stored(repo) and b"content of b" not in stored(repo) and b"content of c" in stored(repo)


def test_two_deleters_and_a_store_that_keeps_what_was_overtaken() -> None:
    """The copy that is needed no more cannot be deleted: the command says so, and `gc` takes it."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        author, one, two = repo.client(), repo.client(), repo.client()
        put(repo, author, "abc", "bc", "c")
        first = one.delete({0})

        def stored_two(_: int) -> bool:
            return len([pack for pack in repo.data_keys() if pack.session in opened(repo, first)]) == 2

        def refuse(keys: tuple[str, ...], actor: str) -> None:
            repo.before_deleting(keys, actor)
            if any(pack_of(key).session in opened(repo, first) for key in keys):
                raise StoreError("not now")

        when(repo, first, stored_two, partial(finish, repo, partial(two.delete, {1})))
        repo.world.deleting = refuse
        repo.world.run()
        assert isinstance(first.error, StoreError) and "gc" in str(first.error)
        assert list(repo.history.read().versions) == [2] and b"content of b" in stored(repo)
        repo.world.deleting = repo.before_deleting
        assert repo.world.finish(two.collect(0.0)).error is None
        assert b"content of b" not in stored(repo) and repo.data_keys() == set(repo.check().packs)


def test_a_deletion_is_worked_out_once_for_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own `open`, and an alias of somebody else's, cost it a slot, and no second count of all places."""
    plans = 0

    def count(*arguments: Any) -> Plan:
        nonlocal plans
        plans += 1
        return plan_deletion(*arguments)

    monkeypatch.setattr("artifactmount.delete.plan_deletion", count)
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        one, two = repo.client(), repo.client()
        put(repo, two, "abc", "bc", "c")
        process = one.delete({0})
        tree = {"c": file(b"content of c")}
        when(repo, process, lambda _: bool(opened(repo, process)), partial(finish, repo, partial(two.snapshot, tree, Options(("best",)))))
        repo.world.run()
        assert process.error is None and repo.history.read().aliases == {"best": 2, "latest": 2}
        assert plans == 1


def test_expire_asks_the_state_it_follows() -> None:
    """v1 was to go; then it became the latest again, and v0 got an alias, before the deletion was in the log."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        one, two = repo.client(), repo.client()
        put(repo, two, "a", "b", "c")
        rule, now = Rule(last=1, aliased=True), datetime.now(UTC)
        assert expired(repo.history.read(), rule, now) == [0, 1]
        process = one.delete({0, 1}, still=lambda state: expired(state, rule, now))
        when(repo, process, lambda _: True, partial(finish, repo, partial(two.snapshot, {"b": file(b"content of b")}, Options())))
        repo.world.run()
        assert process.error is None and list(repo.history.read().versions) == [1, 2]


def test_a_snapshot_wakes_up_after_gc_closed_its_session() -> None:
    """At whatever step it stood still: it begins again, or had committed before; and nothing of the session that was closed is used."""
    again = 0
    for n in counted_for(job=({"a": file(b"content of a"), "b": file(b"content of b")}, Options())):
        with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
            repo.faithful = True
            sleeper, sweeper = repo.client(), repo.client()
            put(repo, sweeper, "z")
            process = sleeper.snapshot({"a": file(b"content of a"), "b": file(b"content of b")}, Options())
            when(repo, process, n.__eq__, partial(finish, repo, partial(sweeper.collect, 0.0)))
            repo.world.run()
            assert process.error is None
            state = repo.check(cold=False)
            sessions = opened(repo, process)
            closed = {entry.act.session for entry in repo.history.entries if isinstance(entry.act, Close)}
            if closed:
                again += 1
                assert len(sessions) == 2 and closed == {sessions[0]}
                assert not any(pack.session in closed for pack in state.packs)
            else:
                assert len(sessions) == 1
            take(repo, sweeper, frozenset({0}))
            assert repo.data_keys() == set(repo.check(cold=False).packs)  # it took with it what it had sent after `gc` had been there
    assert again > 3


def finish(repo: Repository, begin: Callable[[], Process]) -> None:
    assert repo.world.finish(begin()).error is None
