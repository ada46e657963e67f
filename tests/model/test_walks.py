"""The walks of docs/protocol.md, step by step as they stand there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from artifactmount.acts import Close, Commit, Open
from artifactmount.snapshot import Options
from tests.model.repository import Client, Repository
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


def test_a_snapshot_wakes_up_after_gc_closed_its_session() -> None:
    """At whatever step it stood still: it begins again, or had committed before; and nothing of the session that was closed is used."""
    again = 0
    for n in counted_for(job=({"a": file(b"content of a"), "b": file(b"content of b")}, Options())):
        with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
            repo.faithful = True
            sleeper, sweeper = repo.client(), repo.client()
            put(repo, sweeper, "z")
            process = sleeper.snapshot({"a": file(b"content of a"), "b": file(b"content of b")}, Options())
            when(repo, process, n.__eq__, partial(close_sessions, repo, sweeper))
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
            assert {pack for pack in repo.data_keys() if pack.session not in closed} == set(repo.check(cold=False).packs)
    assert again > 3


def close_sessions(repo: Repository, client: Client) -> None:
    assert repo.world.finish(client.close_sessions()).error is None
