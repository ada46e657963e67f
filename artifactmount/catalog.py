"""The runs, cards, manifest tables and known chunks of one artifact: read from the store once, then from the cache.

Blocking code. Runs are cached by digest, never by number, and a table is used only when its root digest is the version's; so nothing here
can serve one version for another, however old the state is that it is asked with. This module must not know staging folders or mounts.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from blake3 import blake3

from artifactmount.artifact import Artifact
from artifactmount.cache import Cache
from artifactmount.cache.places import PlaceIndex
from artifactmount.card import Card
from artifactmount.digest import PLAIN_CHUNKING, Buffer, Chunking
from artifactmount.errors import ArtifactError, CorruptError, NotFoundError, RefusedError
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import PACK_BYTES, Place, compress
from artifactmount.rows import Change
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.state import State, StatePart, Version
from artifactmount.store import Store

#: A run is stored in pieces of this size, each a chunk of the version's metadata packs.
PIECE = 4 << 20
#: A piece may unpack to this many times its size: what a hostile store can make a client allocate is bounded by what it sends.
RATIO_LIMIT = 256
_PARALLEL = 8
_MAPPED = 1 << 20
_SPARE = 64 << 20


def read_in_place(path: str) -> memoryview:
    """A cache file, mapped if it is large. These are written whole and renamed, never truncated, so a mapping cannot fault (SIGBUS).

    Before Python 3.13 a mapping keeps a descriptor, and a thousand versions have a thousand small runs: those are read instead.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size <= _MAPPED:
            return memoryview(file.read())
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def _let_go(view: memoryview) -> None:
    """Let the pages of a mapping go, all of which were just read: they stay in the page cache, and come back where they are read again.

    They would count as this process's own: of a version of 1M files 80 MB once it was hashed, 58 MB once its manifest was merged.
    """
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


class Catalog:
    """What the versions of one artifact hold. `version` arguments come from a state of that artifact."""

    def __init__(self, store: Store, cache: Cache, artifact: Artifact) -> None:
        self._store, self._cache, self.artifact = store, cache, artifact
        self._runs: dict[bytes, Run] = {}

    def card(self, version: Version) -> Card:
        """Note and metadata of a version. Raises KeyMissingError when a newer state no longer has it, CorruptError."""
        key = self._card_key(version)
        cached = self._cache.state_get(key)
        if cached is not None:
            with contextlib.suppress(CorruptError):  # the cache proves nothing
                return Card.decode(cached)
        return Card.decode(self._read(version)[0])

    def _card_key(self, version: Version | StatePart) -> bytes:
        # With the place, as nothing in the log proves a card: a store that calls itself another project must not answer for that one.
        where = f"{self._store.place} {self.artifact.project_id} {self.artifact.name} {version.metadata.packs!r}"
        return b"card" + blake3(where.encode("utf-8", "surrogateescape")).digest()

    def run(self, version: Version) -> Run:
        """The delta of a version against the live version before it."""
        return self._load(version, version.metadata.run)

    def parts(self, parts: Sequence[StatePart]) -> list[Run]:
        """The rows of parts, each against nothing. Raises KeyMissingError when a newer state no longer has one, CorruptError."""
        return self._load_all(parts, [part.metadata.run for part in parts])

    def forget_parts(self, parts: Iterable[StatePart]) -> None:
        """Drop parts from the cache, as they are no more."""
        for part in parts:
            self._runs.pop(part.metadata.run, None)
            self._cache.forget_file("runs", part.metadata.run.hex())
            self._cache.state_forget(self._card_key(part))

    def full(self, version: Version) -> Run:
        """The whole manifest that is stored beside a version's delta. Only for versions that have one."""
        assert version.metadata.full is not None
        return self._load(version, version.metadata.full)

    def full_bytes(self, state: State, delta: Run) -> bytes:
        """The whole manifest of the version that `delta` makes on the newest live one, as a run against nothing.

        Places are copied from the runs that name them, row by row: a place is live because a run of a live version names it, and another
        place of the same digest may go sooner.
        """
        assert state.highest is not None
        chain = [state.versions[n] for n in state.chain(state.highest)]
        digests = _chain_digests(chain)
        runs = {run.digest: run for run in (*self._load_all(chain, digests), delta)}
        table = Table(memoryview(merge(self.table(state, state.highest), [delta])), check=False)
        builder = RunBuilder()
        for key, name, row in table.walk():
            origin, at = table.origin(row)
            run = runs[table.origins[origin]]
            chunks = run.chunks(at)
            builder.add(
                key,
                name,
                Change.ADDED,
                run.mode(at),
                run.size(at),
                run.mtime(at),
                run.digest_of(at),
                run.target(at),
                b"".join(chunk.digest for chunk in chunks),
                [chunk.place for chunk in chunks],
            )
        return builder.finish()

    def run_of(self, version: Version, digest: bytes) -> Run:
        """The run of this digest, which is a version's delta or whole manifest."""
        return self._load(version, digest)

    def table(self, state: State, number: int) -> Table:
        """The manifest of a live version: from the cache, or merged from the newest table cached and the runs after it."""
        version = state.versions.get(number)
        if version is None:
            raise NotFoundError(f"no version {self.artifact.name}:v{number}")
        chain = [state.versions[n] for n in state.chain(number)]
        digests = _chain_digests(chain)
        base: Table | None = None
        known = 0
        for length in range(len(digests), 0, -1):
            path = self._cache.file_path("tables", _chain_name(digests[:length]))
            if path is not None and (base := _open_table(path, chain[length - 1].digest)) is not None:
                known = length
                break
        if base is not None and known == len(chain):
            return base
        runs = self._load_all(chain[known:], digests[known:])
        buffer = merge(base, runs)
        for read in (base, *runs):
            if read is not None:
                _let_go(read.buffer)
        table = Table(memoryview(buffer), check=False)
        if table.root != version.digest:
            raise CorruptError(f"{self.artifact.name}:v{number}: its files do not add up to its digest")
        path = self._cache.put_file("tables", _chain_name(digests), [buffer])
        return (_open_table(path, version.digest) if path is not None else None) or table

    def newest(self, state: State) -> Table:
        """The manifest of the highest live version; an empty one when there is none."""
        return Table(memoryview(merge(None, [])), check=False) if state.highest is None else self.table(state, state.highest)

    def latest(self, state: State) -> Table:
        """The manifest that `latest` names: what users see as the artifact, and so what an edit begins with. It is not the highest version
        where content came back: then `latest` moved to the version that had it."""
        return self.newest(state) if state.latest is None else self.table(state, state.latest)

    def places(self, state: State) -> PlaceIndex:
        """Where the chunks of the live versions lie, as of `state`. A place counts only while a live run names it."""
        live = {version.metadata.run: version for version in state.versions.values()}
        key = blake3(f"{self.artifact.project_id} {self.artifact.name}".encode()).digest()[:16]
        index = PlaceIndex(self._cache, key, live.keys())
        indexed = index.synced_runs()
        if not indexed <= live.keys():
            # A run that went may have been the only one to name a place. Rare (deletions), so the simple way: start again.
            index.reset()
            indexed = set()
        self.load(version for digest, version in live.items() if digest not in indexed)
        for digest, version in live.items():
            if digest not in indexed:
                run = self.run(version)
                packs = run.packs
                index.add_run(digest, ((chunk, Place(packs[pack], *place)) for _, chunk, pack, *place in run.places()))
        return index

    def load(self, versions: Iterable[Version]) -> None:
        """See to it that the runs of many versions are at hand, several read at once, for whoever goes through them."""
        missing = [version for version in versions if version.metadata.run not in self._runs]
        if missing:
            self._load_all(missing, [version.metadata.run for version in missing])

    def forget_dead(self, before: State, after: State, *, chunks: bool) -> None:
        """Drop from the cache what left with the versions deleted between two states: runs, manifests, and with `chunks` their content.

        Content that a live version names stays, as far as its run is at hand; the store is asked only for a run that was replaced: it took
        over what lives on. What is dropped too much is fetched again.
        """
        gone = [v for n, v in before.versions.items() if n not in after.versions or after.versions[n].metadata.run != v.metadata.run]
        dead: set[bytes] = set()
        for run in filter(None, (self._held(version.metadata.run) for version in gone if chunks)):
            dead.update(chunk for _, chunk, *_ in run.places())
        if dead:
            for n, version in after.versions.items():
                replaced = n in before.versions and before.versions[n].metadata.run != version.metadata.run
                with suppress(ArtifactError):  # not to be had now: what it names is dropped, too
                    live = self.run(version) if replaced else self._held(version.metadata.run)
                    dead.difference_update(chunk for _, chunk, *_ in (live.places() if live is not None else ()))
            self._cache.forget_chunks(dead)
        for version in gone:
            for digest in filter(None, (version.metadata.run, version.metadata.full)):
                self._runs.pop(digest, None)
                self._cache.forget_file("runs", digest.hex())
            if version.n not in after.versions:
                chain = [before.versions[n] for n in before.chain(version.n)]
                self._cache.forget_file("tables", _chain_name(_chain_digests(chain)))
                self._cache.state_forget(self._card_key(version))

    def _held(self, digest: bytes) -> Run | None:
        """A run that is at hand without asking the store."""
        return self._runs.get(digest) or self._cached_run(digest)

    def runs(self, state: State, table: Table) -> list[Run]:
        """The runs that a table's rows come from, in the order of its `origins`."""
        writers = state.writers()
        return self._load_all([writers[digest] for digest in table.origins], table.origins)

    def _load_all(self, versions: Sequence[Version | StatePart], digests: list[bytes]) -> list[Run]:
        if len(versions) == 1:
            return [self._load(versions[0], digests[0])]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(self._load, versions, digests))

    def _load(self, version: Version | StatePart, digest: bytes) -> Run:
        run = self._runs.get(digest)
        if run is not None:
            return run
        run = self._cached_run(digest)
        if run is None:
            _, delta, full = self._read(version)
            content = delta if digest == version.metadata.run else full
            run = self._cached_run(digest) or Run(content, digest, name=self.artifact.cipher.chunking.digest)
        self._runs[digest] = run
        return run

    def cached_runs(self, state: State) -> Iterator[Run]:
        """The runs of live versions, deltas and whole manifests, that the cache holds."""
        for version in state.versions.values():
            for digest in (version.metadata.run, version.metadata.full):
                run = self._cached_run(digest) if digest is not None else None
                if run is not None:
                    yield run

    def _cached_run(self, digest: bytes) -> Run | None:
        """A run from the cache, where it is what it is called. What was checked before it was written need not be checked again."""
        path = self._cache.file_path("runs", digest.hex())
        if path is None:
            return None
        try:
            view = read_in_place(path)
        except OSError:
            return None  # swept, or the whole cache deleted, a moment ago
        found = blake3(view).digest()
        _let_go(view)
        return Run(view, digest, check=False) if found == digest else None

    def _read(self, version: Version | StatePart) -> tuple[bytes, bytes, bytes]:
        """`read_stored`, and all three kept in the cache: who wants one mostly wants another soon, and they came together. A run that is
        none is not kept: what comes out of the cache is not checked again, and its digest proves who wrote it, not that it is right."""
        card, delta, full = self.read_stored(version)
        self._cache.state_put(self._card_key(version), card)
        for digest, content in ((version.metadata.run, delta), (version.metadata.full, full)):
            if digest is not None:
                with contextlib.suppress(CorruptError):  # who wants that one finds out; the others can be had all the same
                    Run(content, digest, name=self.artifact.cipher.chunking.digest)
                    self._cache.put_file("runs", digest.hex(), [content])
        return card, delta, full

    def read_stored(self, version: Version | StatePart) -> tuple[bytes, bytes, bytes]:
        """Card, delta and whole manifest (or nothing) of a version or part, from its metadata packs in the store.

        Raises KeyMissingError when a newer state no longer has them, CorruptError.
        """
        metadata, cipher = version.metadata, self.artifact.cipher
        wanted = metadata.run_length + metadata.full_length
        if len(metadata.packs) > 3 + wanted // PIECE:  # a card, and the pieces of two runs: a range could name 10^8 packs
            raise CorruptError(f"{self.artifact.name}: the metadata of a version lies in more packs than it has pieces")
        card: bytes | None = None
        columns = bytearray()  # grows with what came, never on the word of a length
        for pack in metadata.packs:
            stored = self._store.get(self.artifact.pack_key(pack), 0, PACK_BYTES)
            for row in cipher.whole(pack, stored):
                if row.plain > max(RATIO_LIMIT * row.stored, 4096) or len(columns) + (row.plain if card is not None else 0) > wanted:
                    raise CorruptError(f"{self.artifact.pack_key(pack)} holds more than its version says")
                piece = cipher.chunk(pack, row.offset, stored[row.offset : row.offset + row.stored], row.plain, row.digest)
                if card is None:
                    card = piece
                else:
                    _check_room(len(columns), self.artifact.name)
                    columns += piece
        card = card or b""
        delta, full = bytes(memoryview(columns)[: metadata.run_length]), bytes(memoryview(columns)[metadata.run_length :])
        if len(columns) != wanted or blake3(delta).digest() != metadata.run or (full and blake3(full).digest() != metadata.full):
            raise CorruptError(f"{self.artifact.name}: the metadata of a version is not what its log says")
        return card, delta, full


def _check_room(held: int, name: str) -> None:
    """Refuse a run for which there is no memory: a small one may unpack to 256 times its size, and more of them may follow."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", "rb") as file:
        free = next((int(line.split()[1]) << 10 for line in file if line.startswith(b"MemAvailable:")), 1 << 62)
        if free < held + _SPARE:  # it is copied once when it is whole
            raise RefusedError(f"{name}: a version's list of files takes more memory than this machine has left ({held:,} bytes and more)")


def _chain_digests(chain: list[Version]) -> list[bytes]:
    """The runs to merge: the first version's whole manifest if it has one, else its delta against nothing; then the deltas."""
    return [chain[0].metadata.full or chain[0].metadata.run, *(link.metadata.run for link in chain[1:])]


def _chain_name(digests: Iterable[bytes]) -> str:
    return blake3(b"".join(digests)).hexdigest()


def _open_table(path: str, root: bytes) -> Table | None:
    try:
        view = read_in_place(path)
        table = Table(view)
        _let_go(view)
    except (CorruptError, OSError):
        return None  # the cache may be damaged or swept: it is only a cache
    return table if table.root == root else None


def pieces_of(columns: bytes, chunking: Chunking = PLAIN_CHUNKING) -> Iterable[tuple[Buffer, bytes, int]]:
    """The bytes of a card or run as chunks for a metadata pack: (stored bytes, digest, plain length)."""
    for start in range(0, len(columns), PIECE):
        piece = columns[start : start + PIECE]
        _, stored = compress(piece)
        if len(piece) > max(RATIO_LIMIT * len(stored), 4096):
            stored = piece
        yield stored, chunking.digest(piece), len(piece)
