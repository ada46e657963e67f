"""Everything a reader does, done to a hostile store: errors of ours are answers, anything else is a finding.

Whoever runs it learns of each operation's time; what is written outside the target, bytes that are not what their digest says, and
control characters on a terminal raise AssertionError. Shared by tests/unit/test_hostile.py and scripts/check_hostile.py.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FlagT, FUSEError, InodeT, RequestContext

from artifactmount.cache import Cache
from artifactmount.card import Card
from artifactmount.cli import main
from artifactmount.download import download
from artifactmount.errors import ArtifactError
from artifactmount.fuse import Operations
from artifactmount.history import changes, events
from artifactmount.keys import Keyring
from artifactmount.manifest import Table
from artifactmount.merge import diff
from artifactmount.names import Reference
from artifactmount.namespace import Namespace
from artifactmount.project import Project
from artifactmount.reader import Hopper, Reader
from artifactmount.rows import Kind, path_of
from artifactmount.run import Run
from artifactmount.sizes import sizes
from artifactmount.sources.access import Sources
from artifactmount.state import State, Version
from artifactmount.store import Store
from artifactmount.tree import ROOT_INODE, Directory, Tree
from artifactmount.verify import verify
from tests.unit.encrypted_formats import SECRET
from tests.unit.enemy import ARTIFACT
from tests.unit.liars import hostile_sources

_CODES = (0, 1, 3, 4, 5, 6)
_CONTEXT = cast(RequestContext, None)  # no handler looks at it


@dataclass
class Told:
    """What was done: answers and refusals by operation, and the slowest of them in seconds."""

    answers: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)

    def do(self, what: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `work`; None where it is refused with an error of ours."""
        begin = time.monotonic()
        try:
            answer = work(*arguments)
            self.answers[what] += 1
        except ArtifactError:
            self.refusals[what] += 1
            answer = None
        self.slowest[what] = max(self.slowest.get(what, 0.0), time.monotonic() - begin)
        return answer


class _Tracebacks(logging.Handler):
    """Notes errors that were caught as the last resort: in a mount they are EIO, here they are findings."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


def key_file(folder: Path) -> Path:
    """The victim's key, which opens the enemies' encrypted projects."""
    path = folder / "victim.key"
    if not path.exists():
        path.touch(0o600)
        path.write_text(f"artifactmount-key-1:{SECRET.hex()}\n")
    return path


def through_the_library(store: Store, cache: Cache, folder: Path, told: Told, seed: int = 0) -> None:
    """Open, list, show, size, log, compare, verify and download, without a command line; then as a mount does. `seed`: of the sources."""
    keyring, sources = Keyring((str(key_file(folder)),)), hostile_sources(seed)
    project = told.do("open", lambda: Project(store, cache, str(folder / "state"), keyring=keyring))
    if project is None:
        return
    told.do("names", project.names)
    state = told.do("head", lambda: project.existing(ARTIFACT))
    told.do("log", lambda: _log(store, project))
    told.do("verify", lambda: verify(project, None, sources=sources))
    if state is None:
        return
    told.do("sizes", lambda: project.reading(ARTIFACT, lambda s: sizes(project.catalog(ARTIFACT), cache, s)))
    tables = [told.do("list", _list, project, n) for n in list(state.versions)[:4]]
    for old, new in pairwise(tables):
        if old is not None and new is not None:
            told.do("diff", lambda a, b: sum(1 for _ in diff(a, b)), old, new)
    for n in list(state.versions)[:4]:
        into_a_folder(folder, told, partial(_download, project, n, sources))
    through_a_mount(project, told, sources)


def _log(store: Store, project: Project) -> None:
    state = project.refresh(ARTIFACT)
    for event in events(store, project.artifact(ARTIFACT), state):
        str(event)
    for version in list(state.versions.values())[:4]:
        project.reading(ARTIFACT, partial(_changes, project, version))


def _changes(project: Project, version: Version, state: State) -> None:
    list(changes(project.catalog(ARTIFACT).run(version)))


def _list(project: Project, n: int) -> Table:
    catalog = project.catalog(ARTIFACT)

    def read(state: State) -> tuple[Table, list[Run], Card]:
        table = catalog.table(state, n)
        return table, catalog.runs(state, table), catalog.card(state.versions[n])

    table, runs, _ = project.reading(ARTIFACT, read)
    for key, name, row in table.walk():
        origin, at = table.origin(row)
        assert runs[origin].mode(at) == table.mode(row) and table.find(key, name) == row
        runs[origin].target(at)
    return table


def into_a_folder(folder: Path, told: Told, work: Callable[[Path], Any]) -> None:
    """Let `work` fill a new folder; nothing beside it may change, and what is in it must be what was said."""
    place = folder / "place"
    (place / "outside").mkdir(parents=True)
    (place / "outside" / "canary").write_bytes(b"alive")
    try:
        told.do("download", work, place / "target")
        assert sorted(os.listdir(place)) in (["outside"], ["outside", "target"])
        assert os.listdir(place / "outside") == ["canary"] and (place / "outside" / "canary").read_bytes() == b"alive"
    finally:
        _remove(os.fsencode(place))


def _remove(path: bytes) -> None:
    """Remove a tree, also one that is deeper than a path may be long or a program may recurse."""
    stack = [os.open(path, os.O_RDONLY | os.O_DIRECTORY)]
    names = [b""]
    while stack:
        below = None
        for entry in os.listdir(stack[-1]):
            name = os.fsencode(entry)
            if stat.S_ISDIR(os.stat(name, dir_fd=stack[-1], follow_symlinks=False).st_mode):
                below = name
                break
            os.unlink(name, dir_fd=stack[-1])
        if below is not None:
            stack.append(os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=stack[-1]))
            names.append(below)
            continue
        os.close(stack.pop())
        name = names.pop()
        if stack:
            os.rmdir(name, dir_fd=stack[-1])
    os.rmdir(path)


def _download(project: Project, n: int, sources: Sources, target: Path) -> None:
    skipped = download(project, Reference(ARTIFACT, f"v{n}"), str(target), sources=sources, allow_missing=n % 2 == 0).skipped
    state = project.existing(ARTIFACT)
    table = project.catalog(ARTIFACT).table(state, n)
    runs = project.catalog(ARTIFACT).runs(state, table)
    for key, name, row in table.walk():
        path = os.path.join(os.fsencode(target), path_of(key, name))
        if len(path) > 4000:
            continue
        if table.kind(row) is Kind.REFERENCE and skipped and not os.path.lexists(path):
            continue
        status = os.lstat(path)
        match table.kind(row):
            case Kind.FILE:
                assert stat.S_ISREG(status.st_mode) and status.st_size == table.size(row)
                origin, at = table.origin(row)
                with open(path, "rb") as file:
                    for ref in runs[origin].chunks(at):
                        assert project.artifact(ARTIFACT).cipher.chunking.digest(file.read(ref.place.plain)) == ref.digest
            case Kind.REFERENCE:
                assert stat.S_ISREG(status.st_mode) and status.st_size == table.size(row)
            case Kind.DIRECTORY:
                assert stat.S_ISDIR(status.st_mode)
            case _:
                assert stat.S_ISLNK(status.st_mode)


# -- as a mount does -------------------------------------------------------------------------------------------------------------------
def through_a_mount(project: Project, told: Told, sources: Sources | None = None) -> None:
    """What the kernel would ask: FUSEError is an answer; an error that the last resort caught is a finding."""
    tracebacks = _Tracebacks()
    logging.getLogger("artifactmount").addHandler(tracebacks)
    begin = time.monotonic()
    try:
        trio.run(_mounted, project, told, sources)
    finally:
        logging.getLogger("artifactmount").removeHandler(tracebacks)
    told.slowest["mount"] = max(told.slowest.get("mount", 0.0), time.monotonic() - begin)
    for error in tracebacks.found:
        raise AssertionError("an error that nobody expected in a mount") from error


async def _mounted(project: Project, told: Told, sources: Sources | None) -> None:
    async with trio.open_nursery() as nursery:
        hopper, tree = Hopper(nursery), Tree(0)
        operations = Operations(tree, Namespace(project, tree, hopper), Reader(project, hopper, sources), hopper, project.cache)
        with trio.move_on_after(60) as scope:
            await _walk(operations, tree, told)
        assert not scope.cancelled_caught, "a mount did not answer for a minute"
        nursery.cancel_scope.cancel()


async def _ask(told: Told, what: str, question: Any) -> Any:
    try:
        answer = await question
        told.answers[f"mount {what}"] += 1
    except FUSEError:
        told.refusals[f"mount {what}"] += 1
        answer = None
    return answer


async def _walk(operations: Operations, tree: Tree, told: Told) -> None:
    for name in (ARTIFACT.encode(), b"..", b"a\0b", b"\xff", f"{ARTIFACT}:latest".encode(), b"evil:\x1b"):
        await _ask(told, "lookup", operations.lookup(InodeT(ROOT_INODE), name, _CONTEXT))
    await _ask(told, "readdir", operations._namespace.list_root())
    artifact = await _ask(told, "lookup", operations.lookup(InodeT(ROOT_INODE), ARTIFACT.encode(), _CONTEXT))
    if artifact is None:
        return
    for name in (b"v0", b"v1", b"v2", b"v3", b"latest", b"best", b"..", b"v99999999999999999999"):
        found = await _ask(told, "lookup", operations.lookup(artifact.st_ino, name, _CONTEXT))
        if found is None:
            continue
        await _ask(told, "getattr", operations.getattr(found.st_ino, _CONTEXT))
        if stat.S_ISLNK(found.st_mode):
            target = await _ask(told, "readlink", operations.readlink(found.st_ino, _CONTEXT))
            assert target is None or target.startswith(b"v")
        elif await _ask(told, "opendir", operations.opendir(found.st_ino, _CONTEXT)) is not None:
            await _version(operations, tree, found.st_ino, told)


async def _version(operations: Operations, tree: Tree, root: InodeT, told: Told) -> None:
    pending, budget = [root], 400
    while pending and budget:
        inode = pending.pop()
        place = tree.place(inode)
        assert isinstance(place, Directory)
        await _ask(told, "getxattr", operations.getxattr(inode, b"user.artifactmount.digest", _CONTEXT))
        for _, name, attributes in tree.list(place, 0):
            budget -= 1
            if not budget:
                break
            assert b"/" not in name and b"\0" not in name and 0 < len(name) <= 255
            operations._fill(pyfuse3.EntryAttributes(), attributes)
            found = await _ask(told, "lookup", operations.lookup(inode, name, _CONTEXT))
            assert found is not None and found.st_ino == attributes.inode
            if stat.S_ISDIR(attributes.mode):
                pending.append(found.st_ino)
            elif stat.S_ISLNK(attributes.mode):
                target = await _ask(told, "readlink", operations.readlink(found.st_ino, _CONTEXT))
                assert target is None or b"\0" not in target
            else:
                await _read(operations, found.st_ino, attributes.size, told)


async def _read(operations: Operations, inode: InodeT, size: int, told: Told) -> None:
    if await _ask(told, "open", operations.open(inode, FlagT(os.O_RDONLY), _CONTEXT)) is None:
        return
    for offset in {0, size // 2, max(size - 1, 0), size, 1 << 62}:
        content = await _ask(told, "read", operations.read(FileHandleT(inode), offset, 128 << 10))
        assert content is None or len(content) == max(min(size - offset, 128 << 10), 0)
    await _ask(told, "getxattr", operations.getxattr(inode, b"user.artifactmount.cached", _CONTEXT))


# -- as typed --------------------------------------------------------------------------------------------------------------------------
class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        """Somebody looks at it."""
        return True


def as_typed(project: Path, folder: Path, told: Told) -> None:
    """The commands that read, on a terminal, over a folder project. Nothing printed may be more than text."""
    names = ("XDG_STATE_HOME", "ARTIFACTMOUNT_CACHE", "ARTIFACTMOUNT_PROJECT", "ARTIFACTMOUNT_KEY_FILE")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {"XDG_STATE_HOME": str(folder / "typed"), "ARTIFACTMOUNT_CACHE": str(folder / "cache")}
    os.environ["ARTIFACTMOUNT_PROJECT"] = str(project)
    if (project / "keys").exists():
        os.environ["ARTIFACTMOUNT_KEY_FILE"] = str(key_file(folder))
    try:
        for command in (
            ("ls",),
            ("ls", ARTIFACT, "-l"),
            ("ls", f"{ARTIFACT}:latest", "-l"),
            ("ls", f"{ARTIFACT}:v0", "--json"),
            ("show",),
            ("show", ARTIFACT),
            ("show", f"{ARTIFACT}:v0", "--json"),
            ("du",),
            ("du", ARTIFACT),
            ("log", "--files"),
            ("log", ARTIFACT, "--json"),
            ("log", f"{ARTIFACT}/link0"),
            ("diff", f"{ARTIFACT}:v0", ARTIFACT),
            ("verify", "--references"),
            ("key", "list"),
        ):
            told.do(" ".join(command[:1]), type_in, *command)
        into_a_folder(folder, told, lambda target: type_in("download", ARTIFACT, str(target)))
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def type_in(*command: str) -> None:
    """Run a command in this process."""
    root, out, err = logging.getLogger(), _Terminal(), io.StringIO()
    handlers, root.handlers = root.handlers, []
    stdout, stderr, sys.stdout, sys.stderr = sys.stdout, sys.stderr, out, err
    try:
        code = main(command)
    finally:
        sys.stdout, sys.stderr, root.handlers = stdout, stderr, handlers
    assert code in _CODES, f"{command}: {code}: {err.getvalue()[:400]}"
    for text in (out.getvalue(), err.getvalue()):
        check_plain(text)


def check_plain(text: str) -> None:
    """That a text moves no cursor, as characters and as the bytes that it is written out as."""
    for part in (text, text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")):
        odd = {char for char in part if not (char.isprintable() or char == "\n" or "\udca0" <= char <= "\udcff")}
        assert not odd, f"{odd} was printed: {text[:300]!r}"
