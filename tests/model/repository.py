"""Clients of one artifact for the simulator, and everything that must hold of what they leave in the store (design: I1 to I11)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from blake3 import blake3

from artifactmount.acts import (
    Act,
    Close,
    Commit,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    EndParts,
    Op,
    Open,
    Part,
    PutVersion,
    RemoveAlias,
    SetAlias,
)
from artifactmount.artifact import Appended, Artifact, Writer, append, finish_trash, head, session_keys
from artifactmount.cache import Cache
from artifactmount.cache.stats import StatCache
from artifactmount.card import Card
from artifactmount.catalog import Catalog
from artifactmount.delete import Deleted, Deletion, Still, delete_all_steps
from artifactmount.digest import content_digest
from artifactmount.errors import KeyMissingError, NotFoundError, OutcomeUnknownError, RefusedError, StoreError
from artifactmount.garbage import collect_steps
from artifactmount.gather import Gathering, drop_steps
from artifactmount.journal import Journal
from artifactmount.log import Entry
from artifactmount.pack import TableRow
from artifactmount.parts import Contribution
from artifactmount.progress import Silent
from artifactmount.proposal import Joined
from artifactmount.ranges import PackId, PackRanges
from artifactmount.rows import Kind, is_executable, kind_of, path_of
from artifactmount.run import Run
from artifactmount.sizes import sizes
from artifactmount.snapshot import Options, Result, Snapshot
from artifactmount.staging import Staging
from artifactmount.state import LATEST, State
from artifactmount.steps import Delete, Steps
from artifactmount.store.memory import MemoryStore
from tests import encryption
from tests.model.simulator import Fault, Process, World

T = TypeVar("T")

PROJECT, NAME = "11" * 16, "animals"
_PLAIN = Options()


class Leaf(NamedTuple):
    """What a tree holds at one path: a file's bytes, a symlink's target."""

    kind: Kind
    content: bytes = b""
    executable: bool = False


Tree = dict[str, Leaf]


def with_directories(tree: Tree) -> Tree:
    """The tree with a row for each directory that a path implies."""
    whole = dict(tree)
    for path in tree:
        for parent in list(Path(path).parents)[:-1]:
            whole[str(parent)] = Leaf(Kind.DIRECTORY)
    return whole


def without_conflicts(tree: Tree) -> Tree:
    """The tree without paths below something that is no directory."""
    solid = {path for path, leaf in tree.items() if leaf.kind is not Kind.DIRECTORY}
    return {path: leaf for path, leaf in tree.items() if not any(str(parent) in solid for parent in Path(path).parents)}


def write_tree(folder: Path, tree: Tree) -> None:
    """Make the folder hold exactly this."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, leaf in with_directories(tree).items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if leaf.kind is Kind.DIRECTORY:
            place.mkdir(exist_ok=True)
        elif leaf.kind is Kind.SYMLINK:
            os.symlink(leaf.content, os.fsencode(place))
        else:
            place.write_bytes(leaf.content)
            place.chmod(0o755 if leaf.executable else 0o644)


def pack_of(key: str) -> PackId:
    """The pack of a data key."""
    _, _, _, session, number = key.split("/")
    return PackId(int(session), int(number))


def rows_of(store: MemoryStore, artifact: Artifact, pack: PackId) -> list[TableRow]:
    """The table of contents of a stored pack, which accounts for every byte of it."""
    return artifact.cipher.whole(pack, store.get(artifact.pack_key(pack)))


class History:
    """The whole log, folded from zero, entry by entry."""

    def __init__(self, store: MemoryStore, artifact: Artifact) -> None:
        self._store, self._artifact = store, artifact
        self.states = [artifact.empty()]  # states[i + 1] is the one after entry i
        self.entries: list[Entry] = []
        self.bytes: list[bytes] = []

    def read(self) -> State:
        """The newest state. No entry of these clients may ever be refused: each was decided on the state it follows."""
        while True:
            seq = len(self.entries)
            try:
                found = self._store.get(self._artifact.log_key(seq))
            except KeyMissingError:
                return self.states[-1]
            entry = self._artifact.decode_entry(found, seq)
            assert entry.prev == self.states[-1].digest
            state, refusal = self._artifact.apply(self.states[-1], found)
            assert refusal is None, f"entry {seq} by {entry.actor} was refused: {refusal}"
            self.entries.append(entry)
            self.bytes.append(found)
            self.states.append(state)


@dataclass(eq=False, slots=True)
class Asked:
    """One snapshot that a client was asked for, and how it ended. `since`: entries in the log when it began. `gathers`: the id of the parts
    that it makes a version of, instead of a tree (see `Repository.tree_of`)."""

    actor: str
    tree: Tree
    options: Options
    since: int
    gathers: str | None = None
    result: Result | None = None
    seq: int = -1
    error: Exception | None = None
    over: bool = False


@dataclass(eq=False, slots=True)
class Contributed:
    """One part that a client was asked for, and how it ended."""

    actor: str
    id: str
    tree: Tree
    result: Joined | None = None
    error: Exception | None = None
    over: bool = False


@dataclass(eq=False, slots=True)
class Removal:
    """One deletion of versions that a client was asked for, and how it ended. `seq`: of the state it returned."""

    actor: str
    numbers: frozenset[int]
    delete_aliases: bool
    result: Deleted | None = None
    seq: int = -1
    error: Exception | None = None
    over: bool = False


class Client:
    """One machine: a cache, a staging folder, and the newest state it knows."""

    def __init__(self, repository: Repository, name: str, cache: Path, staging: Path) -> None:
        self._repository, self.name, self.staging = repository, name, staging
        self._cache_path = cache
        self.cache = Cache(str(cache))
        self.known: State | None = None
        self.journal: str | None = None  # where a snapshot finds the session of an interrupted one, to go on with it

    def close(self) -> None:
        """Let go of files."""
        self.cache.close()

    def restart(self) -> None:
        """As a new process on the same machine."""
        self.cache.close()
        self.cache, self.known = Cache(str(self._cache_path)), None

    def catalog(self) -> Catalog:
        """A new process's catalog over this machine's cache."""
        return Catalog(self._repository.store, self.cache, self._repository.artifact)

    def snapshot(self, tree: Tree, options: Options, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start a snapshot of this tree."""
        repository = self._repository
        write_tree(self.staging, tree)
        writer = repository.writer(self.name)
        asked = Asked(writer.actor, tree, options, repository.history.read().seq + 1)
        repository.asked[asked.actor] = asked
        staging, stats = Staging(str(self.staging)), StatCache(self.cache.path)
        journal = Journal(self.journal) if self.journal else Journal.nowhere()
        journal.__enter__()
        snapshot = Snapshot(repository.artifact, self.catalog(), staging, stats, options, writer, Silent(), journal)

        def ended(process: Process) -> None:
            snapshot.close()
            journal.__exit__()
            staging.__exit__()
            stats.__exit__()
            asked.over, asked.error = True, process.error
            if process.crashed:
                self.restart()
            elif process.result is not None:
                self.known, asked.result = process.result
                asked.seq = process.result[0].seq
            then(process)

        return repository.world.start(asked.actor, snapshot.steps(self.known), ended)

    def part(self, tree: Tree, id_: str, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to store this tree as a part."""
        repository = self._repository
        write_tree(self.staging, tree)
        writer = repository.writer(self.name)
        asked = repository.contributed[writer.actor] = Contributed(writer.actor, id_, tree)
        staging, stats = Staging(str(self.staging)), StatCache(self.cache.path)
        journal = Journal(self.journal) if self.journal else Journal.nowhere()
        journal.__enter__()
        part = Contribution(repository.artifact, self.catalog(), staging, stats, id_, writer, Silent(), journal)

        def ended(process: Process) -> None:
            part.close()
            journal.__exit__()
            staging.__exit__()
            stats.__exit__()
            asked.over, asked.error = True, process.error
            if process.crashed:
                self.restart()
            elif process.result is not None:
                self.known, asked.result = process.result
            then(process)

        return repository.world.start(asked.actor, part.steps(self.known), ended)

    def finish(self, id_: str, options: Options = _PLAIN, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to make a version of the parts of an id."""
        repository = self._repository
        writer = repository.writer(self.name)
        asked = Asked(writer.actor, {}, options, repository.history.read().seq + 1, id_)
        repository.asked[asked.actor] = asked
        gathering = Gathering(repository.artifact, self.catalog(), writer, id_, options)

        def ended(process: Process) -> None:
            asked.over, asked.error = True, process.error
            if process.crashed:
                self.restart()
            elif process.result is not None:
                self.known, asked.result = process.result
                asked.seq = process.result[0].seq
            then(process)

        return repository.world.start(asked.actor, gathering.steps(self.known), ended)

    def drop(self, id_: str, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to give up the parts of an id."""
        repository, writer = self._repository, self._repository.writer(self.name)
        steps = _state_of(drop_steps(repository.artifact, writer, self.known, id_, None))
        return repository.world.start(writer.actor, steps, self._ended(then))

    def delete(
        self,
        numbers: Iterable[int],
        then: Callable[[Process], None] = lambda _: None,
        *,
        delete_aliases: bool = True,
        still: Still | None = None,
    ) -> Process:
        """Start a deletion of these versions; with `still`, only of those that it names then."""
        repository = self._repository
        writer = repository.writer(self.name)
        removal = Removal(writer.actor, frozenset(numbers), delete_aliases)
        repository.removals.append(removal)
        deletion = Deletion(repository.artifact, self.catalog(), writer, set(numbers), delete_aliases, still)

        def ended(process: Process) -> None:
            removal.over, removal.error = True, process.error
            if process.crashed:
                self.restart()
            elif process.result is not None:
                self.known, removal.result = process.result
                removal.seq = process.result[0].seq
                repository.check_gone(removal)
            then(process)

        return repository.world.start(writer.actor, deletion.steps(self.known or repository.artifact.empty()), ended)

    def close_sessions(self, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to close every session that is open, and to sweep what it stored: what `gc` does after a grace."""
        writer = self._repository.writer(self.name)
        return self._repository.world.start(writer.actor, sweep(self._repository.artifact, writer, self.known), self._ended(then))

    def collect(self, grace: float, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start `gc`: close the sessions that were idle for so long, by a clock that may jump, and sweep."""
        writer = self._repository.writer(self.name)
        steps = _state_of(collect_steps(self._repository.artifact, self.known, writer, grace))
        return self._repository.world.start(writer.actor, steps, self._ended(then))

    def delete_everything(self, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to delete the whole artifact."""
        repository, writer = self._repository, self._repository.writer(self.name)
        known = self.known or repository.artifact.empty()
        steps = _state_of(delete_all_steps(repository.artifact, self.catalog(), known, writer))
        return repository.world.start(writer.actor, steps, self._ended(then))

    def delete_highest(self, then: Callable[[Process], None] = lambda _: None) -> Process:
        """Start to delete the highest version: the one whose deletion rewrites nothing."""
        writer = self._repository.writer(self.name)
        return self._repository.world.start(writer.actor, delete_highest(self._repository.artifact, writer, self.known), self._ended(then))

    def _ended(self, then: Callable[[Process], None]) -> Callable[[Process], None]:
        def ended(process: Process) -> None:
            if process.crashed:
                self.restart()
            elif process.result is not None:
                self.known = process.result
            assert process.error is None or isinstance(process.error, StoreError | NotFoundError)
            then(process)

        return ended


def _state_of(steps: Steps[tuple[State, T]]) -> Steps[State]:
    return (yield from steps)[0]


def sweep(artifact: Artifact, writer: Writer, known: State | None) -> Steps[State]:
    """Close every open session; delete the garbage of each."""
    state = yield from head(artifact, known)
    for session in sorted(state.open):
        state = (yield from _close(artifact, writer, state, session)).state
        keys = yield from session_keys(artifact, session)
        yield Delete(tuple(key for key in sorted(keys) if state.is_garbage(pack_of(key))))
    return state


def _close(artifact: Artifact, writer: Writer, state: State, session: int) -> Steps[Appended]:
    def close(newest: State) -> Steps[Act | None]:
        yield from ()
        return Close(session) if session in newest.open else None

    return (yield from append(artifact, state, close, writer))


def delete_highest(artifact: Artifact, writer: Writer, known: State | None) -> Steps[State]:
    """Delete the highest version and the aliases on it."""

    def delete(newest: State) -> Steps[Act | None]:
        yield from ()
        n = newest.highest
        if n is None:
            return None
        below, ops = newest.below(n), list[Op]([DeleteVersion(n)])
        for alias in sorted(alias for alias, at in newest.aliases.items() if at == n):
            ops.append(SetAlias(alias, below) if alias == LATEST and below is not None else RemoveAlias(alias))
        return Commit(None, PackRanges(), tuple(ops))

    state = yield from head(artifact, known)
    appended = yield from append(artifact, state, delete, writer)
    return (yield from finish_trash(artifact, appended.state, writer))


@dataclass(eq=False)
class Repository:
    """One artifact, its clients, and all that was asked of it."""

    world: World
    folder: Path
    artifact: Artifact = field(default_factory=lambda: encryption.artifact(PROJECT, NAME))
    asked: dict[str, Asked] = field(default_factory=dict)
    contributed: dict[str, Contributed] = field(default_factory=dict)
    removals: list[Removal] = field(default_factory=list)
    clock: Callable[[], str] = lambda: "1970-01-01T00:00:00.000000Z"  # what writers take for the time
    faithful: bool = False  # no request is lost or late: what is gone must stay gone
    clients: list[Client] = field(default_factory=list)
    writers: int = 0  # there were so many
    _readers: int = 0

    def __post_init__(self) -> None:
        self.store = self.world.store
        self.history = History(self.store, self.artifact)
        self._runs: dict[bytes, Run] = {}  # of every version there ever was
        self._loaded = 0  # states whose runs are there
        self._given_up: set[int] = set()  # sessions whose uploads went while they were open: nothing but their end may follow

    def client(self, *, cache: str | None = None) -> Client:
        """One more machine; or one more user of a machine's cache."""
        name = f"c{len(self.clients)}"
        client = Client(self, name, self.folder / f"cache-{cache or name}", self.folder / f"staging-{name}")
        self.clients.append(client)
        return client

    def close(self) -> None:
        """Let go of files."""
        for client in self.clients:
            client.close()

    def writer(self, name: str) -> Writer:
        """A writer that no other operation has: its actor says in the log whose entry it was. Its clock is of no use."""
        self.writers += 1
        actor, count = f"{name}-{self.writers}", iter(range(1 << 30))
        return Writer(actor, "test", self.clock, lambda: blake3(f"{actor} {next(count)}".encode()).digest()[:16])

    def before_deleting(self, keys: tuple[str, ...], actor: str) -> None:
        """R3: only garbage is deleted; or, where a store had no room for an entry, what its own writer gives up."""
        state = self.history.read()
        self._keep_runs()
        for key in keys:
            if key.startswith(f"{self.artifact.prefix}state/"):
                continue  # a checkpoint is derived
            pack = pack_of(key)
            if self.world.counts[Fault.FULL] and pack.session in state.open and self.history.entries[pack.session].actor == actor:
                self._given_up.add(pack.session)
                continue
            assert state.is_garbage(pack), f"{key} is deleted by {actor} and is no garbage after entry {state.seq}"

    def _keep_runs(self) -> None:
        """Remember the runs of every state so far: nothing that the newest states need was deleted yet."""
        self.history.read()
        for state in self.history.states[self._loaded :]:
            for version in state.versions.values():
                if version.metadata.run not in self._runs:
                    _, delta, _ = self.clients[0].catalog().read_stored(version)
                    self._runs[version.metadata.run] = Run(delta, version.metadata.run, name=self.artifact.cipher.chunking.digest)
        self._loaded = len(self.history.states)

    def tree_of(self, actor: str) -> Tree:
        """What a writer that committed made a version of: where it gathered, the parts that there were right before its commit."""
        asked, entries = self.asked[actor], self.history.entries
        if asked.gathers is None:
            return asked.tree
        commit = next(entry for entry in entries if entry.actor == actor and isinstance(entry.act, Commit))
        tree: Tree = {}
        for part in self.history.states[commit.seq].parts[asked.gathers]:
            for path, leaf in with_directories(self.contributed[part.actor].tree).items():
                assert tree.setdefault(path, leaf) == leaf
        return tree

    def charged(self, state: State, where: State | None = None) -> dict[tuple[PackId, bytes], tuple[int, int]]:
        """Every live place of a state (as `where` resolves it): the oldest version that names it, and its plain bytes."""
        self._keep_runs()
        places: dict[tuple[PackId, bytes], tuple[int, int]] = {}
        for n, version in state.versions.items():
            for chunk in self._runs[version.metadata.run].all_chunks():
                places.setdefault(((where or state).resolve(chunk.place.pack), chunk.digest), (n, chunk.place.plain))
        return places

    def data_keys(self) -> set[PackId]:
        """The packs that the store holds."""
        return {pack_of(item.key) for item in self.store.list_keys(f"{self.artifact.prefix}data/", limit=1 << 30)}

    # -- what must hold ------------------------------------------------------------------------------------------------------------
    def check(self, *, cold: bool = True) -> State:
        """Everything. `cold`: read with a cache of its own, too."""
        state = self.history.read()
        self._check_log()
        self._check_head()
        self._check_versions(state)
        self.check_told()
        self._check_keys(state)
        self._check_packs(state)
        readers = [self.clients[0].catalog()] if self.clients else []
        if cold:
            self._readers += 1
            cache = Cache(str(self.folder / f"reader-{self._readers}"))
            readers.append(Catalog(self.store, cache, self.artifact))
        for catalog in readers:
            self._check_content(state, catalog)
        if cold:
            cache.close()
        return state

    def check_told(self) -> None:
        """I4: what each was told of what it did."""
        self._check_promises()
        self._check_parts()
        self._check_removals()

    def _check_log(self) -> None:
        """I3: dense, chained (see History), and never changed."""
        keys = [item.key for item in self.store.list_keys(f"{self.artifact.prefix}log/", limit=1 << 30)]
        assert keys == [self.artifact.log_key(seq) for seq in range(len(self.history.entries))]
        assert [self.store.get(key) for key in keys] == self.history.bytes

    def _check_head(self) -> None:
        """I10: from nothing (with checkpoints), from any state on the way, and folded from zero: the same."""
        states = self.history.states
        for known in (None, *states[:: max(1, len(states) // 4)], states[-1]):
            assert self.world.run_one("reader", head(self.artifact, known)) == states[-1]

    def _check_versions(self, state: State) -> None:
        """I7 and I11: numbers without gaps, digests that never change, no two live versions with equal content; aliases on live ones."""
        put = [op for entry in self.history.entries if isinstance(entry.act, Commit) for op in entry.act.ops if isinstance(op, PutVersion)]
        assert [op.n for op in put] == list(range(state.next))
        for at in self.history.states:
            assert all(version.digest == put[n].digest for n, version in at.versions.items())
            assert len({version.digest for version in at.versions.values()}) == len(at.versions)
            assert set(at.aliases.values()) <= at.versions.keys()
            assert (LATEST in at.aliases) == bool(at.versions)
        trees: dict[frozenset[tuple[str, Leaf]], bytes] = {}
        for entry in self.history.entries:
            for op in entry.act.ops if isinstance(entry.act, Commit) else ():
                if isinstance(op, PutVersion):
                    tree = frozenset(with_directories(self.tree_of(entry.actor)).items())
                    assert trees.setdefault(tree, op.digest) == op.digest
        assert len(set(trees.values())) == len(trees)

    def _check_promises(self) -> None:
        """I4: acknowledged, exactly once; refused, never; unknown, at most once. And what was acknowledged is what was asked for."""
        for asked in self.asked.values():
            commits = [entry for entry in self.history.entries if entry.actor == asked.actor and isinstance(entry.act, Commit)]
            assert len(commits) <= 1
            if not asked.over or asked.result is None:
                assert not commits or asked.error is None or isinstance(asked.error, OutcomeUnknownError), repr(asked.error)
                continue
            number = asked.result.version
            if commits:
                (entry,) = commits
                state = self.history.states[entry.seq + 1]
                ops = entry.act.ops if isinstance(entry.act, Commit) else ()
                assert [op.n for op in ops if isinstance(op, PutVersion)] == ([number] if asked.result.changed else [])
                adopted = asked.gathers is not None and not any(isinstance(op, EndParts) for op in ops)
                assert self._fulfilled(state, asked, () if adopted else (LATEST,))
            elif asked.gathers is not None:
                assert not asked.result.changed
                states = self.history.states[asked.since : asked.seq + 2]
                assert any(number in state.versions and asked.gathers not in state.parts for state in states)
            else:
                assert not asked.result.changed
                assert any(self._fulfilled(state, asked) for state in self.history.states[asked.since : asked.seq + 2])

    def _check_parts(self) -> None:
        """The same of parts: acknowledged, exactly once; refused, never; unknown, at most once. A part is not its writer's to commit."""
        for asked in self.contributed.values():
            entries = [entry for entry in self.history.entries if entry.actor == asked.actor]
            parts = [entry.act for entry in entries if isinstance(entry.act, Part)]
            assert len(parts) <= 1 and not any(isinstance(entry.act, Commit) for entry in entries)
            if asked.result is None:
                assert not parts or asked.error is None or isinstance(asked.error, OutcomeUnknownError), repr(asked.error)
            elif asked.result.changed:
                assert [(part.id, part.session) for part in parts] == [(asked.id, asked.result.part)]
            else:
                assert not parts
        for state in self.history.states:
            for parts_ in state.parts.values():
                there = [part.digest for part in parts_ if part.session in state.open]
                assert len(set(there)) == len(there)

    def _fulfilled(self, state: State, asked: Asked, always: tuple[str, ...] = (LATEST,)) -> bool:
        """`always`: the aliases that move without being asked for. A finish that is asked again moves none."""
        assert asked.result is not None
        n = asked.result.version
        return n in state.versions and all(state.aliases.get(alias) == n for alias in (*always, *asked.options.aliases))

    def check_gone(self, removal: Removal) -> None:
        """I8, when a deletion returns: what left the live packs, by it or before it, is gone, and what it stored for nothing, too."""
        state = self.history.read()
        if not self.faithful:
            return
        commits = [entry for entry in self.history.entries if entry.actor == removal.actor and isinstance(entry.act, Commit)]
        after = self.history.states[(commits[-1].seq if commits else removal.seq) + 1]
        there = self.data_keys()
        dead = {pack for at in self.history.states[: after.seq + 2] for pack in at.packs if pack not in after.packs}
        assert not dead & there, f"{removal.actor} returned and left {sorted(dead & there)}"
        own = {entry.seq for entry in self.history.entries if entry.actor == removal.actor and isinstance(entry.act, Open)}
        left = {pack for pack in there if pack.session in own and state.is_garbage(pack) and pack not in after.packs}
        left = {pack for pack in left if pack.session not in self._closed_by_others(removal.actor)}  # whoever closed a session sweeps it
        assert not left, f"{removal.actor} returned and left its own {sorted(left)}"

    def _closed_by_others(self, actor: str) -> set[int]:
        closed: set[int] = set()
        for entry in self.history.entries:
            if entry.actor != actor and isinstance(entry.act, Close):
                closed.add(entry.act.session)
            elif entry.actor != actor and isinstance(entry.act, Commit) and DeleteArtifact() in entry.act.ops:
                closed |= self.history.states[entry.seq].open
        return closed

    def _check_removals(self) -> None:
        """Of deletions: acknowledged, exactly once and for ever; refused, never. What was said of bytes is true to the byte."""
        for removal in self.removals:
            commits = [entry for entry in self.history.entries if entry.actor == removal.actor and isinstance(entry.act, Commit)]
            assert len(commits) <= 1
            if not removal.over or removal.result is None:
                refused = isinstance(removal.error, RefusedError | NotFoundError)
                assert not (commits and refused), repr(removal.error)
                continue
            for state in self.history.states[removal.seq + 1 :]:
                assert not removal.numbers & state.versions.keys()
            if not commits:
                assert removal.result == Deleted()
                continue
            before, after = self.history.states[commits[0].seq], self.history.states[commits[0].seq + 1]
            assert (
                removal.result.versions
                == sorted(before.versions.keys() - after.versions.keys())
                == sorted(removal.numbers & set(before.versions))
            )
            was, now = self.charged(before), self.charged(after, before)
            assert now.keys() <= was.keys()
            assert removal.result.freed == sum(was[place][1] for place in was.keys() - now.keys())
            passed = {n: sum(size for place, (m, size) in now.items() if m == n != was[place][0]) for n in after.versions}
            assert removal.result.passed == {n: more for n, more in passed.items() if more}
            assert removal.result.packs + removal.result.rewritten == len(before.packs - after.packs)

    def _check_packs(self, state: State) -> None:
        """A live pack holds exactly the live places in it, each once: so nobody has to read packs to find what is dead."""
        live: dict[PackId, set[bytes]] = {}
        for pack, digest in self.charged(state):
            live.setdefault(pack, set()).add(digest)
        metadata = {pack for version in state.versions.values() for pack in version.metadata.packs}
        assert set(state.packs) == live.keys() | metadata and not live.keys() & metadata
        for pack, digests in live.items():
            assert sorted(row.digest for row in rows_of(self.store, self.artifact, pack)) == sorted(digests), pack

    def check_sizes(self, client: Client) -> None:
        """`du` says what deleting each version would do, and what lies in the live packs."""
        state, catalog = self.history.read(), client.catalog()
        found = sizes(catalog, client.cache, state)
        charged = self.charged(state)
        assert [size.version for size in found] == list(state.versions)
        for size in found:
            assert size.adds == sum(plain for n, plain in charged.values() if n == size.version)
            deletion = Deletion(self.artifact, catalog, self.writer("du"), {size.version}, delete_aliases=True)
            assert size.frees == deletion.preview(state).freed
        content = {pack for pack, _ in charged}
        rows = [row for pack in content for row in rows_of(self.store, self.artifact, pack)]
        assert sum(size.adds for size in found) == sum(row.plain for row in rows)
        assert sum(size.stored for size in found) == sum(row.stored for row in rows)
        assert sizes(catalog, client.cache, state) == found

    def _check_keys(self, state: State) -> None:
        """I5 and I2: every pack is of a session that was opened, and what is live is there; garbage stays garbage."""
        opened = {entry.seq for entry in self.history.entries if isinstance(entry.act, Open)}
        there = self.data_keys()
        assert {pack.session for pack in there} <= opened
        assert set(state.packs) <= there
        for entry in self.history.entries:
            assert isinstance(entry.act, Close) or getattr(entry.act, "session", None) not in self._given_up, "what was given up is named"
        for pack in there:
            kinds = [pack in state.packs, pack in state.trash or state.is_garbage(pack), pack.session in state.open]
            assert kinds.count(True) == 1, f"{pack} is (live, garbage, of an open session): {kinds}"
        for pack in there | {pack for at in self.history.states for pack in at.packs}:
            garbage = [at.is_garbage(pack) for at in self.history.states]
            assert garbage == sorted(garbage), f"{pack} was garbage and is none"

    def _check_content(self, state: State, catalog: Catalog) -> None:
        """I1: every chunk of every live version reads and verifies, and comes to the tree that was asked for; cards too."""
        notes: dict[int, str] = {}
        for entry in self.history.entries:
            for op in entry.act.ops if isinstance(entry.act, Commit) else ():
                if isinstance(op, PutVersion | Describe):
                    notes[op.n] = self.asked[entry.actor].options.note or ""
        for n, version in state.versions.items():
            assert read_tree(self.store, catalog, state, n) == with_directories(self.tree_of(version.actor)), f"v{n}"
            assert catalog.card(version) == Card(notes[n])
            assert PackRanges.of(catalog.run(version).packs) == version.packs
            assert {state.resolve(pack) for pack in (*version.packs, *version.metadata.packs)} <= set(state.packs)
        for pack in state.packs:
            rows_of(self.store, self.artifact, pack)

    def check_quiet(self) -> None:
        """I6: after one sweep, nothing is stored but what is live. And the next snapshot of a new machine is taken and reads right."""
        client = self.client()
        writer = self.writer("sweeper")
        state = self.world.run_one(writer.actor, sweep(self.artifact, writer, None))
        state = self.world.run_one(writer.actor, finish_trash(self.artifact, state, writer))
        assert not state.trash
        late = [pack for pack in self.data_keys() if state.is_garbage(pack)]
        self.world.run_one(writer.actor, _delete(tuple(self.artifact.pack_key(pack) for pack in late)))
        assert self.data_keys() == set(state.packs)
        process = client.snapshot({"after": Leaf(Kind.FILE, b"the storm")}, Options(aliases=("calm",)))
        self.world.faults = 0
        self.world.run()
        assert process.error is None
        state = self.check()
        assert self.data_keys() == set(state.packs) and not state.open


def _delete(keys: tuple[str, ...]) -> Steps[None]:
    yield Delete(keys)


def read_tree(store: MemoryStore, catalog: Catalog, state: State, n: int) -> Tree:
    """A live version's tree: its table, and every chunk from the packs."""
    table = catalog.table(state, n)
    runs = {digest: version for version in state.versions.values() for digest in (version.metadata.run, version.metadata.full) if digest}
    tree: Tree = {}
    for key, name, row in table.walk():
        kind, (origin, at) = kind_of(table.mode(row)), table.origin(row)
        digest = table.origins[origin]
        run = catalog.run_of(runs[digest], digest)
        content = b""
        if kind is Kind.FILE:
            content = _read_file(store, catalog.artifact, state, run, at)
            assert content_digest([chunk.digest for chunk in run.chunks(at)]) == table.digest(row)
            assert len(content) == table.size(row)
        elif kind is Kind.SYMLINK:
            content = run.target(at)
        tree[path_of(key, name).decode()] = Leaf(kind, content, is_executable(table.mode(row)))
    return tree


def _read_file(store: MemoryStore, artifact: Artifact, state: State, run: Run, row: int) -> bytes:
    parts: list[bytes] = []
    for chunk in run.chunks(row):
        place, pack = chunk.place, state.resolve(chunk.place.pack)
        offset = place.offset
        if pack != place.pack:  # it was moved, and the new pack's table says where to
            (offset,) = {row.offset for row in rows_of(store, artifact, pack) if row.digest == chunk.digest}
        stored = store.get(artifact.pack_key(pack), offset, offset + place.stored)
        parts.append(artifact.cipher.chunk(pack, offset, stored, place.plain, chunk.digest))
    return b"".join(parts)


def expected(asked: Asked, *, closed: bool, faulty: bool) -> bool:
    """Whether a snapshot may have ended like this. `closed`: sessions were closed or versions deleted meanwhile."""
    if asked.error is None:
        return True
    if isinstance(asked.error, RefusedError):
        return closed
    if asked.gathers is not None and isinstance(asked.error, NotFoundError):
        return True
    return faulty and isinstance(asked.error, StoreError)
