"""Trees put together from several places: read where they lie, equal to the same tree in one folder, never other than what was added."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactmount.assembly import AssembledStaging, Assembly, Kept, Referenced, Row, local_file, local_folder
from artifactmount.cache import Cache
from artifactmount.delete import delete_versions
from artifactmount.errors import NotFoundError, RefusedError, StagingError
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.proposal import Result
from artifactmount.reference import Referent
from artifactmount.snapshot import Options, take, take_staged
from artifactmount.store.memory import MemoryStore
from artifactmount.verify import verify

LATER = 10**10  # ns: beyond the racy window


class Machine:
    """A project in memory, and a folder for what is added. `opened`: what the last snapshot read."""

    def __init__(self, folder: Path, store: MemoryStore | None = None) -> None:
        self.folder = folder / "files"
        self.folder.mkdir(parents=True)
        self.cache = Cache(str(folder / "cache"))
        self.project = Project(store or MemoryStore(), self.cache, str(folder / "state"), create=True)
        self.opened: list[bytes] = []

    def write(self, name: str, content: bytes, *, executable: bool = False) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)
        return str(path)

    def take(self, assembly: Assembly, name: str = "pets", passed: int = 0) -> Result:
        machine = self
        machine.opened = []

        class Watched(AssembledStaging):
            def open(self, path: bytes) -> int:
                machine.opened.append(path)
                return super().open(path)

            def clock(self) -> int:
                return super().clock() + passed

        with Watched(assembly, name, self.project.artifact(name).cipher.chunking) as staging:
            return take_staged(self.project, staging, name, Options())

    def digest(self, result: Result) -> bytes:
        return self.project.existing(result.artifact).versions[result.version].digest

    def kept(self, name: str, path: bytes) -> Kept:
        """A row of the newest version."""
        state, catalog = self.project.existing(name), self.project.catalog(name)
        table = catalog.newest(state)
        origin, at = table.origin(table.lookup(path))
        return Kept(catalog.runs(state, table)[origin], at, f"{name}:v{state.highest}")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.cache.close()


def assembled(rows: dict[bytes, Row | None]) -> Assembly:
    assembly = Assembly()
    for path, row in rows.items():
        assembly.put(path, row)
    return assembly


def folder(path: str, at: bytes = b"") -> Assembly:
    assembly = Assembly()
    for key, rows in local_folder(path):
        assert assembly.fill(b"\0".join(part for part in (at, key) if part), rows)
    return assembly


def test_it_equals_the_same_tree_in_one_folder(machine: Machine) -> None:
    machine.write("one/cats/a.png", b"a")
    machine.write("one/run", b"#!", executable=True)
    machine.write("one/large", os.urandom(3 << 20))
    (machine.folder / "one/empty").mkdir()
    (machine.folder / "one/link").symlink_to("cats/a.png")
    labels = machine.write("labels.csv", b"a,b")
    assembly = folder(str(machine.folder / "one"))
    assembly.put(b"cats/labels.csv", local_file(labels))
    first = machine.take(assembly)
    machine.write("one/cats/labels.csv", b"a,b")
    second = take(machine.project, str(machine.folder / "one"), "pets", Options())
    assert first.changed and not second.changed and second.version == first.version
    assert (first.added, first.tracks) == (7, (3 << 20) + 2 + 1 + 3)


def test_what_did_not_change_is_not_opened_again(machine: Machine) -> None:
    assembly = folder(os.path.dirname(machine.write("in/a", b"a")), b"x")
    assembly.put(b"b", local_file(machine.write("b", b"b")))
    machine.take(assembly, passed=LATER)
    assert sorted(machine.opened) == [b"b", b"x/a"]
    again = folder(str(machine.folder / "in"), b"x")
    again.put(b"b", local_file(machine.write("other/c", b"c")))
    assert machine.take(again, passed=LATER).modified == 1 and machine.opened == [b"b"]


def test_a_file_that_changed_since_it_was_added_is_refused(machine: Machine) -> None:
    path = machine.write("model.pt", b"one")
    assembly = assembled({b"model.pt": local_file(path)})
    Path(path).write_bytes(b"other")
    with pytest.raises(StagingError, match=r"model.pt changed since it was added; nothing was committed; add it again"):
        machine.take(assembly)
    assert not machine.project.refresh("pets").versions
    Path(path).unlink()
    with pytest.raises(StagingError, match="changed"):
        machine.take(assembly)


def test_references_and_files_make_one_version_and_go_when_they_are_left_out(machine: Machine) -> None:
    record = Referent("s3://bucket/key", etag="1").encode()
    file = local_file(machine.write("a", b"a"))
    first = machine.take(assembled({b"a": file, b"far/away": Referenced(record, 5, 7)}))
    table = machine.project.catalog("pets").newest(machine.project.existing("pets"))
    row = table.lookup(b"far/away")
    assert (table.size(row), table.mtime(row), table.kind(row).name, first.tracks) == (5, 7, "REFERENCE", 6)
    assert machine.kept("pets", b"far/away").run.target(machine.kept("pets", b"far/away").row) == record
    second = machine.take(assembled({b"a": file}))
    assert (second.added, second.modified, second.removed) == (0, 0, 2)


def test_rows_of_a_version_are_neither_read_nor_stored_again(machine: Machine) -> None:
    machine.write("in/small", b"small")
    machine.write("in/large", os.urandom(3 << 20))
    (machine.folder / "in/link").symlink_to("small")
    machine.take(folder(str(machine.folder / "in")))
    kept: dict[bytes, Row | None] = {name: machine.kept("pets", name) for name in (b"small", b"large", b"link")}
    machine.take(assembled({b"new": local_file(machine.write("new", b"new"))}))
    result = machine.take(assembled({**kept, b"deep/large": kept[b"large"]}))
    assert machine.opened == [] and (result.version, result.adds, result.added, result.removed) == (2, 0, 5, 1)
    assert machine.kept("pets", b"link").run.target(machine.kept("pets", b"link").row) == b"small"


def test_rows_of_a_deleted_version_are_refused(machine: Machine) -> None:
    machine.take(assembled({b"a": local_file(machine.write("a", b"a"))}))
    kept = machine.kept("pets", b"a")
    machine.take(assembled({b"b": local_file(machine.write("b", b"b"))}))
    delete_versions(machine.project, "pets", [0])
    with pytest.raises(StagingError, match=r"a is of pets:v0, which was deleted meanwhile; nothing was committed"):
        machine.take(assembled({b"a": kept}))


def test_one_clock_for_several_places(machine: Machine) -> None:
    empty = AssembledStaging(Assembly(), "pets", machine.project.artifact("pets").cipher.chunking)
    assert empty.clock() == 0
    assert machine.take(Assembly()).added == 0


def test_many_places(machine: Machine) -> None:
    rows: dict[bytes, Row | None] = {b"%d" % n: local_file(machine.write(f"{n}/file", b"%d" % n)) for n in range(100)}
    assert machine.take(assembled(rows)).added == 100


def test_rows_and_folders_of_one_name(machine: Machine) -> None:
    file = local_file(machine.write("a", b"a"))
    assembly = assembled({b"a/b": file, b"c": None})
    for path, row in ((b"a", file), (b"a/b/c", file), (b"a/b", None), (b"c", file)):
        with pytest.raises(RefusedError, match="cannot be a file and a folder"):
            assembly.put(path, row)
    for path in (b"..", b"a/../b", b"x" * 256, b"a\0b", b"/".join([b"x" * 200] * 21)):
        with pytest.raises(RefusedError):
            assembly.put(path, file)
    assert [path for path, _ in assembly.rows()] == [b"a/b"] and machine.take(assembly).added == 3


def test_a_directory_is_filled_once(machine: Machine) -> None:
    file = local_file(machine.write("a", b"a"))
    assembly = assembled({b"x/y": file})
    assert not assembly.fill(b"x", {b"z": file}) and assembly.fill(b"x\0d", {b"e": None, b"f": file})
    assert dict(assembly.everything()) == {b"x": None, b"x/d": None, b"x/y": file, b"x/d/e": None, b"x/d/f": file}
    with pytest.raises(RefusedError):
        assembly.fill(b"x\0y", {b"z": file})
    with pytest.raises(RefusedError):
        assembly.fill(b"\0".join([b"k" * 200] * 20), {b"n" * 200: file})


def test_rows_are_taken_away(machine: Machine) -> None:
    file = local_file(machine.write("a", b"a"))
    assembly = assembled({b"a/b/c": file, b"a/d": file, b"ab": file})
    assert assembly.remove(b"a/b") == 1 and assembly.remove(b"a/d") == 1
    assert assembly.directories == {b"": {b"a": None, b"ab": file}, b"a": {}}
    for path in (b"a/b", b"a/b/c", b"nothing"):
        with pytest.raises(NotFoundError):
            assembly.remove(path)
    assert assembly.remove(b"") == 1 and assembly.directories == {b"": {}}


def test_what_cannot_be_added(machine: Machine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (("nothing", NotFoundError), ("fifo", StagingError), (".", StagingError)):
        with pytest.raises(kind):
            local_file(str(tmp_path / path))
    with pytest.raises(StagingError, match="FIFO"):
        list(local_folder(str(tmp_path)))
    link = machine.folder / "link"
    link.symlink_to(machine.write("a", b"a"))
    assert local_file(str(link)).name == b"a"


class RacingStore(MemoryStore):
    """Before the first log entry after `meanwhile` was set is created, somebody else commits."""

    meanwhile: Callable[[], object] | None = None

    def create(self, key: str, data: bytes) -> bool:
        if "/log/" in key and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().create(key, data)


def test_another_version_that_comes_in_between(tmp_path: Path) -> None:
    store = RacingStore()
    machine, other = Machine(tmp_path / "mine", store), Machine(tmp_path / "other", store)
    large = os.urandom(3 << 20)
    for name, content in (("a", b"a"), ("large", large), ("x/kept", os.urandom(2 << 20))):
        machine.write(name, content)
    (machine.folder / "link").symlink_to("a")
    record = Referent("s3://bucket/key", etag="1").encode()
    machine.take(folder(str(machine.folder)))
    tree: dict[bytes, Row | None] = {
        b"x/kept": machine.kept("pets", b"x/kept"),
        b"new/large": local_file(machine.write("new", os.urandom(3 << 20))),
        b"small": local_file(machine.write("small", b"small")),
        b"far": Referenced(record, 5, 7),
        b"link": next(row for path, row in folder(str(machine.folder)).rows() if path == b"link"),
    }
    others = assembled({b"far": Referenced(Referent("s3://bucket/other").encode(), 1, 1), b"b": local_file(other.write("b", b"b"))})
    store.meanwhile = lambda: other.take(others)
    raced = machine.take(assembled(tree))
    assert raced.version == 2 and (raced.added, raced.modified, raced.removed) == (6, 1, 1)
    again = machine.take(assembled(tree))
    assert not again.changed and again.version == 2
    assert verify(machine.project, parse("pets"), quick=False).problems == []
    for each in (machine, other):
        each.cache.close()
