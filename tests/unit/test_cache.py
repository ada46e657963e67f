"""The cache: it may forget anything at any time, and must never lie, raise or take the process down with it."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifactmount.cache import Cache, Usage
from artifactmount.cache.environment import Environment
from artifactmount.cache.places import PlaceIndex
from artifactmount.cache.stats import StatCache
from artifactmount.digest import chunk_digest
from artifactmount.pack import Place
from artifactmount.ranges import PackId

REPOSITORY = Path(__file__).parent.parent.parent
KIB, MIB = 1 << 10, 1 << 20
HOUR = 3600

Chunk = tuple[bytes, bytes]


def chunks(count: int, size: int = 1000, seed: int = 0) -> list[Chunk]:
    """The same ones each time, in every process."""
    source = random.Random(seed)
    contents = [source.randbytes(size) for _ in range(count)]
    return [(chunk_digest(content), content) for content in contents]


@contextmanager
def cache_at(path: Path, budget: int = 64 * MIB) -> Iterator[Cache]:
    cache = Cache(str(path), budget)
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with cache_at(tmp_path / "cache") as cache:
        yield cache


def segments(path: Path | str) -> list[Path]:
    """The segment files, the oldest first."""
    return sorted((Path(path) / "segments").iterdir())


def hits(cache: Cache, wanted: list[Chunk]) -> int:
    """How many are here. None of them may be wrong."""
    found = [(cache.get_chunk(digest), content) for digest, content in wanted]
    assert all(got in (None, content) for got, content in found)
    return sum(got is not None for got, _ in found)


PRELUDE = """
import os, random, resource, sys
from artifactmount.cache import Cache
from tests.unit.test_cache import chunks, hits
"""


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process with the same cache. Killed at the end, if it still lives."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Its next line; empty when it ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(code: str, *arguments: object) -> str:
    """What it printed, once it ended well."""
    with child(code, *arguments) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


# -- chunks ----------------------------------------------------------------------------------------------------------------------------
def test_what_was_put_is_there_also_later(tmp_path: Path) -> None:
    items = [*chunks(50), (chunk_digest(b""), b"")]
    with cache_at(tmp_path) as cache:
        assert hits(cache, items) == 0 and not cache.has_chunk(items[0][0])
        cache.put_chunks(items)
        cache.put_chunks(items)  # what is here is not written again
        assert hits(cache, items) == len(items) and cache.has_chunk(items[0][0])
        assert cache.usage() == Usage(50_000, 0, 64 * MIB)
    with cache_at(tmp_path) as cache:
        assert hits(cache, items) == len(items)


@pytest.mark.parametrize("damage", ["flipped", "cut short", "deleted"])
def test_a_damaged_segment_is_a_miss_and_is_filled_again(cache: Cache, damage: str) -> None:
    items = chunks(10)
    cache.put_chunks(items)
    (segment,) = segments(cache.path)
    content = bytearray(segment.read_bytes())
    if damage == "flipped":
        content[2500] ^= 4
        segment.write_bytes(content)
    elif damage == "cut short":
        os.truncate(segment, 2500)
    else:
        segment.unlink()
    assert hits(cache, items) == {"flipped": 9, "cut short": 2, "deleted": 0}[damage]
    assert not cache.has_chunk(items[2][0])
    cache.put_chunks(items)
    assert hits(cache, items) == 10


def test_a_lying_index_is_a_miss(cache: Cache) -> None:
    """A flipped bit in the index may ask for another chunk, for no segment, for gigabytes, or for what pread refuses."""
    (first, second) = chunks(2)
    cache.put_chunks([first, second])
    right = cache.index.get("chunks", first[0])
    other = cache.index.get("chunks", second[0])
    assert right is not None and other is not None
    lies = [other, b"", right[:-1], right + b"x", b"\xff" * 8 + right[8:]]
    lies += [right[:8] + b"\xff" * 8 + right[16:], right[:8] + b"\x7f" + b"\xff" * 7 + right[16:], right[:16] + b"\xff" * 4]
    for lie in lies:
        assert cache.index.put_many("chunks", [(first[0], lie)])
        assert cache.get_chunk(first[0]) is None
        cache.put_chunks([first])
        assert hits(cache, [first, second]) == 2


def test_threads_share_a_cache(cache: Cache) -> None:
    sets = [chunks(40, 2000, seed % 4) for seed in range(8)]  # every set is put by two of them
    errors: list[BaseException] = []

    def work(items: list[Chunk]) -> None:
        try:
            for at in range(0, len(items), 10):
                cache.put_chunks(items[at : at + 10])
                assert hits(cache, items) >= at + 10
        except BaseException as error:  # noqa: BLE001 - raised below, where pytest sees it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(items,)) for items in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(hits(cache, items) == 40 for items in sets)


# -- the budget ------------------------------------------------------------------------------------------------------------------------
def test_the_budget_holds_after_every_put(tmp_path: Path) -> None:
    budget, items = 16 * MIB, chunks(96, 256 * KIB)
    with cache_at(tmp_path, budget) as cache:
        for at in range(0, len(items), 6):
            cache.put_chunks(items[at : at + 6])
            sizes = [segment.stat().st_size for segment in segments(tmp_path)]
            assert sum(sizes) <= budget and max(sizes) <= budget // 16
            assert cache.usage().chunks == sum(sizes)
        assert hits(cache, items[-40:]) == 40
        assert hits(cache, items) * 256 * KIB == cache.usage().chunks


def test_the_segment_used_least_recently_goes_first(tmp_path: Path) -> None:
    items = chunks(10, 512 * KIB)
    with cache_at(tmp_path, 4 * MIB) as cache:
        for at in range(0, 8, 2):  # four segments of two chunks
            cache.put_chunks(items[at : at + 2])
        for age, segment in enumerate(reversed(segments(tmp_path))):
            os.utime(segment, (0, HOUR * (100 - age)))
        assert cache.get_chunk(items[0][0]) is not None  # the oldest, but used now
        cache.put_chunks(items[8:])
        assert [cache.get_chunk(digest) is not None for digest, _ in items[::2]] == [True, False, True, True, True]


def test_a_chunk_larger_than_a_segment_is_not_kept(tmp_path: Path) -> None:
    large, small = chunks(1, MIB + 1), chunks(1, MIB)
    with cache_at(tmp_path, 16 * MIB) as cache:
        cache.put_chunks([*large, *small])
        assert hits(cache, large) == 0 and hits(cache, small) == 1


def test_evicted_segments_give_their_space_back(tmp_path: Path) -> None:
    """A file that is unlinked but open still takes its place on the disk: a daemon that read it once must not hold it for ever."""
    items = chunks(24, 256 * KIB)
    with cache_at(tmp_path / "cache", 2 * MIB) as cache:
        for item in items:
            cache.put_chunks([item])
            assert cache.get_chunk(item[0]) is not None  # opens its segment
        assert held(tmp_path) == []
        cache.clear()
        assert held(tmp_path) == [] and segments(cache.path) == []


def held(folder: Path) -> list[str]:
    """The deleted files below a folder that this process has open."""
    found: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue  # listdir's own
    return [path for path in found if path.startswith(str(folder)) and path.endswith("(deleted)")]


# -- several processes -----------------------------------------------------------------------------------------------------------------
WRITES_AND_WAITS = """
cache = Cache(sys.argv[1], 4 << 20)
cache.put_chunks(chunks(2, 1000, 7))
print("written", flush=True)
sys.stdin.readline()
assert hits(cache, chunks(2, 1000, 7)) == 2
print("still there", flush=True)
sys.stdin.readline()
"""


def test_what_a_process_writes_others_read_and_nobody_evicts(tmp_path: Path) -> None:
    theirs, mine = chunks(2, 1000, 7), chunks(20, 512 * KIB)
    with child(WRITES_AND_WAITS, tmp_path) as process, cache_at(tmp_path, 4 * MIB) as cache:
        assert said(process) == "written"
        assert hits(cache, theirs) == 2
        (segment,) = segments(tmp_path)
        os.utime(segment, (0, 0))
        cache.put_chunks(mine)  # five times the budget
        assert segment.exists() and hits(cache, theirs) == 2
        cache.clear()  # what others write stays a file; that it is known does not
        assert segment.exists() and hits(cache, theirs) == 0
        cache.put_chunks(theirs)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert said(process) == "still there"
        process.kill()
        process.wait()
        os.utime(segment, (0, 0))
        cache.put_chunks(mine)
        assert not segment.exists()


WRITES_FOR_EVER = """
cache, seed = Cache(sys.argv[1], 64 << 20), 0
while True:
    cache.put_chunks(chunks(5, 3000, seed))
    hits(cache, chunks(5, 3000, seed))
    print(seed, flush=True)
    seed += 1
"""


def test_a_killed_writer_leaves_only_what_is_right(tmp_path: Path) -> None:
    for turn in range(3):
        path = tmp_path / str(turn)
        with child(WRITES_FOR_EVER, path) as process:
            while (line := said(process)) != str(10 + turn):
                assert line
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            last = max([int(line) for line in process.stdout.read().splitlines()], default=10 + turn)
        with cache_at(path) as cache:
            for seed in range(last + 1):
                assert hits(cache, chunks(5, 3000, seed)) == 5
            rest = chunks(5, 3000, last + 1)
            hits(cache, rest)
            cache.put_chunks(rest)
            assert hits(cache, rest) == 5


def test_clearing_while_another_process_writes(tmp_path: Path) -> None:
    with child(WRITES_FOR_EVER, tmp_path) as process, cache_at(tmp_path) as cache:
        for turn in range(10):
            assert said(process) == str(turn)
            cache.clear()
            items = chunks(3, 500, 1000 + turn)
            cache.put_chunks(items)
            assert hits(cache, items) == 3


# -- what becomes of the directory while it is in use ------------------------------------------------------------------------------------
def test_deleting_the_directory_while_it_is_in_use(tmp_path: Path) -> None:
    items, path = chunks(10), tmp_path / "cache"
    with cache_at(path) as cache:
        cache.put_chunks(items)
        shutil.rmtree(path)
        hits(cache, items)
        cache.put_chunks(chunks(10, 1000, 1))
        hits(cache, chunks(10, 1000, 1))
        cache.state_put(b"key", b"value")
        assert cache.put_file("runs", "name", [b"a run"]) is not None
        with cache_at(path) as fresh:  # of the same process: it may not get the index that has no name any more
            fresh.put_chunks(items)
            assert hits(fresh, items) == 10
            assert ended("print(hits(Cache(sys.argv[1]), chunks(10)))", path) == "10"
            cache.clear()
        cache.put_chunks(items)
        hits(cache, items)


GARBLES = """
path, how = sys.argv[1:]
cache, items, source = Cache(path, 64 << 20), chunks(3000, 10), random.Random(1)
cache.put_chunks(items)
length = os.path.getsize(f"{path}/index/data.mdb")
descriptor = os.open(f"{path}/index/data.mdb", os.O_RDWR)
if how == "all":
    os.pwrite(descriptor, source.randbytes(length), 0)
elif how == "pages":
    os.pwrite(descriptor, source.randbytes(length - 8192), 8192)
elif how == "zeros":
    os.pwrite(descriptor, bytes(length), 0)
else:
    for _ in range(50):
        os.pwrite(descriptor, source.randbytes(1), source.randrange(length))
for _ in range(2):
    found = hits(cache, items)
    cache.put_chunks(items)
assert how == "bytes" or found == 0
cache.state_put(b"key", b"value")
cache.clear()
cache.close()
cache = Cache(path, 64 << 20)
cache.put_chunks(items)
print(hits(cache, items))
"""


@pytest.mark.parametrize("how", ["all", "pages", "zeros", "bytes"])
def test_a_garbled_index_is_misses_and_is_made_anew(tmp_path: Path, how: str) -> None:
    """In a process of its own: LMDB reads the file through a map, and a bad page could take down who asks."""
    assert ended(GARBLES, tmp_path / "cache", how) == "3000"


def test_an_index_that_is_none_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.mdb").write_bytes(b"no database " * 4000)
    with cache_at(tmp_path) as cache:
        cache.put_chunks(chunks(3))
        assert hits(cache, chunks(3)) == 3


def test_a_process_without_room_for_the_map_does_not_throw_away_the_index(tmp_path: Path) -> None:
    """`ulimit -v` is no damage: it would cost all other processes their cache."""
    with cache_at(tmp_path) as cache:
        cache.put_chunks(chunks(5))
        index = (tmp_path / "index" / "data.mdb").stat().st_ino
        code = """
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
cache = Cache(sys.argv[1])
cache.put_chunks(chunks(5, 1000, 1))
print(hits(cache, chunks(5)))
"""
        assert ended(code, tmp_path) == "0"
        assert hits(cache, chunks(5)) == 5
        assert (tmp_path / "index" / "data.mdb").stat().st_ino == index


def test_a_path_that_cannot_be_a_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with caplog.at_level(logging.WARNING), cache_at(tmp_path / "file" / "cache") as cache:
        for _ in range(3):
            cache.put_chunks(chunks(3))
            cache.state_put(b"key", b"value")
            assert cache.put_file("runs", "name", [b"a run"]) is None
        assert hits(cache, chunks(3)) == 0 and cache.state_get(b"key") is None and cache.usage().chunks == 0
        cache.clear()
    assert len(caplog.records) == 1 and "going on without it" in caplog.text


# -- a full disk -----------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        return filler
    finally:
        os.close(descriptor)


@pytest.mark.needs_root
def test_a_full_disk_costs_one_warning(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, large = chunks(20, 4 * KIB), chunks(20, 64 * KIB, 1)
    with caplog.at_level(logging.WARNING), cache_at(small_disk / "cache") as cache:
        cache.put_chunks(kept)
        cache.state_put(b"before", b"value")
        assert cache.put_file("runs", "before", [b"a run"]) is not None
        filler = fill(small_disk)
        for item in large:
            cache.put_chunks([item])
            cache.state_put(item[0], item[1][:2000])
            assert cache.put_file("runs", item[0].hex(), [item[1]]) is None
        assert hits(cache, kept) == 20
        hits(cache, large)
        assert cache.state_get(b"before") == b"value"
        assert cache.file_path("runs", "before") is not None
        assert len(caplog.records) == 1
        # Nothing half-written stays: neither temporary files, nor a new segment for every try.
        assert os.listdir(small_disk / "cache" / "runs") == ["before"]
        assert len(segments(cache.path)) <= 2
        filler.unlink()
        cache.put_chunks(large)
        assert hits(cache, large) == 20
    assert len(caplog.records) == 1


@pytest.mark.needs_root
def test_a_cache_opened_on_a_full_disk_kills_nobody(small_disk: Path) -> None:
    """LMDB maps its lock file writable: a hole in it on a full disk is a SIGBUS at the first touch, so in a process of its own."""
    filler = fill(small_disk)
    code = """
cache = Cache(sys.argv[1])
cache.put_chunks(chunks(5))
cache.state_put(b"key", b"value")
assert cache.put_file("runs", "name", [b"a run"]) is None
print(hits(cache, chunks(5)))
"""
    for _ in range(2):
        assert ended(code, small_disk / "cache") == "0"
    filler.unlink()
    with cache_at(small_disk / "cache") as cache:
        cache.put_chunks(chunks(5))
        assert hits(cache, chunks(5)) == 5


# -- whole files -----------------------------------------------------------------------------------------------------------------------
def test_a_file_is_there_whole_or_not_at_all(cache: Cache) -> None:
    assert cache.file_path("runs", "name") is None
    path = cache.put_file("runs", "name", [b"first ", bytearray(b"and "), memoryview(b"second")])
    assert path is not None and cache.file_path("runs", "name") == path and Path(path).read_bytes() == b"first and second"

    def stops() -> Iterator[bytes]:
        yield b"half"
        assert os.listdir(os.path.dirname(path)) != ["name"]  # it is being written, elsewhere
        raise InterruptedError  # as a ^C or a failing disk would

    with open(path, "rb") as reader:
        assert cache.put_file("runs", "name", stops()) is None
        assert Path(path).read_bytes() == b"first and second"
        assert os.listdir(os.path.dirname(path)) == ["name"]
        assert cache.put_file("runs", "name", [b"third"]) == path
        assert reader.read() == b"first and second"  # who has it open keeps it
    assert cache.usage().files == 5


def test_files_have_a_quarter_of_the_budget(tmp_path: Path) -> None:
    with cache_at(tmp_path, 4 * MIB) as cache:
        for i in range(3):
            path = cache.put_file("runs" if i % 2 else "tables", f"f{i}", [bytes(300 * KIB)])
            assert path is not None
            os.utime(path, (0, HOUR * (i + 1)))
        assert cache.file_path("tables", "f0") is not None  # used now: its turn is later
        cache.put_file("runs", "f3", [bytes(300 * KIB)])
        assert [cache.file_path(kind, name) is not None for kind, name in (("tables", "f0"), ("runs", "f1"), ("tables", "f2"))] == [
            True,
            False,
            True,
        ]
        assert cache.usage().files <= MIB
        # The newest stays whatever its size: somebody is about to map it.
        assert cache.put_file("runs", "large", [bytes(2 * MIB)]) == cache.file_path("runs", "large")
        assert cache.usage().files == 2 * MIB


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        with cache_at(path) as cache, StatCache(cache.path) as stats:
            cache.put_chunks(chunks(3))
            cache.put_file("runs", "name", [b"a run"])
            cache.put_file("tables", "name", [b"a table"])
            stats.put_many(b"staging", [(b"", b"value")])
    finally:
        os.umask(before)
    for folder, _, files in os.walk(path):
        assert os.stat(folder).st_mode & 0o777 == 0o700, folder
        for file in files:
            assert os.stat(os.path.join(folder, file)).st_mode & 0o777 == 0o600, file


def test_clearing(cache: Cache) -> None:
    with cache_at(Path(cache.path)) as other:  # a second user in this process
        cache.put_chunks(chunks(5))
        cache.state_put(b"key", b"value")
        cache.put_file("runs", "name", [b"a run"])
        assert hits(other, chunks(5)) == 5
        other.clear()
        assert hits(cache, chunks(5)) == 0 and cache.state_get(b"key") is None and cache.file_path("runs", "name") is None
        cache.put_chunks(chunks(5))
        assert hits(cache, chunks(5)) == hits(other, chunks(5)) == 5


# -- the environment -------------------------------------------------------------------------------------------------------------------
def test_one_environment_has_many_users_in_a_process(tmp_path: Path) -> None:
    """LMDB must not be opened twice by one process: its locks would be lost when one of them is closed."""
    first, second = Environment(str(tmp_path / "e"), ("t",)), Environment(str(tmp_path / "x" / ".." / "e"), ("t",))
    assert first.put_many("t", [(b"a", b"1"), (b"b", b"2")]) and second.get("t", b"a") == b"1"
    first.close()
    first.close()
    assert first.get("t", b"a") is None and not first.put_many("t", [(b"c", b"3")])
    assert second.items("t", b"") == [(b"a", b"1"), (b"b", b"2")] and second.put_many("t", [(b"c", b"3")])
    second.close()
    third = Environment(str(tmp_path / "e"), ("t",))
    assert third.get("t", b"c") == b"3" and third.get("t", b"d") is None and third.items("t", b"b") == [(b"b", b"2")]
    assert third.put_many("t", [(b"a", b"other")], overwrite=False) and third.get("t", b"a") == b"1"
    assert third.get("t", b"") is None and not third.put_many("t", [(b"x", b"1"), (b"k" * 600, b"too long")])
    assert third.get("t", b"x") is None  # all or nothing
    third.clear()
    assert third.items("t", b"") == []
    third.close()


def test_the_stat_cache_takes_paths_of_any_length(tmp_path: Path) -> None:
    long = b"\0".join([b"d" * 200] * 20)
    with StatCache(str(tmp_path)) as stats:
        stats.put_many(b"one", [(b"", b"root"), (long, b"long")])
        stats.put_many(b"two", [(b"", b"other")])
    with StatCache(str(tmp_path)) as stats:
        assert (stats.get(b"one", b""), stats.get(b"one", long), stats.get(b"one", long[:-1])) == (b"root", b"long", None)
        assert (stats.get(b"two", b""), stats.get(b"two", long)) == (b"other", None)


# -- places ----------------------------------------------------------------------------------------------------------------------------
ONE, TWO = b"1" * 16, b"2" * 16
OLD, NEW = b"o" * 32, b"n" * 32


def place(number: int) -> Place:
    return Place(PackId(3, number), 100 + number, 10, 20)


def test_places_count_for_who_knows_their_run(cache: Cache) -> None:
    index = PlaceIndex(cache, ONE, {OLD, NEW})
    assert index.synced_runs() == set() and index.find(b"a" * 32) is None
    index.add_run(OLD, iter([(b"a" * 32, place(0)), (b"b" * 32, place(1))]))
    index.add_run(NEW, [(b"b" * 32, place(2)), (b"c" * 32, place(3))])
    assert index.synced_runs() == {OLD, NEW}
    assert [index.find(key * 32) for key in (b"a", b"b", b"c", b"d")] == [place(0), place(1), place(3), None]
    # Somebody who knows that the old run is gone: its places are none, and are replaced by live ones.
    newer = PlaceIndex(cache, ONE, {NEW})
    assert [newer.find(key * 32) for key in (b"a", b"b", b"c")] == [None, None, place(3)]
    newer.add_run(NEW, [(b"b" * 32, place(2)), (b"c" * 32, place(3))])
    assert newer.find(b"b" * 32) == index.find(b"b" * 32) == place(2)


def test_places_of_an_artifact_are_its_own(cache: Cache) -> None:
    one, two = PlaceIndex(cache, ONE, {OLD, NEW}), PlaceIndex(cache, TWO, {OLD, NEW})
    one.add_run(OLD, [(b"a" * 32, place(0))])
    two.add_run(NEW, [(b"a" * 32, place(1))])
    one.reset()
    assert one.synced_runs() == set() and one.find(b"a" * 32) is None
    assert two.synced_runs() == {NEW} and two.find(b"a" * 32) == place(1)
    assert cache.index.put_many("places", [(TWO + b"a" * 32, b"garbled")])
    assert two.find(b"a" * 32) is None


def test_places_where_the_cache_takes_nothing_in(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with cache_at(tmp_path / "file") as cache:
        index = PlaceIndex(cache, ONE, {OLD, NEW})
        index.add_run(OLD, [(b"a" * 32, place(0))])
        index.add_run(NEW, [(b"a" * 32, place(1)), (b"b" * 32, place(2))])
        assert [index.find(key * 32) for key in (b"a", b"b", b"c")] == [place(0), place(2), None]
        index.reset()
        assert index.find(b"a" * 32) is None
