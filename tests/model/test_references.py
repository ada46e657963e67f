"""References beside snapshots, deletions and vendoring, in every order, with crashes and lost requests: each version is what its act makes
of the version before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import md5

from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from artifactmount.acts import Commit, PutVersion
from artifactmount.artifact import Writer
from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.names import Reference
from artifactmount.progress import Silent
from artifactmount.refer import Addition, Referring, Removal, Rows
from artifactmount.reference import Referent
from artifactmount.rows import Kind, child_key, path_of
from artifactmount.snapshot import Options
from artifactmount.sources import Found
from artifactmount.state import State
from artifactmount.vendor import Vendoring
from tests.model.repository import NAME, Client, Leaf, Repository, Tree, without_conflicts
from tests.model.simulator import Drawn, Plain, Process
from tests.model.test_repository import knobs, repository

_URI = "s3://bucket/of/others"
_EMPTY_OPTIONS = Options()


class MemorySource:
    """A bucket of others that keeps every version of its keys: what is recorded can always be read."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def record(self, path: str, content: bytes) -> Found:
        """As a listing shows it."""
        etag = md5(content, usedforsecurity=False).hexdigest()
        self.contents[etag] = content
        return Found(path.encode(), Referent(f"{_URI}/{path}", etag), len(content), 5)

    def find(self, uri: str) -> Iterator[Found]:
        """See Source."""
        raise NotFoundError(uri)

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source."""
        content = self.contents[referent.etag or ""]
        assert len(content) == size
        return content[start:stop]

    def check(self, referent: Referent, size: int) -> None:
        """See Source."""

    def close(self) -> None:
        """See Source."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that a client does. `tree`: a snapshot's folder; `world`: what an addition lists; `paths`: what is taken away."""

    what: str
    tree: Tree = field(default_factory=dict)
    world: dict[str, bytes] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    numbers: frozenset[int] = frozenset()


def is_reference(leaf: Leaf) -> bool:
    return leaf.kind is Kind.REFERENCE


def is_below(path: str, at: str) -> bool:
    return not at or path == at or path.startswith(at + "/")


@dataclass(eq=False)
class Play:
    """A repository, what its clients were asked for by the actor of each, and the bucket of others."""

    repo: Repository
    asked: dict[str, Job] = field(default_factory=dict)
    source: MemorySource = field(default_factory=MemorySource)

    # -- what is done --------------------------------------------------------------------------------------------------------------
    def start(self, client: Client, jobs: list[Job]) -> None:
        """Let a client do its jobs, one process after the other."""
        if not jobs:
            return
        job = jobs[0]

        def then(process: Process) -> None:
            allowed = StoreError | NotFoundError | RefusedError
            assert process.error is None or isinstance(process.error, allowed), repr(process.error)
            self.start(client, jobs[1:])

        if job.what == "delete":
            client.delete(job.numbers, then)
        elif job.what == "snapshot":
            client.snapshot(job.tree, _EMPTY_OPTIONS, then)
            self.asked[list(self.repo.asked)[-1]] = job
        else:
            writer = self.repo.writer(client.name)
            self.asked[writer.actor] = job
            work = self._work(job, client, writer)

            def ended(process: Process) -> None:
                if isinstance(work, Vendoring):
                    work.close()
                if process.crashed:
                    client.restart()
                elif process.result is not None:
                    client.known = process.result[0]
                then(process)

            self.repo.world.start(writer.actor, work.steps(client.known), ended)

    def _work(self, job: Job, client: Client, writer: Writer) -> Referring | Vendoring:
        artifact, catalog = self.repo.artifact, client.catalog()
        if job.what == "vendor":
            return Vendoring(artifact, catalog, self.source, Reference(NAME), _EMPTY_OPTIONS, writer, Silent())
        if job.what == "remove":
            change: Addition | Removal = Removal(NAME, [path.encode() for path in job.paths])
        else:
            rows = Rows(b"")
            for path, content in job.world.items():
                rows.add(self.source.record(path, content))
            change = Addition(rows, _URI)
        return Referring(artifact, catalog, writer, _EMPTY_OPTIONS, change)

    # -- what that comes to --------------------------------------------------------------------------------------------------------
    def becomes(self, job: Job, base: Tree) -> Tree:
        """What a job makes of the latest version. Files are shown by their digest, references by what they lead to."""
        references = {path: leaf for path, leaf in base.items() if is_reference(leaf)}
        if job.what == "snapshot":
            own = {path: Leaf(Kind.FILE, self._name(leaf.content)) for path, leaf in job.tree.items()}
            return own | {path: leaf for path, leaf in references.items() if not any(is_below(a, path) or is_below(path, a) for a in own)}
        if job.what == "remove":
            return {path: leaf for path, leaf in base.items() if path not in references or not any(is_below(path, a) for a in job.paths)}
        if job.what == "vendor":
            return base | {path: Leaf(Kind.FILE, self._name(self._content(leaf))) for path, leaf in references.items()}
        assert job.what == "add"
        own = {path: leaf for path, leaf in base.items() if path not in references}  # all others lead below the URI
        return own | {path: referring(self.source.record(path, content).referent) for path, content in job.world.items()}

    def _name(self, content: bytes) -> bytes:
        return self.repo.artifact.cipher.chunking.digest(content)

    def _content(self, leaf: Leaf) -> bytes:
        return self.source.contents[leaf.content.decode().split(" ")[1]]

    def check(self) -> None:
        """Each version is what its act made of the latest one before it; and nothing but live packs is read."""
        state = self.repo.history.read()
        cache, trees = Cache(str(self.repo.folder / "checker")), dict[int, Tree]()
        catalog = Catalog(self.repo.store, cache, self.repo.artifact)
        for entry, before in zip(self.repo.history.entries, self.repo.history.states, strict=False):
            for op in entry.act.ops if isinstance(entry.act, Commit) else ():
                if isinstance(op, PutVersion):
                    base = trees[before.latest] if before.latest is not None else {}
                    trees[op.n] = self.becomes(self.asked[entry.actor], base)
                    if op.n in state.versions:
                        assert tree_of(catalog, state, op.n) == trees[op.n], f"v{op.n} by {entry.actor}"
        cache.close()
        self.repo._check_packs(state)


def referring(referent: Referent) -> Leaf:
    return Leaf(Kind.REFERENCE, f"{referent.uri} {referent.etag}".encode())


def tree_of(catalog: Catalog, state: State, n: int) -> Tree:
    """The leaves of a version. No directory may be empty: none of these trees has one."""
    table = catalog.table(state, n)
    runs, found = catalog.runs(state, table), dict[str, Leaf]()
    for key, name, row in table.walk():
        origin, at = table.origin(row)
        path = path_of(key, name).decode()
        if table.kind(row) is Kind.REFERENCE:
            found[path] = referring(Referent.decode(runs[origin].target(at)))
        elif table.kind(row) is Kind.FILE:
            found[path] = Leaf(Kind.FILE, table.digest(row))
        else:
            start, stop = table.under(child_key(key, name))
            assert start < stop, path
    return found


_PATHS = ("a", "b", "d/a", "d/b", "d/e/f", "d")
_contents = st.sampled_from((b"one", b"two", b"three"))
_folders = st.dictionaries(st.sampled_from(_PATHS), _contents.map(lambda content: Leaf(Kind.FILE, content)), max_size=3).map(
    without_conflicts
)
_worlds = st.dictionaries(st.sampled_from(("a", "d/a", "d/e/f", "x/y")), _contents, min_size=1, max_size=3)
_jobs = st.one_of(
    st.builds(Job, st.just("snapshot"), tree=_folders),
    st.builds(Job, st.just("add"), world=_worlds),
    st.just(Job("vendor")),
    st.builds(Job, st.just("remove"), paths=st.sampled_from((("a",), ("d",), ("x/y",), ("",)))),
    st.builds(Job, st.just("delete"), numbers=st.frozensets(st.integers(0, 3), min_size=1, max_size=2)),
)


_ONE, _MORE = {"a": Leaf(Kind.FILE, b"one")}, {"a": Leaf(Kind.FILE, b"one"), "b": Leaf(Kind.FILE, b"two")}
_ADD, _REMOVE = Job("add", world={"x/y": b"two"}), Job("remove", paths=("",))


@settings(max_examples=30)
@given(st.lists(_jobs, min_size=2, max_size=7))
@example([_ADD, _REMOVE, _ADD, Job("vendor")])  # the same again: `latest` moves back, and the highest version is another
@example([Job("snapshot", tree=_ONE), _ADD, _REMOVE, Job("snapshot", tree=_MORE)])  # what was removed does not come back
@example([Job("snapshot", tree=_ONE), _ADD, _REMOVE, Job("add", world={"a2": b"one"})])
def test_one_after_the_other(jobs: list[Job]) -> None:
    with repository(Plain()) as repo:
        clients, play = [repo.client(), repo.client()], Play(repo)
        for index, job in enumerate(jobs):
            play.start(clients[index % 2], [job])
            repo.world.run()
        play.check()


@settings(max_examples=30)
@given(st.data(), st.lists(st.lists(_jobs, min_size=1, max_size=2), min_size=2, max_size=3), st.integers(0, 3))
def test_in_any_order(data: st.DataObject, jobs: list[list[Job]], faults: int) -> None:
    with knobs(small_packs=True, look_always=False), repository(Drawn(data.draw), faults) as repo:
        play = Play(repo)
        for each in jobs:
            play.start(repo.client(), each)
        repo.world.run()
        note("\n".join(repo.world.happened))
        play.check()
