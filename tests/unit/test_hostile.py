"""A bucket, a mirror or a folder made by an enemy does no harm to who reads it: what was found once, by name, and a short run of the rest.

The long run is scripts/check_hostile.py; what it makes its input from is in hostile.py and enemy.py, what it does with it in gauntlet.py.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifactmount import artifact
from artifactmount.acts import Commit, Counts, Metadata, PutVersion, SetAlias
from artifactmount.artifact import Artifact, Writer, head
from artifactmount.cache import Cache
from artifactmount.card import Card
from artifactmount.catalog import Catalog
from artifactmount.digest import chunk_digest, content_digest
from artifactmount.download import download
from artifactmount.errors import ArtifactError, CorruptError, KeyMissingError, RefusedError, StoreError, UsageError
from artifactmount.fetch import Fetcher
from artifactmount.fold import fold
from artifactmount.log import Entry, decode_checkpoint, encode_checkpoint
from artifactmount.merge import merge
from artifactmount.names import Reference
from artifactmount.pack import PackBuilder, Place
from artifactmount.plain import PlainFormatter, plain
from artifactmount.project import Project
from artifactmount.ranges import PackId, PackRanges
from artifactmount.reference import Referent
from artifactmount.rows import Change, Kind, mode_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.state import State
from artifactmount.steps import Delete, GetMany
from artifactmount.store.folder import FolderStore
from artifactmount.store.memory import MemoryStore
from artifactmount.target import Target
from artifactmount.verify import verify
from tests.unit.enemy import ARTIFACT, Forge, Row, bomb, forged
from tests.unit.gauntlet import Told, as_typed, check_plain, through_the_library
from tests.unit.hostile import STATE, digest, fold_any, hostile_input, packs, take_in
from tests.unit.liars import HostileSource, LyingStore, hostile_sources
from tests.unit.mutations import TEXTS

WIDE = PackRanges(((0, 0, 10**8 - 1),))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(str(tmp_path / "cache"), 64 << 20)
    yield made
    made.close()


def honest(number: int) -> Forge:
    """A project of one version, in which nothing is wrong."""
    forge = Forge(number)
    forge._twist = lambda name, likely: False  # type: ignore[method-assign]
    forge._version()
    return forge


# -- the short run ---------------------------------------------------------------------------------------------------------------------
def test_made_up_bytes() -> None:
    taken = sum(take_in(*hostile_input(seed)) for seed in range(1500))
    assert 50 < taken < 1450  # both, or it tests nothing
    assert sum(fold_any(seed) for seed in range(50)) > 50


def test_an_enemys_stores(tmp_path: Path, cache: Cache) -> None:
    told = Told()
    for seed in range(10_000, 10_008):
        forge, folder = forged(seed), tmp_path / str(seed)
        folder.mkdir()
        through_the_library(LyingStore(forge.store, seed) if seed % 3 == 0 else forge.store, cache, folder, told, seed)
        if seed == 10_001:
            project = folder / "project"
            for item in forge.store.list_keys(""):
                (project / item.key).parent.mkdir(parents=True, exist_ok=True)
                (project / item.key).write_bytes(forge.store.get(item.key))
            as_typed(project, tmp_path, told)
    assert {"download", "verify", "mount read", "ls"} <= told.answers.keys()


@pytest.mark.parametrize("seed", [10_019, 10_010])
def test_a_store_of_an_enemy_who_has_the_key_is_read(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Or that nothing happens in the others would only say that they do not open. In one of them references are followed."""
    forge, told, asked = forged(seed), Told(), list[str]()

    def read(source: HostileSource, referent: Referent, size: int, start: int, stop: int, honest: Any = HostileSource.read) -> Any:
        asked.append(referent.uri)
        return honest(source, referent, size, start, stop)

    monkeypatch.setattr(HostileSource, "read", read)
    assert "encrypted" in forge.twists
    through_the_library(forge.store, cache, tmp_path, told, seed)
    assert {"log", "verify", "list", "mount read", "mount getxattr"} <= told.answers.keys()
    assert bool(asked) == ("references" in forge.twists) == (seed == 10_010)


# -- the log ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "lie",
    [
        {"aliases": {"latest": 4, "../../x": 0}},
        {"aliases": {"latest": 4, "\x1b[31m": 0}},
        {"aliases": {"latest": 4, "v7": 0}},
        {"aliases": {"latest": 4, "best": 9}},
        {"aliases": {"best": 0}},
        {"versions": {}},
        {"versions": {0: STATE.versions[0], 4: replace(STATE.versions[4], base=None)}},
        {"versions": {0: STATE.versions[0], 4: replace(STATE.versions[4], digest=STATE.versions[0].digest)}},
        {"versions": {0: STATE.versions[0], 4: replace(STATE.versions[4], seq=10**9)}},
        {"next": 4},
        {"type": None},
        {"open": frozenset({10**9})},
        {"moved": {PackId(0, 0): PackId(4, 0), PackId(4, 0): PackId(4, 1)}},
    ],
)
def test_a_checkpoint_of_what_no_log_folds_to_is_refused(lie: dict[str, object]) -> None:
    """Its entry proves its bytes only, and both are the enemy's. `ls` printed such an alias, and failed without `latest`."""
    with pytest.raises(CorruptError, match="no log folds to"):
        decode_checkpoint(encode_checkpoint(replace(STATE, **lie)))  # type: ignore[arg-type]


def test_many_ops_over_many_ranges_are_merged_once() -> None:
    """One entry of 1 MiB took a minute when each op merged what all before it had named."""
    keep = PackRanges(tuple((0, 2 * n, 2 * n) for n in range(8_000)))
    state = State(0, digest("prev"), open=frozenset({0}))
    metadata = Metadata(packs((0, 0)), digest("run"), 10)
    puts = [PutVersion(n, n - 1 if n else None, digest(f"{n}"), Counts(), metadata, keep if not n else packs(), "t") for n in range(400)]
    entry = Entry(1, state.digest, bytes(16), "", "", "", Commit(0, keep, (*puts, SetAlias("latest", 399))))
    after, refusal = fold(state, entry, bytes(32))
    assert refusal is None and after.packs == keep


def test_a_store_that_has_an_answer_to_everything_has_no_head() -> None:
    forge = honest(1)
    log = [forge.store.get(forge.artifact.log_key(seq)) for seq in range(2)]

    def answers() -> None:
        steps = head(forge.artifact)
        step = next(steps)
        for _ in range(1000):
            assert isinstance(step, GetMany)
            step = steps.send([log[int(key[-16:])] if int(key[-16:]) < 2 else log[0] for key in step.keys])

    with pytest.raises(CorruptError):
        answers()


def test_trash_of_a_hundred_million_packs_is_not_all_deleted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "_TRASH_ROUNDS", 3)
    steps = artifact.finish_trash(Artifact("p", "a"), State(9, bytes(32), trash=WIDE), Writer("me", "test"))
    deleted, step = 0, next(steps, None)
    while step is not None:
        assert isinstance(step, Delete)
        deleted += len(step.keys)
        try:
            step = steps.throw(StoreError("no"))
        except StopIteration:
            break
    assert deleted == 30_000


# -- runs and manifests ----------------------------------------------------------------------------------------------------------------
def run_of(*rows: tuple[bytes, bytes, Row]) -> Run:
    builder = RunBuilder()
    for key, name, row in rows:
        builder.add(key, name, Change.ADDED, mode_of(row.kind), row.size, 0, row.digest, row.target, row.chunks, row.places)
    columns = builder.finish()
    return Run(columns, chunk_digest(columns))


def test_parents_that_are_not_there_take_no_memory() -> None:
    """2,048 parents of 2 kB each, for every directory that a run names: some kB were gigabytes."""
    empty = Row(Kind.FILE, digest=content_digest([]))
    run = run_of(*((b"\0".join([b"%03d" % n, *[b"d"] * 2000]), b"x", empty) for n in range(50)))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match="no directory of this version"):
            merge(None, [run])
        assert tracemalloc.get_traced_memory()[1] < 8 * len(run.buffer)
    finally:
        tracemalloc.stop()


def test_a_run_that_its_digest_proves_is_checked_before_it_is_kept(tmp_path: Path, cache: Cache) -> None:
    """It went into the cache first, and what comes out of there is not checked: an IndexError in whoever merged it."""
    forge = honest(9)
    make = forge._run
    front = struct.Struct("<4sB3x8Q")

    def with_an_empty_directory(rows: dict[tuple[bytes, bytes], Row]) -> bytes:
        run = make(rows)
        fields = list(front.unpack_from(run))
        d, heap = fields[3], fields[7]
        counts_at, heap_at, rest = front.size + 2 * d, front.size + 6 * d, front.size + 6 * d + heap
        fields[3], fields[7] = d + 1, heap + 1
        directories = run[front.size : counts_at] + b"\1\0" + run[counts_at:heap_at] + bytes(4) + run[heap_at:rest] + b"z"
        return front.pack(*fields) + directories + run[rest:]

    forge._run = with_an_empty_directory  # type: ignore[method-assign]
    forge._version()
    project = Project(forge.store, cache, str(tmp_path / "state"))
    catalog, state = project.catalog(ARTIFACT), project.existing(ARTIFACT)
    assert catalog.card(state.versions[1]).note == "a note"
    for _ in range(2):  # also when it was read before
        with pytest.raises(CorruptError, match="empty directory"):
            catalog.table(state, 1)
    assert catalog.table(state, 0).count


def test_a_target_with_a_nul_is_no_target() -> None:
    with pytest.raises(CorruptError, match="contradicts itself"):
        run_of((b"", b"x", Row(Kind.SYMLINK, 3, digest=chunk_digest(b"a\0b"), target=b"a\0b")))


def test_the_chunks_of_a_large_file_are_made_when_they_are_asked_for() -> None:
    place = Place(PackId(0, 0), 0, 1, 2)
    names = [chunk_digest(b"%d" % n) for n in range(4)]
    places = [place._replace(plain=n + 1) for n in range(3)]
    three = Row(Kind.FILE, 6, digest=content_digest(names[:3]), chunks=b"".join(names[:3]), places=places)
    one = Row(Kind.FILE, 2, digest=names[3], chunks=names[3], places=[place])
    run = run_of((b"", b"a", one), (b"", b"b", three), (b"", b"c", Row(Kind.FILE, digest=content_digest([]))))
    chunks = run.chunks(1)
    assert [chunk.digest for chunk in chunks] == names[:3] and len(chunks) == 3
    assert chunks[-1] == chunks[2] and chunks[1:] == [chunks[1], chunks[2]] and chunks[0].place.plain == 1
    with pytest.raises(IndexError):
        chunks[3]
    assert [list(run.chunk_starts(row)) for row in range(3)] == [[0, 2], [0, 1, 3, 6], [0]]
    count = 1 << 15
    many = Row(
        Kind.FILE, count, digest=content_digest(names[:1] * count), chunks=names[0] * count, places=[place._replace(plain=1)] * count
    )
    run = run_of((b"", b"many", many))
    run.chunks(0)[0]
    tracemalloc.start()
    try:
        assert len(run.chunks(0)) == count
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_metadata_in_a_hundred_million_packs_is_refused_before_one_is_read(cache: Cache) -> None:
    forge = honest(2)
    catalog = Catalog(forge.store, cache, forge.artifact)
    version = forge._state().versions[0]
    wide = replace(version, metadata=replace(version.metadata, packs=WIDE))
    with pytest.raises(CorruptError, match="more packs than"):
        catalog.read_stored(wide)


def test_a_pack_that_unpacks_to_a_gigabyte_is_unpacked_as_far_as_is_wanted(tmp_path: Path, cache: Cache) -> None:
    forge = honest(3)
    builder, rows = bomb()
    forge.store.create(forge.artifact.pack_key(PackId(0, 40)), builder.finish())
    fetcher = Fetcher(Project(forge.store, cache, str(tmp_path / "state")), ARTIFACT)
    wanted = rows[300][0]
    found = fetcher.whole_pack(PackId(0, 40), forge._state(), wanted)
    assert len(found) == 32 and next(iter(found)) == wanted


def test_a_card_of_another_store_is_not_shown(cache: Cache) -> None:
    """Two stores that say they are the same project: nothing in the log proves a card, so the cache must not mix them up."""
    forge = honest(4)
    other = MemoryStore("memory:other")
    pack = PackBuilder()
    evil = Card("evil").encode()
    pack.add(chunk_digest(evil), len(evil), evil)
    version = forge._state().versions[0]
    columns = Catalog(forge.store, cache, forge.artifact).read_stored(version)[1]
    pack.add(chunk_digest(columns), len(columns), columns)
    other.create(forge.artifact.pack_key(next(iter(version.metadata.packs))), pack.finish())
    assert Catalog(other, cache, forge.artifact).card(version).note == "evil"
    assert Catalog(forge.store, cache, forge.artifact).card(version).note == "a note"


def test_metadata_is_not_nested_deeper_than_can_be_shown() -> None:
    deep: object = "x"
    for _ in range(900):
        deep = {"a": [deep]}
    with pytest.raises(UsageError, match="nested"):
        Card("", {"k": deep}).encode()
    flat = Card("", {"k": [[[["x"]]]]}).encode()
    assert Card.decode(flat).encode() == flat


# -- stores ----------------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    store = FolderStore(str(tmp_path / "store"))
    store.create("a/b/0", b"zero")
    return store


def test_nothing_is_swept_through_a_link(tmp_path: Path, folder: FolderStore) -> None:
    """In a shared folder project, a link in the place of `.tmp` led the first writer to delete whatever was older than a day."""
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("thesis.tex", "1-abcdef0123456789"):
        (precious / name).write_bytes(b"years")
        os.utime(precious / name, (0, 0))
    (tmp_path / "store" / ".tmp").rmdir()
    (tmp_path / "store" / ".tmp").symlink_to(precious)
    with pytest.raises(StoreError, match="a link, which a store does not follow"):
        FolderStore(str(tmp_path / "store")).create("a/b/1", b"one")
    assert sorted(os.listdir(precious)) == ["1-abcdef0123456789", "thesis.tex"]


def test_what_is_not_ours_among_temporary_files_is_left_alone(tmp_path: Path, folder: FolderStore) -> None:
    strange = tmp_path / "store" / ".tmp" / "notes.txt"
    strange.write_bytes(b"mine")
    os.utime(strange, (0, 0))
    FolderStore(str(tmp_path / "store")).create("a/b/1", b"one")
    assert strange.exists()


def test_a_folder_store_follows_no_link(tmp_path: Path, folder: FolderStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_bytes(b"mine")
    (tmp_path / "store" / "a" / "c").symlink_to(outside)
    with pytest.raises(KeyMissingError):
        folder.get("a/c/0")
    with pytest.raises(StoreError):
        folder.create("a/c/1", b"one")
    folder.delete(["a/c/0"])
    assert folder.list_keys("a/c/") == [] and folder.list_prefixes("a/c/") == []
    assert os.listdir(outside) == ["0"]


def test_a_fifo_is_no_key(tmp_path: Path, folder: FolderStore) -> None:
    os.mkfifo(tmp_path / "store" / "a" / "b" / "1")  # a read would wait for a writer for ever
    with pytest.raises(KeyMissingError):
        folder.get("a/b/1")


class Repeats(MemoryStore):
    """Lists the same thousand names, or keys, again and again."""

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        return [f"n{n:03d}" for n in range(limit)]


def test_a_listing_that_does_not_advance_ends(tmp_path: Path, cache: Cache) -> None:
    project = Project(Repeats(), cache, str(tmp_path / "state"), create=True)
    assert len(project.names()) == 1000


def test_verify_stops_where_it_has_seen_enough(tmp_path: Path, cache: Cache) -> None:
    """A log of some bytes names 10^8 packs that are not there: that is one finding, not 10^8 lines."""
    forge = honest(5)
    forge._twist = lambda name, likely: name == "wide packs"  # type: ignore[method-assign]
    forge._version()
    report = verify(Project(forge.store, cache, str(tmp_path / "state")), None)
    assert 1000 < len(report.problems) < 1100 and "nothing further" in report.problems[-1]


# -- texts -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", [*TEXTS, "a\udc9bb", "\udcc2\udc9b2J", "é\udce9", "\u2028"])
def test_a_text_of_a_stranger_moves_no_cursor(text: str) -> None:
    check_plain(plain(text))


def test_what_is_text_is_left_as_it_is() -> None:
    for text in ("käse – ☃", "caf\udce9", "a b"):
        assert plain(text) == text


def test_a_log_line_is_one_line() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "entry by %s", ("\x1b[2J\nroot# \udcc2\udc9b",), None)
    line = PlainFormatter("artifactmount: %(message)s").format(record)
    check_plain(line)
    assert line == "artifactmount: entry by ?[2J?root# ?"


# -- downloads -------------------------------------------------------------------------------------------------------------------------
def test_references_that_cannot_fit_are_refused_before_one_is_read(tmp_path: Path, cache: Cache) -> None:
    """The room was looked at chunk by chunk, and a version of references has none."""
    forge = Forge(10)
    forge._twist = lambda name, likely: False  # type: ignore[method-assign]
    record = Referent("http://evil.example/x", '"abc"').encode()
    forge._rows = lambda session: {(b"", b"big"): Row(Kind.REFERENCE, 1 << 53, 1, chunk_digest(record), record)}  # type: ignore[method-assign]
    forge._version()
    project = Project(forge.store, cache, str(tmp_path / "state"))
    with pytest.raises(RefusedError, match="has room for"):
        download(project, Reference(ARTIFACT, "v0"), str(tmp_path / "out"), sources=hostile_sources(1))


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path: Path, cache: Cache) -> None:
    forge = Forge(6)
    forge._twist = lambda name, likely: False  # type: ignore[method-assign]
    _, rows = bomb()
    count = 2 * shutil.disk_usage(tmp_path).free // (2 << 20) + 1  # twice what is free: others may delete files meanwhile
    if count > 1 << 20:
        pytest.skip("more than 2 TB are free here")
    digests, place = rows[0][0] * count, Place(PackId(0, 30), rows[0][1], rows[0][2], 2 << 20)
    big = Row(Kind.FILE, count << 21, 1, content_digest([rows[0][0]] * count), b"", digests, [place] * count)
    forge._rows = lambda session: {(b"", b"big"): big}  # type: ignore[method-assign]
    forge._version()
    project = Project(forge.store, cache, str(tmp_path / "state"))
    with pytest.raises(RefusedError, match="nothing was written"):
        download(project, Reference(ARTIFACT), str(tmp_path / "target"))
    assert os.listdir(tmp_path / "target") == []


def test_a_folder_full_of_traps(tmp_path: Path, cache: Cache) -> None:
    """Links, FIFOs and folders where files are to be: refused, or replaced; never written through."""
    forge = honest(7)
    project, target, outside = Project(forge.store, cache, str(tmp_path / "state")), tmp_path / "target", tmp_path / "outside"
    download(project, Reference(ARTIFACT), str(target))
    outside.mkdir()
    # Not by Path.rglob, which before Python 3.11.4 ends at a link that leads to a name too long for the system.
    below = [Path(folder, name) for folder, _, names in os.walk(target) for name in names]
    files = [path for path in below if not path.is_symlink() and path.is_file()]
    for number, path in enumerate(files):
        path.unlink()
        mine = outside / str(number)
        mine.write_bytes(b"mine")
        match number % 3:
            case 0:
                path.symlink_to(mine)
            case 1:
                os.mkfifo(path)
            case _:
                os.link(mine, path)
    with pytest.raises(RefusedError, match="differ"):
        download(project, Reference(ARTIFACT), str(target))
    download(project, Reference(ARTIFACT), str(target), overwrite=True)
    assert files and all(not path.is_symlink() and path.is_file() for path in files)
    assert all((outside / str(number)).read_bytes() == b"mine" for number in range(len(files)))
    (folder,) = (path for path in target.iterdir() if not path.is_symlink() and path.is_dir())
    folder.rename(tmp_path / "moved")
    folder.symlink_to(outside)
    with pytest.raises(RefusedError):
        download(project, Reference(ARTIFACT), str(target), overwrite=True)
    assert len(os.listdir(outside)) == len(files)


def test_folders_that_become_links_while_they_are_written_to_lead_nowhere(tmp_path: Path) -> None:
    """A real race: a thread turns a folder of the target, and the target itself, into links and back, all the while."""
    outside, root = tmp_path / "outside", tmp_path / "target"
    for path in (outside, outside / "d", outside / "target", outside / "target" / "d"):
        path.mkdir()
    over, turns, written = threading.Event(), 0, 0

    def turn() -> None:
        nonlocal turns
        while not over.is_set():
            for path, to in ((root / "d", outside / "d"), (root, outside / "target")):
                try:
                    path.rename(path.with_name(path.name + "-aside"))
                    path.symlink_to(to)
                    path.unlink()
                    path.with_name(path.name + "-aside").rename(path)
                    turns += 1
                except OSError:
                    pass  # the other one was in between

    thread = threading.Thread(target=turn)
    (root / "d").mkdir(parents=True)
    with Target(str(root)) as target:
        thread.start()
        try:
            while turns < 300 or written < 100:
                target._folders.close()  # each time by path, as a tree of more than 128 folders would be
                try:
                    part = target.part(5, False)
                    part.write(0, b"hello")
                    target.name_part(part, b"d", b"file", 1)
                    target.link(b"d", b"link", b"/etc/passwd")
                    written += 1
                except ArtifactError:
                    pass  # something was in the way, or not there
        finally:
            over.set()
            thread.join()
    found = [path for path in outside.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert found == [] and sorted(os.listdir(outside)) == ["d", "target"] and os.listdir(outside / "target") == ["d"]
