"""Inodes, the namespace and the reader without a kernel: arithmetic, and how often the store is asked."""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from artifactmount.alias import move
from artifactmount.cache import Cache
from artifactmount.delete import delete_versions
from artifactmount.errors import CorruptError, GoneError, NotDirectoryError, UnreachableError
from artifactmount.manifest import ROOT_ROW
from artifactmount.names import parse
from artifactmount.namespace import Namespace
from artifactmount.pack import PACK_BYTES
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.snapshot import Options, take
from artifactmount.store import Listed, Store
from artifactmount.store.memory import MemoryStore
from artifactmount.tree import ROOT_INODE, ArtifactDirectory, Attributes, Directory, File, Link, NamespaceRoot, Tree, as_directory
from tests.fuse.mounts import write

MEBI = 1 << 20
PIECE = 128 << 10


class CountingStore:
    """A store over another: it notes what was read, can hold every read back, and can be out of reach."""

    def __init__(self, store: Store) -> None:
        self._store, self.url, self.place = store, store.url, store.place
        self.reads: list[tuple[str, int, int | None]] = []
        self.open = threading.Event()
        self.open.set()
        self.reachable = True

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        self.reads.append((key, start, stop))
        self.open.wait()
        self._check()
        return self._store.get(key, start, stop)

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        self._check()
        return self._store.create(key, data)

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        self._check()
        return self._store.list_keys(prefix, after, limit)

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        self.open.wait()
        self._check()
        return self._store.list_prefixes(prefix, after, limit)

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        self._store.delete(keys)

    def clock(self) -> float:
        """See Store."""
        return self._store.clock()

    def close(self) -> None:
        """See Store."""

    def _check(self) -> None:
        if not self.reachable:
            raise UnreachableError("nobody there")

    def content_reads(self) -> list[tuple[str, int, int | None]]:
        """The reads of packs."""
        return [read for read in self.reads if "/data/" in read[0]]


class World:
    """A store, a user who writes to it, and a second one, with a cache of his own, who only reads."""

    def __init__(self, root: Path, budget: int = 1 << 30) -> None:
        self.root, self.memory = root, MemoryStore()
        self.store = CountingStore(self.memory)
        self.caches = [Cache(str(root / "writer"), 1 << 30), Cache(str(root / "reader"), budget)]
        self.writer = Project(self.memory, self.caches[0], str(root / "writer-state"), create=True)
        self.reader = Project(self.store, self.caches[1], str(root / "reader-state"))
        self.staging = root / "staging"

    def snapshot(self, name: str, files: dict[str, bytes]) -> int:
        """Write these into the staging folder, and make a version of it."""
        write(self.staging, files)
        return take(self.writer, str(self.staging), name, Options()).version


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world, let go of in the end."""
    made = World(tmp_path)
    yield made
    for cache in made.caches:
        cache.close()


class Eyes:
    """What the kernel's requests come to: looking names up, and reading."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.hopper, self.tree = Hopper(nursery), Tree(1)
        self.namespace, self.reader = Namespace(world.reader, self.tree, self.hopper), Reader(world.reader, self.hopper)

    async def look(self, artifact: str, version: str, *names: str) -> Attributes:
        """What stands at a path."""
        assert await self.namespace.in_root(artifact) is not None
        found = await self.namespace.in_artifact(artifact, version)
        for name in names:
            assert found is not None
            place = as_directory(self.tree.place(found.inode))
            assert isinstance(place, Directory)
            await self.namespace.load(place.slot)
            found = self.tree.find(place, os.fsencode(name))
        assert found is not None
        return found

    async def file(self, artifact: str, version: str, *names: str) -> File:
        """The file at a path, its run loaded."""
        place = self.tree.place((await self.look(artifact, version, *names)).inode)
        assert isinstance(place, File)
        return place


def seeing(world: World, act: Callable[[Eyes], Awaitable[None]]) -> None:
    """Do something under trio, for a short time."""

    async def run() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await act(Eyes(world, nursery))
                nursery.cancel_scope.cancel()

    trio.run(run)


@contextmanager
def held_back(store: CountingStore) -> Iterator[None]:
    """No read is answered before the block ends."""
    store.open.clear()
    try:
        yield
    finally:
        store.open.set()


# -- inodes --------------------------------------------------------------------------------------------------------------------------
def test_the_namespace_has_slot_zero() -> None:
    tree = Tree(5)
    assert tree.place(ROOT_INODE) == NamespaceRoot()
    assert tree.name(NamespaceRoot()) == Attributes(ROOT_INODE, stat.S_IFDIR | 0o555, 0, 5, lasting=False)
    places: list[ArtifactDirectory | Link] = [ArtifactDirectory("a"), ArtifactDirectory("b"), Link(b"v0"), Link(b"a/v0")]
    shown = [tree.name(place) for place in places]
    assert [attributes.inode for attributes in shown] == [2, 3, 4, 5]
    assert [tree.place(attributes.inode) for attributes in shown] == places
    assert [tree.name(place) for place in places] == shown
    assert shown[3].mode == stat.S_IFLNK | 0o777 and shown[3].size == 4


def test_an_inode_is_its_slot_and_its_row(world: World) -> None:
    world.snapshot("a", {"folder/x": b"x", "folder/y": b"y", "z": b"z"})

    async def act(eyes: Eyes) -> None:
        root, folder = await eyes.look("a", "v0"), await eyes.look("a", "v0", "folder")
        files = [await eyes.look("a", "v0", *names) for names in (("folder", "x"), ("folder", "y"), ("z",))]
        assert root.inode & 0xFFFFFFFF == 0 and root.inode >> 32 == folder.inode >> 32 == 1
        assert {file.inode >> 32 for file in files} == {2}
        for attributes in (root, folder, *files):
            place = eyes.tree.place(attributes.inode)
            if isinstance(place, Directory):
                assert eyes.tree.directory(place.slot, place.row) == attributes
                assert attributes.inode == place.slot.number << 32 | place.row + 1 or place.row == ROOT_ROW
            else:
                assert isinstance(place, File) and attributes.inode == place.slot.number << 32 | place.row + 1
                assert eyes.tree.file(place) == attributes
        assert not root.lasting and folder.lasting and all(file.lasting for file in files)

    seeing(world, act)


def test_files_are_the_row_of_the_run_that_wrote_them_and_slots_are_never_shared(world: World) -> None:
    world.snapshot("a", {"same": b"1", "changing": b"1"})
    world.snapshot("a", {"changing": b"2"})
    world.snapshot("a", {"new": b"3"})

    async def act(eyes: Eyes) -> None:
        for order in (("v2", "v0", "v1"), ("v1", "v2", "v0")):
            same = {(await eyes.look("a", version, "same")).inode for version in order}
            changing = [(await eyes.look("a", version, "changing")).inode for version in order]
            roots = [(await eyes.look("a", version)).inode for version in order]
            assert len(same) == 1 and len(set(changing)) == 2
            slots = {*(inode >> 32 for inode in roots), *(inode >> 32 for inode in (*same, *changing))}
            assert len(slots) == 5  # three versions; the runs of v0 and v1
            place = eyes.tree.place(next(iter(same)))
            assert isinstance(place, File) and place.slot.version.n == 0

    seeing(world, act)


def test_a_version_that_was_looked_into_outlives_the_runs_it_came_from(world: World) -> None:
    """v1 lives, what v0 wrote of it was stored anew with v1's own run, and the cache is empty."""
    world.snapshot("a", {"old": b"0", "dead": b"x"})
    world.snapshot("a", {"old": b"0", "new": b"1"})
    assert world.staging.joinpath("old").exists()

    async def act(eyes: Eyes) -> None:
        await eyes.look("a", "v1", "new")
        delete_versions(world.writer, "a", [0])
        world.caches[1].clear()
        for name, content in (("old", b"0"), ("new", b"1")):
            assert bytes(await eyes.reader.read(await eyes.file("a", "v1", name), 0, 10)) == content

    seeing(world, act)


def test_an_inode_that_was_never_shown_is_none(world: World) -> None:
    world.snapshot("a", {"x": b"x"})

    async def act(eyes: Eyes) -> None:
        file = await eyes.look("a", "v0", "x")
        with pytest.raises(NotDirectoryError):
            as_directory(eyes.tree.place(file.inode))
        with pytest.raises((GoneError, IndexError)):
            eyes.tree.place(99 << 32)

    seeing(world, act)


def test_a_listing_goes_on_at_every_position(world: World) -> None:
    world.snapshot("a", {f"{number:03d}": b"" for number in range(50)})

    async def act(eyes: Eyes) -> None:
        root = eyes.tree.place((await eyes.look("a", "v0")).inode)
        assert isinstance(root, Directory)
        await eyes.namespace.load(root.slot)
        whole = list(eyes.tree.list(root, 0))
        assert [name for _, name, _ in whole] == [b"%03d" % number for number in range(50)]
        for position in (0, 1, 17, 49, 50, 51):
            assert list(eyes.tree.list(root, position)) == whole[position:]
        assert [eyes.tree.find(root, name) for _, name, _ in whole] == [attributes for _, _, attributes in whole]

    seeing(world, act)


# -- how often the store is asked ------------------------------------------------------------------------------------------------------
def test_many_who_miss_one_chunk_at_once_share_one_read(world: World) -> None:
    content = random.Random(1).randbytes(900_000)
    world.snapshot("a", {"one": content, "two": content[::-1]})

    async def act(eyes: Eyes) -> None:
        file, got = await eyes.file("a", "v0", "one"), list[bytes]()

        async def read(at: int) -> None:
            got.append(bytes(await eyes.reader.read(file, at, 1000)))

        world.store.reads.clear()
        async with trio.open_nursery() as nursery:
            with held_back(world.store):
                for number in range(50):
                    nursery.start_soon(read, number * 1000)
                await trio.testing.wait_all_tasks_blocked()
        assert sorted(got) == sorted(content[number * 1000 : number * 1000 + 1000] for number in range(50))
        assert len(world.store.content_reads()) == 1
        assert world.store.content_reads()[0][2] is not None  # of the chunk, not of the pack

    seeing(world, act)


def test_a_second_miss_in_a_pack_brings_the_pack(world: World) -> None:
    files = {f"{number:02d}": random.Random(number).randbytes(10_000) for number in range(40)}
    world.snapshot("a", files)

    async def act(eyes: Eyes) -> None:
        opened = {name: await eyes.file("a", "v0", name) for name in files}
        counts: list[int] = []
        world.store.reads.clear()
        for name, file in opened.items():
            assert bytes(await eyes.reader.read(file, 0, 20_000)) == files[name]
            counts.append(len(world.store.content_reads()))
        assert counts[:3] == [1, 2, 2] and counts[-1] == 2
        (first, start, stop), (second, *whole) = world.store.content_reads()
        assert first == second and stop is not None and stop - start <= 10_000 and whole == [0, PACK_BYTES]

    seeing(world, act)


def test_reading_a_large_file_from_its_head_takes_a_request_for_each_pack(world: World) -> None:
    content = random.Random(2).randbytes(64 * MEBI)
    world.snapshot("a", {"large": content})
    packs = {key.key for key in world.memory.list_keys("artifacts/a/data/") if key.size > MEBI}
    assert len(packs) in (4, 5)

    async def act(eyes: Eyes) -> None:
        file = await eyes.file("a", "v0", "large")
        world.store.reads.clear()
        for at in range(0, len(content), PIECE):
            assert bytes(await eyes.reader.read(file, at, PIECE)) == content[at : at + PIECE]
        await trio.testing.wait_all_tasks_blocked()
        assert {key for key, _, _ in world.store.content_reads()} == packs
        assert len(world.store.content_reads()) <= len(packs) + 3
        assert eyes.reader.cached(file)
        assert bytes(await eyes.reader.read(file, len(content) - 5, 100)) == content[-5:]
        assert await eyes.reader.read(file, len(content), 100) == b""

    seeing(world, act)


def test_reads_at_random_places_are_right(world: World) -> None:
    content = random.Random(3).randbytes(20 * MEBI)
    world.snapshot("a", {"large": content})

    async def act(eyes: Eyes) -> None:
        file, numbers = await eyes.file("a", "v0", "large"), random.Random(4)
        for _ in range(200):
            at, size = numbers.randrange(len(content)), numbers.choice((1, 4096, PIECE, 5 * MEBI))
            assert bytes(await eyes.reader.read(file, at, size)) == content[at : at + size]

    seeing(world, act)


def test_a_cache_that_takes_nothing_in_costs_requests_and_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path, budget=1000)
    files = {f"{number:02d}": random.Random(number).randbytes(50_000) for number in range(40)}
    world.snapshot("a", files)

    async def act(eyes: Eyes) -> None:
        for name, content in files.items():
            file = await eyes.file("a", "v0", name)
            assert bytes(await eyes.reader.read(file, 10, 60_000)) == content[10:]
        assert len([read for read in world.store.content_reads() if read[1:] == (0, None)]) <= 3  # memory holds the pack

    try:
        seeing(world, act)
    finally:
        for cache in world.caches:
            cache.close()


def test_the_same_file_in_a_newer_version_is_read_without_a_request(world: World) -> None:
    world.snapshot("a", {"same": b"s" * 100_000, "other": b"1"})
    world.snapshot("a", {"other": b"2"})

    async def act(eyes: Eyes) -> None:
        assert bytes(await eyes.reader.read(await eyes.file("a", "v0", "same"), 0, 10)) == b"s" * 10
        again = await eyes.file("a", "v1", "same")
        world.store.reads.clear()
        assert bytes(await eyes.reader.read(again, 0, 10)) == b"s" * 10
        assert world.store.content_reads() == []

    seeing(world, act)


def test_damage_is_an_error_for_whoever_reads_it_and_for_nobody_else(world: World) -> None:
    files = {name: random.Random(name).randbytes(50_000) for name in ("bad", "good", "well")}
    world.snapshot("a", files)
    key = max(world.memory.list_keys("artifacts/a/data/"), key=lambda listed: listed.size).key
    pack = bytearray(world.memory.get(key))
    pack[pack.index(files["bad"]) + 777] ^= 1
    world.memory.delete([key])
    assert world.memory.create(key, bytes(pack))

    async def act(eyes: Eyes) -> None:
        for _ in range(2):
            with pytest.raises(CorruptError, match=key):
                await eyes.reader.read(await eyes.file("a", "v0", "bad"), 0, 10)
        for name in ("good", "well"):
            assert bytes(await eyes.reader.read(await eyes.file("a", "v0", name), 0, 50_000)) == files[name]

    seeing(world, act)


# -- the namespace -------------------------------------------------------------------------------------------------------------------
def test_what_is_known_is_answered_at_once_when_the_store_hangs(world: World) -> None:
    world.snapshot("a", {"x": b"x"})

    async def act(eyes: Eyes) -> None:
        await eyes.look("a", "v0", "x")
        await eyes.namespace.list_root()
        with held_back(world.store):
            begin = trio.current_time()
            await eyes.look("a", "v0", "x")
            assert await eyes.namespace.in_artifact("a", "latest") is not None
            assert await eyes.namespace.in_root("a:latest") is not None
            assert trio.current_time() - begin < 0.5
            with pytest.raises(UnreachableError):  # nobody can say whether it is there; waited for, within bounds
                await eyes.namespace.in_root("unknown")
            assert 1 < trio.current_time() - begin < 4

    seeing(world, act)


def test_a_store_out_of_reach_takes_nothing_away(world: World) -> None:
    world.snapshot("a", {"x": b"x"})

    async def act(eyes: Eyes) -> None:
        file = await eyes.file("a", "v0", "x")
        assert bytes(await eyes.reader.read(file, 0, 10)) == b"x"
        before = await eyes.namespace.list_root(), await eyes.namespace.list_artifact("a")
        world.store.reachable = False
        assert (await eyes.namespace.list_root(), await eyes.namespace.list_artifact("a")) == before
        assert bytes(await eyes.reader.read(file, 0, 10)) == b"x"
        with pytest.raises(UnreachableError):
            await eyes.namespace.in_artifact("a", "v7")
        with pytest.raises(UnreachableError):
            await eyes.namespace.in_root("other")
        assert await eyes.namespace.in_root("no name for an artifact") is None

    seeing(world, act)


def test_names_of_versions_and_aliases(world: World) -> None:
    world.snapshot("a", {"x": b"x"})
    world.snapshot("a", {"x": b"y"})
    move(world.writer, parse("a:v0"), ("best",))

    async def act(eyes: Eyes) -> None:
        listed = dict(await eyes.namespace.list_artifact("a"))
        assert list(listed) == ["v0", "v1", "best", "latest"]
        for name, target in (("best", b"v0"), ("latest", b"v1")):
            assert eyes.tree.place(listed[name].inode) == Link(target)
            assert await eyes.namespace.in_artifact("a", name) == listed[name]
        for name in ("a:best", "a:v1", "a:latest"):
            found = await eyes.namespace.in_root(name)
            assert found is not None and eyes.tree.place(found.inode) == Link(b"a/" + name[2:].encode())
        for name in ("b", "a:", ":v0", "a:v2", "a:b", "a:v0:v0", "a/b", "", "."):
            assert await eyes.namespace.in_root(name) is None, name

    seeing(world, act)


def test_a_name_that_is_new_is_found_also_when_a_refresh_has_just_begun(world: World) -> None:
    """After a second the look at the artifact begins a refresh behind it; the look at the version must wait for that one."""
    world.snapshot("a", {"x": b"x"})

    async def act(eyes: Eyes) -> None:
        await eyes.look("a", "v0", "x")
        world.snapshot("a", {"x": b"y"})
        begin = trio.current_time()
        while trio.current_time() - begin < 1.05:  # until what is known is old
            await trio.sleep(0.01)
        await eyes.look("a", "v1", "x")
        move(world.writer, parse("a:v0"), ("best",))
        while trio.current_time() - begin < 2.2:
            await trio.sleep(0.01)
        assert await eyes.namespace.in_root("a:best") is not None

    seeing(world, act)


def test_a_state_is_read_at_most_once_a_second_and_only_when_somebody_looks(world: World) -> None:
    world.snapshot("a", {"x": b"x"})

    async def act(eyes: Eyes) -> None:
        await eyes.look("a", "v0", "x")
        world.store.reads.clear()
        for _ in range(1000):
            await eyes.namespace.in_artifact("a", "latest")
        await trio.testing.wait_all_tasks_blocked()
        assert len([key for key, _, _ in world.store.reads if "/log/" in key]) <= 1

    seeing(world, act)
