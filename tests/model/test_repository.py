"""Snapshots of several clients in every order, with crashes and lost requests: what is in the store afterwards is always right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, note, settings
from hypothesis import strategies as st

from artifactmount.acts import Act, Commit, SetAlias
from artifactmount.artifact import append, head
from artifactmount.errors import StoreError
from artifactmount.log import CHECKPOINT_EVERY
from artifactmount.ranges import PackRanges
from artifactmount.rows import Kind
from artifactmount.snapshot import Options
from artifactmount.state import State
from artifactmount.steps import Steps
from tests.model.repository import Client, Leaf, Repository, Tree, expected, without_conflicts
from tests.model.simulator import Chance, Drawn, Fault, Last, Plain, Process, SimulatedStore, World

_FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # the caches sync a lot

_BIG = blake3(b"big").digest(length=1_700_000)
_BIG_TOO = b"another beginning" + _BIG[5:]
_PATHS = ("a", "b", "d", "d/a", "d/e/c", "d-b")
_LEAVES = (
    *(Leaf(Kind.FILE, content) for content in (b"one", b"two", b"three", b"four", b"five " * 999, b"")),
    Leaf(Kind.FILE, b"one", executable=True),
    Leaf(Kind.SYMLINK, b"a"),
    Leaf(Kind.SYMLINK, b"one"),
    Leaf(Kind.DIRECTORY),
)
_BIG_LEAVES = (Leaf(Kind.FILE, _BIG), Leaf(Kind.FILE, _BIG_TOO))
_leaf = st.sampled_from((*_LEAVES, *_LEAVES, *_LEAVES, *_BIG_LEAVES))  # big ones are rare: each costs 10 ms
_tree = st.dictionaries(st.sampled_from(_PATHS), _leaf, max_size=4).map(without_conflicts)
_options = st.builds(
    Options,
    aliases=st.sampled_from(((), (), ("best",), ("best", "prod"))),
    note=st.sampled_from((None, None, "", "first", "second")),
)
_snapshot = st.tuples(_tree, _options)
_CLOSE, _DELETE = "close the open sessions", "delete the highest version"

SnapshotJob = tuple[Tree, Options]
Job = SnapshotJob | str


class Folder:
    """A temporary folder of folders; use as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=_FAST)
        self._last: Path | None = None
        self._count = 0

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def another(self) -> Path:
        """An empty folder; the one given before is removed."""
        if self._last is not None:
            shutil.rmtree(self._last)
        self._count += 1
        self._last = Path(self._folder.name, str(self._count))
        self._last.mkdir()
        return self._last


@contextmanager
def repository(chance: Chance, faults: int = 0) -> Iterator[Repository]:
    """An empty repository in a temporary folder."""
    world = World(SimulatedStore(), chance, faults)
    with tempfile.TemporaryDirectory(dir=_FAST) as folder:
        made = Repository(world, Path(folder))
        world.deleting = made.before_deleting
        try:
            yield made
        finally:
            world.abandon()  # where a draw or a failure ended it midway: they let go of files
            made.close()


def work(client: Client, jobs: list[Job], _: Process | None = None) -> None:
    """Let a client do its jobs, one process after the other."""
    if jobs:
        _start(client, jobs[0], partial(work, client, jobs[1:]))


def _start(client: Client, job: Job, then: Callable[[Process], None] = lambda _: None) -> Process:
    if job == _CLOSE:
        return client.close_sessions(then)
    if job == _DELETE:
        return client.delete_highest(then)
    assert not isinstance(job, str)
    return client.snapshot(*job, then)


@contextmanager
def knobs(*, small_packs: bool, look_always: bool) -> Iterator[None]:
    """A pack for nearly each chunk, so that there are many uploads at once; a look at the log before each."""
    with pytest.MonkeyPatch.context() as patch:
        if small_packs:
            patch.setattr("artifactmount.packer.TARGET", 1)
            patch.setattr("artifactmount.packer.PACK_LIMIT", 1)
            patch.setattr("artifactmount.changes.LARGE", 1 << 20)
        if look_always:
            patch.setattr("artifactmount.session._LOOK_EVERY", -1.0)
        yield


# -- in any order ----------------------------------------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(st.lists(_snapshot, min_size=1, max_size=6), st.booleans())
def test_one_client_after_the_other(jobs: list[SnapshotJob], small_packs: bool) -> None:
    """Two machines take turns: each version reads right on both, and nothing but live packs is left."""
    with knobs(small_packs=small_packs, look_always=False), repository(Plain()) as repo:
        clients = [repo.client(), repo.client()]
        for index, job in enumerate(jobs):
            process = clients[index % 2].snapshot(*job)
            repo.world.run()
            assert process.error is None
            state = repo.history.read()
            assert repo.data_keys() == set(state.packs) and not state.open and not state.trash
        repo.check()


@settings(max_examples=120)
@given(
    st.data(),
    st.lists(st.lists(_snapshot, min_size=1, max_size=3), min_size=2, max_size=3),
    st.booleans(),
)
def test_clients_at_the_same_time(data: st.DataObject, jobs: list[list[Job]], small_packs: bool) -> None:
    """Without faults every snapshot succeeds, and each session's leftovers are gone when it returns."""
    with knobs(small_packs=small_packs, look_always=False), repository(Drawn(data.draw)) as repo:
        for own in jobs:
            work(repo.client(), own)
        repo.world.run()
        assert all(asked.error is None for asked in repo.asked.values())
        state = repo.check()
        assert not state.open
        assert repo.data_keys() == set(state.packs)


@settings(max_examples=200)
@given(
    st.data(),
    st.lists(st.lists(st.one_of(_snapshot, _snapshot, st.sampled_from((_CLOSE, _DELETE))), min_size=1, max_size=3), min_size=2, max_size=3),
    st.integers(0, 6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_clients_in_a_storm(
    data: st.DataObject, jobs: list[list[Job]], faults: int, small_packs: bool, look_always: bool, one_machine: bool
) -> None:
    """Lost answers, late requests, outages, crashes; sessions closed and versions deleted under who uses them; caches shared."""
    with knobs(small_packs=small_packs, look_always=look_always), repository(Drawn(data.draw), faults) as repo:
        for own in jobs:
            work(repo.client(cache="all" if one_machine else None), own)
        repo.world.run()
        for line in repo.world.happened:
            note(line)
        closed = any(isinstance(job, str) for own in jobs for job in own)
        for asked in repo.asked.values():
            assert expected(asked, closed=closed, faulty=faults > 0), repr(asked.error)
        repo.check()
        repo.check_quiet()


# -- at every call ---------------------------------------------------------------------------------------------------------------------
def _file(content: bytes) -> Leaf:
    return Leaf(Kind.FILE, content)


_SHARED: Tree = {"a": _file(b"one"), "d/b": _file(b"two"), "link": Leaf(Kind.SYMLINK, b"a")}
_FIRST: SnapshotJob = (_SHARED, Options(note="before"))
_OTHER: SnapshotJob = ({"b": _file(b"four"), "a": _file(b"three")}, Options(("best",)))
_SOME: Tree = {"a": _file(b"one"), "new": _file(b"three"), "newer": _file(b"four"), "big": _file(_BIG), "e": _file(b"")}
_CASES: dict[str, SnapshotJob] = {
    "another version": (_SOME, Options(("best",), "after")),
    "only a file less": ({"a": _file(b"one")}, Options()),
    "an equal one": (_SHARED, Options(("best",))),
    "another note": (_SHARED, Options(note="after")),
    "another note and alias": (_SHARED, Options(("best",), "after")),
}
_BETWEEN: dict[str, list[Job]] = {
    "closes": [_CLOSE],
    "deletes": [_DELETE],
    "adds": [_OTHER],
    "adds the same": [(_SOME, Options(("mine",), "mine"))],
    "deletes what it added": [_OTHER, _DELETE],
    "all of it": [_DELETE, _OTHER, _CLOSE],
}
_packs = pytest.mark.parametrize("small_packs", [False, True], ids=["one-pack", "many-packs"])


@contextmanager
def _prepared(chance: Chance, *, small_packs: bool, look_always: bool = False, entries: int = 0) -> Iterator[tuple[Repository, Client]]:
    """A repository with one version in it, a log of at least so many entries, and a client that has not looked yet."""
    with knobs(small_packs=small_packs, look_always=look_always), repository(chance) as repo:
        one, two = repo.client(), repo.client()
        assert _take(repo, two, _FIRST).error is None
        _lengthen(repo, entries - 2)
        yield repo, one


def _take(repo: Repository, client: Client, job: SnapshotJob) -> Process:
    process = client.snapshot(*job)
    repo.world.run()
    return process


def _counted(case: str, chance: Chance, *, small_packs: bool, look_always: bool = False, entries: int = 0) -> tuple[range, range]:
    """The numbers of the calls, and of the steps, that a snapshot makes when nothing disturbs it."""
    with _prepared(chance, small_packs=small_packs, look_always=look_always, entries=entries) as (repo, one):
        process = _take(repo, one, _CASES[case])
        assert process.error is None
        repo.check()
        return range(1, process.calls + 1), range(1, process.steps + 1)


def _goes_on(repo: Repository, one: Client, case: str, *, quiet: bool) -> None:
    """All is right as it is, others can write, and the same client can, too."""
    repo.world.planned = None
    repo.check(cold=False)
    assert _take(repo, repo.clients[1], _OTHER).error is None
    assert _take(repo, one, _CASES[case]).error is None
    repo.check()
    if quiet:
        repo.check_quiet()


@pytest.mark.parametrize("chance", [Plain(), Last()], ids=["first", "last"])
@_packs
@pytest.mark.parametrize("case", _CASES)
def test_a_crash_after_every_call(case: str, small_packs: bool, chance: Chance) -> None:
    """The process dies right after its n-th call to the store; others, and it itself, go on from there."""
    calls, _ = _counted(case, chance, small_packs=small_packs)
    for n in calls:
        with _prepared(chance, small_packs=small_packs) as (repo, one):
            repo.world.planned = partial(_planned, n, n, Fault.CRASH_AFTER)
            assert _take(repo, one, _CASES[case]).crashed
            _goes_on(repo, one, case, quiet=n % 4 == 0)


def _planned(first: int, last: int, fault: Fault, _: str, call: int) -> Fault:
    return fault if first <= call <= last else Fault.NONE


@pytest.mark.parametrize("length", [1, 12])  # 12: beyond the tries of one entry, so that its outcome stays unknown
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.DROPPED, Fault.LATE, Fault.REFUSED, Fault.FULL])
@pytest.mark.parametrize(
    ("case", "entries"),
    [("another version", 0), ("another version", 63), ("another note and alias", 0), ("another note and alias", 62)],
)
def test_a_store_that_fails_at_every_call(case: str, fault: Fault, length: int, entries: int) -> None:
    """From the n-th call on, some calls fail; then all is well again. With `entries`, the commit or the purge proves a checkpoint."""
    chance = Plain()
    calls, _ = _counted(case, chance, small_packs=False, entries=entries)
    for n in calls[-9:] if entries else calls:
        with _prepared(chance, small_packs=False, entries=entries) as (repo, one):
            repo.world.planned = partial(_planned, n, n + length - 1, fault)
            process = _take(repo, one, _CASES[case])
            assert process.error is None or isinstance(process.error, StoreError), repr(process.error)
            _goes_on(repo, one, case, quiet=n % 4 == 0)


@pytest.mark.parametrize("other", _BETWEEN)
@pytest.mark.parametrize("case", ["another version", "only a file less", "another note and alias"])
def test_another_client_at_every_step(case: str, other: str) -> None:
    """Right after the n-th step another client comes between: it closes the session, deletes the base, adds a version."""
    chance = Plain()
    _, steps = _counted(case, chance, small_packs=True, look_always=True)
    for n in steps:
        with _prepared(chance, small_packs=True, look_always=True) as (repo, one):
            repo.world.after_step = partial(_between, repo, n, _BETWEEN[other])
            process = _take(repo, one, _CASES[case])
            assert process.error is None, repr(process.error)
            _goes_on(repo, one, case, quiet=n % 4 == 0)


def _between(repo: Repository, n: int, jobs: list[Job], name: str, step: int) -> None:
    if step == n and name.startswith(repo.clients[0].name):
        repo.world.after_step = lambda *_: None
        for job in jobs:
            assert repo.world.finish(_start(repo.clients[1], job)).error is None


def test_an_older_process_on_the_same_cache() -> None:
    """From any step on, a process that knows an older state brings its places into the index that both use: none of them is taken."""
    done = False
    for n in range(1, 100):
        with _prepared(Plain(), small_packs=True) as (repo, one):
            assert _take(repo, one, (_SOME, Options())).error is None
            older = repo.history.read()
            one.catalog().places(older)  # so that its runs are in the cache
            assert repo.world.finish(repo.clients[1].delete_highest()).error is None
            assert repo.history.read().highest == 0
            repo.world.after_step = partial(_index, repo, n, older)
            process = _take(repo, one, ({**_SOME, "more": _file(b"more")}, Options()))
            assert process.error is None, repr(process.error)
            repo.check()
            done = process.steps < n
            if done:
                break
    assert done


def _index(repo: Repository, n: int, older: State, name: str, step: int) -> None:
    if step >= n and name.startswith(repo.clients[0].name):
        repo.clients[0].catalog().places(older)


# -- long logs -------------------------------------------------------------------------------------------------------------------------
def _set(alias: str, newest: State) -> Steps[Act | None]:
    """Sets an alias, removes nothing: an entry."""
    yield from ()
    return Commit(None, PackRanges(), (SetAlias(alias, next(iter(newest.versions))),))


def _lengthen(repo: Repository, count: int) -> None:
    state: State | None = None
    for i in range(count):
        writer = repo.writer("aliases")
        state = repo.world.run_one("aliases", head(repo.artifact, state))
        state = repo.world.run_one("aliases", append(repo.artifact, state, partial(_set, f"a{i % 3}"), writer)).state


def _requests(repo: Repository, known: State | None = None) -> int:
    process = repo.world.start("reader", head(repo.artifact, known))
    repo.world.run()
    assert process.error is None and process.result == repo.history.read()
    return process.calls


@pytest.mark.parametrize("more", [0, 1, 60, 63, 64, 65, 130, 64 * 17, 64 * 40 + 5])
def test_a_long_log(more: int) -> None:
    """From nothing, the newest checkpoint saves reading what is before it; without it, or with a damaged one, the answer is the same."""
    with repository(Plain()) as repo:
        client = repo.client()
        assert _take(repo, client, _FIRST).error is None
        _lengthen(repo, more)
        length = repo.history.read().seq + 1
        repo.check()
        checkpoints = [item.key for item in repo.store.list_keys(f"{repo.artifact.prefix}state/", limit=1 << 30)]
        last = (length - 1) // CHECKPOINT_EVERY
        assert checkpoints == [repo.artifact.checkpoint_key(k * CHECKPOINT_EVERY - 1) for k in range(1, last + 1)]
        with_all = _requests(repo)
        assert with_all <= 9
        for damage in (b"", b"{}", None):
            for key in checkpoints[-1:]:
                _damage(repo, key, damage)
            assert _requests(repo) <= with_all + 1 + 4
        for key in checkpoints:
            _damage(repo, key, None)
        _requests(repo)
        # what cannot be proven is not used, and writers go on
        for key in checkpoints:
            repo.store.create(key, repo.history.bytes[0])
        _lengthen(repo, 70)
        _requests(repo)
        assert _take(repo, client, ({"z": _file(b"z")}, Options())).error is None
        repo.check()


def _damage(repo: Repository, key: str, content: bytes | None) -> None:
    repo.store.delete([key])
    if content is not None:
        repo.store.create(key, content)


def test_a_long_chain_of_versions() -> None:
    """Beyond 64 deltas the whole manifest is stored beside one, and every version reads right, from one and from the other."""
    with repository(Plain()) as repo:
        client, other = repo.client(), repo.client()
        for i in range(70):
            tree: Tree = {
                f"d{i % 7}/{i}": _file(b"%d" % i),
                "same": _file(b"same"),
                f"x{i % 3}": _file(b"%d" % (i // 3)),
                "big": _file(_BIG),
            }
            assert _take(repo, client if i % 5 else other, (tree, Options())).error is None
        state = repo.check()
        assert any(version.metadata.full for version in state.versions.values())
        assert max(len(state.chain(n)) for n in state.versions) <= 65
        assert repo.data_keys() == set(state.packs)
