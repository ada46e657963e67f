"""What must hold after every step, whoever made it: looked at again only when a key came or went, as nothing else can break it.

Where each invariant of the protocol is checked:

- I1 (every chunk of every live version is there and is what it is called): here, after every step; as whole trees in `Repository.check`.
- I2 (garbage is stable): here, over all states and every pack that was ever stored.
- I3 (dense, chained, never changed; all views are prefixes): the chain here, entry by entry; clients' states when their process ends
  (`Watch.ended`), bytes in `Repository.check`.
- I4 (acknowledged once, refused never, unknown at most once): no entry is refused and none commits twice, here; what each client was told,
  in `Repository.check`.
- I5 (every key is live, garbage, or of an open session): here.
- I6 (after quiescence and one sweep: exactly what is live): `Repository.check_quiet`.
- I7 (numbers and digests) and I11 (aliases): here, against the reference.
- I8 (gone when delete returns): `Repository.check_gone`, where no request was lost.
- I9 (a read gives right bytes, or says that the version is gone): `reading.py`, with the program's own fetcher.
- I10 (a checkpoint and the rest is the whole log): `Repository.check`, from nothing and from states on the way.
- I12 (all of it under arbitrary clocks): the clocks of store and writers jump by years throughout.
"""

from __future__ import annotations

from artifactmount.acts import Commit, EndParts
from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.log import Entry
from artifactmount.ranges import PackId
from artifactmount.run import Run
from artifactmount.state import State
from tests.model.reference import Reference
from tests.model.repository import Client, Leaf, Repository, with_directories
from tests.model.simulator import Process


class Watch:
    """Looks at a repository after each step. Use as a context manager."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._cache = Cache(str(repository.folder / "watch"))
        self._catalog = Catalog(repository.store, self._cache, repository.artifact)
        self._changes = self._entries = self.looks = 0
        self._packs: dict[PackId, dict[bytes, tuple[int, int, int]]] = {}  # every pack there ever was, and what is where in it
        self._stored: set[PackId] = set()
        self._runs: dict[bytes, Run] = {}
        self._digests: dict[frozenset[tuple[str, Leaf]], bytes] = {}
        self.reference = Reference()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.close()

    def look(self, *_: object) -> None:
        """Check, if anything changed since the last look."""
        changes = self._repository.world.store.changes
        if self._changes == changes:
            return
        self._changes, self.looks = changes, self.looks + 1
        stored = self._repository.data_keys()
        for pack in stored - self._stored:
            self._store(pack)
        self._stored = stored
        history = self._repository.history
        state = history.read()
        for entry in history.entries[self._entries :]:
            self._follow(entry, history.states[entry.seq], history.states[entry.seq + 1])
        self._entries = len(history.entries)
        self._check_keys(state)
        self._check_places(state)

    def _store(self, pack: PackId) -> None:
        stored = self._repository.store.get(self._repository.artifact.pack_key(pack))
        cipher = self._repository.artifact.cipher
        rows = cipher.whole(pack, stored)
        for row in rows:
            cipher.chunk(pack, row.offset, stored[row.offset : row.offset + row.stored], row.plain, row.digest)
        self._packs[pack] = {row.digest: (row.offset, row.stored, row.plain) for row in rows}

    def _follow(self, entry: Entry, before: State, after: State) -> None:
        """One more entry: the reference does what was asked of its writer, and comes to the same."""
        for pack in self._packs:
            assert after.is_garbage(pack) or not before.is_garbage(pack), f"{pack} was garbage before entry {entry.seq}"
        if isinstance(entry.act, Commit) and not _gives_up(entry.act):
            commits = [other for other in self._repository.history.entries if other.actor == entry.actor and isinstance(other.act, Commit)]
            assert commits == [entry], f"{entry.actor} commits twice"
            self._do(entry.actor)
        assert list(after.versions) == list(self.reference.versions), f"versions after entry {entry.seq}"
        assert (after.aliases, after.next) == (self.reference.aliases, self.reference.next), f"aliases, numbers after entry {entry.seq}"
        for n, live in self.reference.versions.items():
            digest = self._digests.setdefault(frozenset(live.tree.items()), after.versions[n].digest)
            assert digest == after.versions[n].digest, f"the digest of v{n} after entry {entry.seq}"
        assert len(set(self._digests.values())) == len(self._digests)

    def _do(self, actor: str) -> None:
        repository = self._repository
        if asked := repository.asked.get(actor):
            self.reference.snapshot(repository.tree_of(actor), asked.options.aliases, asked.options.note)
        elif removal := next((removal for removal in repository.removals if removal.actor == actor), None):
            self.reference.delete(removal.numbers)
        else:
            self.reference.delete_all()

    def _check_keys(self, state: State) -> None:
        assert set(state.packs) <= self._stored, f"lost: {set(state.packs) - self._stored}"
        for pack in self._stored:
            kinds = [pack in state.packs, state.is_garbage(pack), pack.session in state.open]
            assert kinds.count(True) == 1, f"{pack} is (live, garbage, of an open session): {kinds}"

    def _check_places(self, state: State) -> None:
        """Whatever a live run names is in a live pack; where that was not moved, at the very place."""
        for version in state.versions.values():
            for chunk in self._run(version.metadata.run, state).all_chunks():
                place, pack = chunk.place, state.resolve(chunk.place.pack)
                assert pack in state.packs, f"v{version.n} names {place.pack}, which is not live"
                found = self._packs[pack].get(chunk.digest)
                assert found is not None, f"v{version.n}: its chunk {chunk.digest.hex()[:8]} of {place.pack} is not in {pack}"
                assert pack != place.pack or found == (place.offset, place.stored, place.plain)

    def _run(self, digest: bytes, state: State) -> Run:
        if digest not in self._runs:
            version = next(version for version in state.versions.values() if version.metadata.run == digest)
            name = self._catalog.artifact.cipher.chunking.digest
            self._runs[digest] = Run(self._catalog.read_stored(version)[1], digest, name=name)
        return self._runs[digest]

    def ended(self, client: Client, process: Process) -> None:
        """A client's process is over: what it takes for the history is a beginning of it."""
        self.look()
        if not process.crashed and client.known is not None:
            assert client.known == self._repository.history.states[client.known.seq + 1], f"{process.name} saw another history"

    def at_the_end(self) -> None:
        """Trees and notes are what the reference says."""
        state = self._repository.history.read()
        for n, live in self.reference.versions.items():
            assert self._catalog.card(state.versions[n]).note == live.note, f"the note of v{n}"
            assert with_directories(self._repository.tree_of(state.versions[n].actor)) == live.tree


def _gives_up(commit: Commit) -> bool:
    """Whether it only says that parts are no more: of that no version, alias or number changes."""
    return all(isinstance(op, EndParts) and op.n is None for op in commit.ops)
