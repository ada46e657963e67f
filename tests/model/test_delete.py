"""Deletions beside snapshots and other deletions, in every order, with crashes and lost requests: gone is gone, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations, permutations

import pytest
from blake3 import blake3
from hypothesis import given, note, settings
from hypothesis import strategies as st

from artifactmount.acts import Close, Commit, Move, Open
from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.log import Entry
from artifactmount.ranges import PackId
from artifactmount.rows import Kind
from artifactmount.snapshot import Options
from tests.model.repository import Client, Leaf, Repository, Tree, expected, pack_of
from tests.model.simulator import Chance, Drawn, Fault, Last, Plain, Process
from tests.model.test_repository import knobs, repository

_CLOSE = "close the open sessions"
Job = tuple[Tree, Options] | frozenset[int] | str


def file(content: bytes) -> Leaf:
    return Leaf(Kind.FILE, content)


def start(client: Client, job: Job, then: Callable[[Process], None] = lambda _: None) -> Process:
    """A snapshot of a tree, a deletion of numbers, or the closing of sessions."""
    if isinstance(job, frozenset):
        return client.delete(job, then)
    if isinstance(job, str):
        return client.close_sessions(then)
    return client.snapshot(*job, then)


def work(client: Client, jobs: list[Job], _: Process | None = None) -> None:
    """Let a client do its jobs, one process after the other."""
    if jobs:
        start(client, jobs[0], partial(work, client, jobs[1:]))


def take(repo: Repository, client: Client, job: Job) -> Process:
    """Do a job alone; it must succeed."""
    process = start(client, job)
    repo.world.run()
    assert process.error is None, repr(process.error)
    return process


def put(repo: Repository, client: Client, *contents: str) -> None:
    """Versions of one-letter files: "ab" holds the files a and b with content of their own, "a=b" the file a with the content of b."""
    for content in contents:
        names = [item.partition("=") for item in (content.split() if " " in content or "=" in content else content)]
        take(repo, client, ({name: file(b"content of %s" % (of or name).encode()) for name, _, of in names}, Options()))


def stored(repo: Repository) -> bytes:
    """All bytes that the store holds of packs, opened: content, names, cards."""
    found: list[bytes] = []
    for item in repo.store.list_keys(f"{repo.artifact.prefix}data/", limit=1 << 30):
        pack, content, cipher = pack_of(item.key), repo.store.get(item.key), repo.artifact.cipher
        for row in cipher.whole(pack, content):
            found.append(cipher.chunk(pack, row.offset, content[row.offset : row.offset + row.stored], row.plain, row.digest))
    return b"\n".join(found)


@contextmanager
def tiny_groups() -> Iterator[None]:
    """Packs are read one by one to be written anew, and each is sent by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("artifactmount.delete.PACK_LIMIT", 1)
        patch.setattr("artifactmount.delete._AT_ONCE", 1)
        yield


# -- in any order ----------------------------------------------------------------------------------------------------------------------
_LETTERS = "abcdef"
_letters = st.dictionaries(st.sampled_from(("a", "b", "d/a", "d/b", "e", "f")), st.sampled_from(_LETTERS), max_size=5)
_tree = _letters.map(lambda letters: {path: file(b"content of %s" % letter.encode()) for path, letter in letters.items()})
_options = st.builds(Options, aliases=st.sampled_from(((), (), ("best",))))
_snapshot = st.tuples(_tree, _options)
_numbers = st.frozensets(st.integers(0, 4), min_size=1, max_size=3)
_snapshotter = st.lists(_snapshot, min_size=1, max_size=3)
_deleter = st.lists(_numbers, min_size=1, max_size=2)


@settings(max_examples=40)
@given(st.data(), st.lists(_snapshot, min_size=2, max_size=6), st.booleans())
def test_one_after_the_other(data: st.DataObject, jobs: list[tuple[Tree, Options]], small_groups: bool) -> None:
    """What `du` and --dry-run said is what is freed; nothing but live packs is left; the rest reads right on both machines."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        clients = [repo.client(), repo.client()]
        for index, job in enumerate(jobs):
            take(repo, clients[index % 2], job)
        while versions := list(repo.history.read().versions):
            repo.check_sizes(clients[0])
            gone = data.draw(st.sets(st.sampled_from(versions), min_size=1, max_size=2))
            with tiny_groups() if small_groups else knobs(small_packs=False, look_always=False):
                take(repo, clients[len(versions) % 2], frozenset(gone))
            state = repo.history.read()
            assert repo.data_keys() == set(state.packs) and not state.open and not state.trash
            repo.check(cold=False)
        assert not repo.data_keys()
        repo.check_quiet()


@settings(max_examples=60)
@given(st.data(), _snapshotter, st.tuples(_snapshotter, _snapshotter), st.tuples(_deleter, _deleter), st.booleans())
def test_at_the_same_time(
    data: st.DataObject, first: list[Job], more: tuple[list[Job], list[Job]], deleters: tuple[list[Job], list[Job]], small: bool
) -> None:
    """Two snapshotters and two deleters without faults: each does what it was asked, and nothing is left but what is live."""
    with knobs(small_packs=False, look_always=False), repository(Drawn(data.draw)) as repo:
        repo.faithful = True
        for job in first:
            take(repo, repo.clients[0] if repo.clients else repo.client(), job)
        with tiny_groups() if small else knobs(small_packs=False, look_always=False):
            for jobs in (*more, *deleters):
                work(repo.client(), jobs)
            repo.world.run()
        assert all(asked.error is None for asked in repo.asked.values())
        assert all(removal.error is None or isinstance(removal.error, NotFoundError) for removal in repo.removals)
        state = repo.check()
        repo.check_sizes(repo.clients[1])
        assert not state.open and not state.trash
        assert repo.data_keys() == set(state.packs)


@settings(max_examples=80)
@given(
    st.data(),
    st.lists(_snapshot, min_size=1, max_size=3),
    st.tuples(_snapshotter, _snapshotter),
    st.tuples(_deleter, st.lists(st.one_of(_numbers, _numbers, st.just(_CLOSE)), min_size=1, max_size=2)),
    st.integers(0, 6),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_in_a_storm(
    data: st.DataObject,
    first: list[Job],
    more: tuple[list[Job], list[Job]],
    deleters: tuple[list[Job], list[Job]],
    faults: int,
    ways: tuple[bool, bool, bool],
) -> None:
    """Lost answers, late requests, outages, crashes, closed sessions."""
    look_always, one_machine, small = ways
    with knobs(small_packs=False, look_always=look_always), repository(Drawn(data.draw)) as repo:
        for job in first:
            take(repo, repo.clients[0] if repo.clients else repo.client(), job)
        repo.world.faults = faults
        with tiny_groups() if small else knobs(small_packs=False, look_always=look_always):
            for jobs in (*more, *deleters):
                work(repo.client(cache="all" if one_machine else None), jobs)
            repo.world.run()
        for line in repo.world.happened:
            note(line)
        for asked in repo.asked.values():
            assert expected(asked, closed=True, faulty=faults > 0), repr(asked.error)
        for removal in repo.removals:
            allowed = (NotFoundError, RefusedError, StoreError) if faults else (NotFoundError, RefusedError)
            assert removal.error is None or isinstance(removal.error, allowed), repr(removal.error)
        repo.check()
        repo.check_quiet()


# -- at every call ---------------------------------------------------------------------------------------------------------------------
_BEFORE = ("abc", "bcd", "cde", "a=c c=e d")  # each changes what the one below has, in packs that they share
_CASES: dict[str, frozenset[int]] = {
    "the oldest": frozenset({0}),
    "one in the middle": frozenset({1}),
    "the newest": frozenset({3}),
    "every other": frozenset({0, 2}),
    "all": frozenset({0, 1, 2, 3}),
}
_BETWEEN: dict[str, list[Job]] = {
    "closes": [_CLOSE],
    "deletes the same": [frozenset({0})],
    "deletes another": [frozenset({1})],
    "deletes the highest": [frozenset({3})],
    "adds what comes back": [({"a": file(b"content of a"), "x": file(b"content of b")}, Options())],
    "adds and deletes": [({"a": file(b"content of a"), "n": file(b"n")}, Options()), frozenset({4})],
    "all of it": [({"b": file(b"content of b")}, Options()), frozenset({0, 2}), _CLOSE],
}


@contextmanager
def prepared(chance: Chance | None = None, *, look_always: bool = False) -> Iterator[tuple[Repository, Client]]:
    """Four versions, and a client that has not looked yet."""
    with knobs(small_packs=False, look_always=look_always), repository(chance or Plain()) as repo:
        one, two = repo.client(), repo.client()
        put(repo, two, *_BEFORE)
        yield repo, one


def counted(job: Job, *, look_always: bool = False) -> tuple[range, range]:
    """The numbers of the calls, and of the steps, of a job that nothing disturbs."""
    with prepared(look_always=look_always) as (repo, one):
        repo.faithful = True
        process = take(repo, one, job)
        repo.check()
        return range(1, process.calls + 1), range(1, process.steps + 1)


def goes_on(repo: Repository, one: Client, job: Job, *, quiet: bool) -> None:
    """All is right as it is; another client deletes and adds, and the same one finishes what it began."""
    repo.world.planned = None
    repo.check(cold=False)
    take(repo, repo.clients[1], frozenset({2}))
    take(repo, one, job)
    take(repo, repo.clients[1], ({"b": file(b"content of b"), "z": file(b"z")}, Options()))
    repo.check(cold=quiet)
    if quiet:
        repo.check_quiet()


@pytest.mark.parametrize("case", _CASES)
def test_a_crash_after_every_call(case: str) -> None:
    chance: Chance = Last() if case == "every other" else Plain()
    calls, _ = counted(_CASES[case])
    for n in calls:
        with prepared(chance) as (repo, one):
            repo.world.planned = partial(_planned, n, n, Fault.CRASH_AFTER)
            process = start(one, _CASES[case])
            repo.world.run()
            assert process.crashed
            process.main.steps.close()  # as Python ends a generator that nobody goes on with: it may not ask for one more step
            goes_on(repo, one, _CASES[case], quiet=n % 3 == 0)


def _planned(first: int, last: int, fault: Fault, _: str, call: int) -> Fault:
    return fault if first <= call <= last else Fault.NONE


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.DROPPED, Fault.LATE, Fault.REFUSED])
def test_a_store_that_fails_at_every_call(fault: Fault, length: int) -> None:
    job = _CASES["one in the middle"]
    calls, _ = counted(job)
    for n in calls:
        with prepared() as (repo, one):
            repo.world.planned = partial(_planned, n, n + length - 1, fault)
            process = start(one, job)
            repo.world.run()
            assert process.error is None or isinstance(process.error, StoreError), repr(process.error)
            goes_on(repo, one, job, quiet=n % 4 == 0)


@pytest.mark.parametrize("other", _BETWEEN)
def test_another_client_at_every_step_of_a_deletion(other: str) -> None:
    """Two deleters, of the same version too; one whose session is closed; one whose dead chunks come to life again."""
    job = _CASES["the oldest"]
    _, steps = counted(job, look_always=True)
    for n in steps:
        with prepared(look_always=True) as (repo, one):
            repo.faithful = True
            repo.world.after_step = partial(_between, repo, n, _BETWEEN[other])
            process = start(one, job)
            repo.world.run()
            assert process.error is None, repr(process.error)
            repo.check_sizes(one)
            state = repo.check(cold=False)
            assert not state.open and not state.trash
            assert kept(repo) == set(state.packs)


@pytest.mark.parametrize("other", [{0, 1, 2}, {1}, {2}, {0, 3}], ids=str)
def test_another_deletion_at_every_step_of_a_long_rewriting(other: set[int]) -> None:
    """Packs are read and sent one after the other; one to be read is gone while another is on its way."""
    contents = ("ab", "abcd", "abcdef", "bdf")
    with tiny_groups():
        steps = counted_for(*contents, job=frozenset({0, 1, 2}))
    for n in steps:
        with knobs(small_packs=False, look_always=False), repository(Last()) as repo, tiny_groups():
            repo.faithful = True
            one, two = repo.client(), repo.client()
            put(repo, two, *contents)
            repo.world.after_step = partial(_between, repo, n, [frozenset(other)])
            take(repo, one, frozenset({0, 1, 2}))
            repo.check_sizes(one)
            assert repo.data_keys() == set(repo.check(cold=False).packs)


def kept(repo: Repository) -> set[PackId]:
    """The packs that the store holds, but for those of sessions that somebody else closed: an upload may land behind that."""
    closed: set[int] = set()
    for entry in _entries(repo):
        if isinstance(entry.act, Close) and repo.history.entries[entry.act.session].actor != entry.actor:
            closed.add(entry.act.session)
    return {pack for pack in repo.data_keys() if pack.session not in closed}


def _between(repo: Repository, n: int, jobs: list[Job], name: str, step: int) -> None:
    if step == n and name.startswith(repo.clients[0].name):
        repo.world.after_step = lambda *_: None
        for job in jobs:
            assert repo.world.finish(start(repo.clients[1], job)).error is None


@pytest.mark.parametrize("other", ["0", "1", "0 1 2 3", "closes", "both"])
def test_a_deletion_at_every_step_of_a_snapshot_that_uses_its_chunks(other: str) -> None:
    """The version, or only its content, is deleted under a snapshot that counts on it, or the snapshot's session is closed."""
    known: dict[str, list[Job]] = {"closes": [_CLOSE], "both": [frozenset({0}), _CLOSE]}
    jobs = known.get(other) or [frozenset(map(int, other.split()))]
    snapshot: Job = ({**{c: file(b"content of %s" % c.encode()) for c in "abe"}, "new": file(b"new")}, Options())
    _, steps = counted(snapshot, look_always=True)
    for n in steps:
        with prepared(look_always=True) as (repo, one):
            repo.faithful = True
            repo.world.after_step = partial(_between, repo, n, jobs)
            take(repo, one, snapshot)
            assert kept(repo) == set(repo.check(cold=False).packs)


def test_a_rewritten_pack_is_moved_and_used_again_after_a_lost_slot() -> None:
    """Others' entries that touch no pack do not make it copy anything twice."""
    with prepared() as (repo, one):
        repo.faithful = True
        alias = 0

        def set_an_alias(name: str, _: int) -> None:
            nonlocal alias
            if name.startswith(one.name) and alias < 6:
                alias += 1
                repo.world.after_step, hook = lambda *_: None, repo.world.after_step
                tree: Tree = {name: file(b"content of " + name.encode()) for name in "bcd"}
                repo.world.finish(repo.clients[1].snapshot(tree, Options((f"alias{alias}",))))
                repo.world.after_step = hook

        repo.world.after_step = set_an_alias
        process = start(one, frozenset({0}))
        repo.world.run()
        assert process.error is None
        state = repo.check()
        (entry,) = (e for e in repo.history.entries if isinstance(e.act, Commit) and any(isinstance(op, Move) for op in e.act.ops))
        assert isinstance(entry.act, Commit) and entry.actor.startswith(one.name)
        assert {pack.number for pack in state.packs if pack.session == entry.act.session} == {0, 1}  # one copy, one run: nothing between


def test_a_deletion_beside_eight_snapshotters_uploads_no_pack_twice() -> None:
    """They commit a version each between its steps, so it loses slot after slot; what it has to copy stays the same."""
    with prepared() as (repo, one):
        repo.faithful = True
        snapshotters = [repo.client() for _ in range(8)]
        before = repo.history.read().next

        def commit_one(name: str, _: int) -> None:
            if name.startswith(one.name) and snapshotters:
                client, hook = snapshotters.pop(), repo.world.after_step
                repo.world.after_step = lambda *_: None
                tree: Tree = {name: file(b"content of " + name.encode()) for name in "bcd"} | {client.name: file(client.name.encode())}
                assert repo.world.finish(client.snapshot(tree, Options())).error is None
                repo.world.after_step = hook

        repo.world.after_step = commit_one
        process = start(one, frozenset({0}))
        repo.world.run()
        assert process.error is None and not snapshotters
        state = repo.check()
        assert state.next == before + 8
        (session,) = (entry.seq for entry in repo.history.entries if entry.actor == process.name and isinstance(entry.act, Open))
        assert {pack.number for pack in state.packs if pack.session == session} == {0, 1}  # one copy, one run: no number went to another


@pytest.mark.parametrize(("first", "second"), list(combinations(range(1, 7), 2)))
def test_a_copy_that_is_part_of_another_is_not_kept_beside_it(first: int, second: int) -> None:
    """Two packs copied together; then one of them alone, as the other's dead chunk was alive for a while; then both again."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        one, two = repo.client(), repo.client()
        put(repo, two, "ab", "abcd", "bd")  # v0 in one pack, what v1 adds in another: when both go, a and c die
        back: Job = ({"c": file(b"content of c"), "q": file(b"q")}, Options())
        jobs: dict[int, Job] = {first: back, second: frozenset({3})}
        process = start(one, frozenset({0, 1}))

        def between(name: str, _: int) -> None:
            opened = [e.seq for e in _entries(repo) if e.actor == process.name and isinstance(e.act, Open)]
            own = sum(pack.session in opened for pack in repo.data_keys())  # so many packs it has stored
            if name == process.name and own in jobs:
                assert repo.world.finish(start(two, jobs.pop(own))).error is None

        repo.world.after_step = between
        repo.world.run()
        assert process.error is None
        assert repo.data_keys() == set(repo.check(cold=False).packs)


def _entries(repo: Repository) -> list[Entry]:
    repo.history.read()
    return repo.history.entries


# -- content that came back ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", list(permutations((0, 3, 7))), ids=str)
@pytest.mark.parametrize("others", ["never", "before", "after"])
def test_content_that_came_back_goes_with_its_last_user(order: tuple[int, ...], others: str) -> None:
    """v0, v3 and v7 have a file that the versions between have not."""
    shared = blake3(b"shared").digest(length=5000)
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        repo.faithful = True
        client = repo.client()
        for n in range(8):
            take(repo, client, ({"n": file(b"%d" % n), **({"shared": file(shared)} if n in (0, 3, 7) else {})}, Options()))
        assert stored(repo).count(shared) == 1
        for n in (1, 2, 4, 5, 6) if others == "before" else ():
            take(repo, client, frozenset({n}))
        for n in order:
            assert stored(repo).count(shared) == 1
            repo.check_sizes(client)
            take(repo, client, frozenset({n}))
            repo.check(cold=False)
        assert shared not in stored(repo)
        for n in (1, 2, 4, 5, 6) if others == "after" else ():
            take(repo, client, frozenset({n}))
        assert repo.data_keys() == set(repo.check().packs)
        assert bool(repo.data_keys()) == (others == "never")


# -- three leaks that the model found ------------------------------------------------------------------------------------------------------
class Turns:
    """Without faults: the process that was started first goes on, or, while `last`, the one started last."""

    last = False

    def below(self, n: int) -> int:
        """See Chance."""
        return n - 1 if self.last else 0


class Stop:
    """At the n-th step of a process another one is started, which stands still from its commit until the first one is over."""

    def __init__(self, repo: Repository, turns: Turns, first: Process, n: int, begin: Callable[[], Process]) -> None:
        self._repo, self._turns, self._first, self._n, self._begin = repo, turns, first, n, begin
        self.second: Process | None = None

    def __call__(self, name: str, step: int) -> None:
        if self.second is None:
            if name == self._first.name and step == self._n:
                self.second, self._turns.last = self._begin(), True
        elif self._turns.last and commit_of(self._repo, self.second) is not None:
            self._turns.last = False


def commit_of(repo: Repository, process: Process) -> int | None:
    """The number of the entry by which it committed."""
    return next((entry.seq for entry in _entries(repo) if entry.actor == process.name and isinstance(entry.act, Commit)), None)


def test_own_trash_only() -> None:
    """A deletion returns while another one stands still behind its commit: what that one was about to delete has to be gone, too."""
    before = 0
    for n in counted_for("abc", "bc", "c", job=frozenset({1})):
        turns = Turns()
        with knobs(small_packs=False, look_always=False), repository(turns) as repo:
            repo.faithful = True
            author, one, two = repo.client(), repo.client(), repo.client()
            put(repo, author, "abc", "bc", "c")
            left: list[bytes] = []
            first = two.delete({1}, partial(_look, repo, left))
            repo.world.after_step = stop = Stop(repo, turns, first, n, partial(one.delete, {0}))
            repo.world.run()
            assert stop.second is not None and first.error is None and stop.second.error is None
            mine, other = commit_of(repo, first), commit_of(repo, stop.second)
            assert mine is not None and other is not None
            if other < mine:
                before += 1
                assert b"content of a" not in left[0] and b"content of b" not in left[0]
            assert repo.data_keys() == set(repo.check(cold=False).packs)
    assert before > 3


def _look(repo: Repository, left: list[bytes], _: Process) -> None:
    left.append(stored(repo))


def counted_for(*contents: str, job: Job) -> range:
    """The numbers of the steps of a job after these versions."""
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        put(repo, repo.client(), *contents)
        return range(1, take(repo, repo.client(), job).steps + 1)


def test_copies_left_in_ones_own_session_after_a_lost_slot() -> None:
    """It copied b, which v1 had; then v1 went, and with it the need for that copy: it must not stay."""
    for n in counted_for("abc", "bc", "c", job=frozenset({0})):
        with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
            repo.faithful = True
            one, two = repo.client(), repo.client()
            put(repo, two, "abc", "bc", "c")
            repo.world.after_step = partial(_between, repo, n, [frozenset({1})])
            take(repo, one, frozenset({0}))
            assert b"content of b" not in stored(repo) and b"content of c" in stored(repo)
            assert repo.data_keys() == set(repo.check(cold=False).packs)


def test_a_pack_kept_in_part() -> None:
    """A snapshot packed x and y together; then another had x first. Nobody names the second x, so it may not be kept with y."""
    both: Job = ({"x": file(b"content of x"), "y": file(b"content of y")}, Options())
    with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
        steps = range(1, take(repo, repo.client(), both).steps + 1)
    for n in steps:
        with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
            repo.faithful = True
            one, two = repo.client(), repo.client()
            repo.world.after_step = partial(_between, repo, n, [({"x": file(b"content of x")}, Options())])
            take(repo, one, both)
            repo.check(cold=False)
            put(repo, two, "y")
            y = repo.history.read().highest
            assert y is not None
            for number in range(y):
                take(repo, two, frozenset({number}))
            assert b"content of x" not in stored(repo) and b"content of y" in stored(repo)
            assert repo.data_keys() == set(repo.check(cold=False).packs)


def test_a_chunk_that_two_packs_have_is_copied_once() -> None:
    """Two snapshots that raced stored x, each in a pack of its own; both packs are written anew, into one."""
    ours: Job = ({name: file(b"content of " + of.encode()) for name, of in (("p", "x"), ("q", "x"), ("y", "y"))}, Options())
    theirs: Job = ({name: file(b"content of " + of.encode()) for name, of in (("p", "x"), ("z", "z"))}, Options())
    last: Job = ({name: file(b"content of x") for name in "pq"}, Options())
    twice = 0
    for n in counted_for(job=ours):
        with knobs(small_packs=False, look_always=False), repository(Plain()) as repo:
            repo.faithful = True
            one, two = repo.client(), repo.client()
            repo.world.after_step = partial(_between, repo, n, [theirs])
            take(repo, one, ours)
            take(repo, two, last)
            if list(repo.history.read().versions) == [0, 1, 2] and stored(repo).count(b"content of x") == 2:
                twice += 1
                take(repo, one, frozenset({0, 1}))
                assert stored(repo).count(b"content of x") == 1
                repo.check()
                repo.check_sizes(one)
    assert twice
