"""A real overlay, changed at random: what is read of its upper directory alone is the tree that everybody sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from artifactmount.cache import Cache
from artifactmount.changes import Changes
from artifactmount.checkout import OVERLAY, Checkout, CheckoutBasis, Lived, hidden_folder, mark
from artifactmount.content import ContentReader
from artifactmount.manifest import Table
from artifactmount.progress import Silent
from artifactmount.project import Project as OpenProject
from artifactmount.project import open_store
from artifactmount.proposal import changed_by
from artifactmount.scan import scan
from artifactmount.snapshot import Options, take_staged
from artifactmount.staging import Staging
from artifactmount.status import status
from artifactmount.steps import drive
from artifactmount.workspace import lay_over
from tests import encryption
from tests.fuse.mounts import Project, mounted, write

pytestmark = [pytest.mark.needs_fuse, pytest.mark.needs_root]

METHODS = [OVERLAY]
NAMES = ("a", "b", "c.x", "d")
BASE = {"a/a": b"1", "a/b/a": b"2", "a/b/b": b"2", "b/d": b"3", "b/c.x/a": b"4", "c.x": b"5", "d/a/b/d": b"6"}
FOLDERS = ("a", "a/b", "b", "b/c.x", "c", "d", "d/a", "d/a/b")
NESTED = (("a", "b"), ("b", "c.x"), ("d", "a"), ("d", "a/b"), ("d/a", "b"), ("c", "a"), ("a/b", "b"))
IGNORED = b"*.x\nd\n"  # in a
PATTERNS = ("*.x", "b", "a/", "/d/a", "!a", "b/*", "!b/d")


@dataclass
class Stage:
    """One base version, mounted, and overlays over it."""

    root: Path
    lower: Path
    project: OpenProject

    @contextmanager
    def checkout(self, method: str) -> Iterator[Checkout]:
        """A new overlay, as `checkout` mounts it, but over a mount that is there already."""
        path = tempfile.mkdtemp(dir=self.root)
        hidden = Path(hidden_folder(path))
        for name in ("upper", "work"):
            (hidden / name).mkdir(parents=True)
        (hidden / "lower").symlink_to(self.lower)
        mark(str(hidden / "upper"))
        state = self.project.existing("animals")
        first = Lived(0, state.versions[0].digest.hex())
        checkout = Checkout(path, self.project.url, "animals", method, first, first, state.latest, whole=True)
        lay_over(checkout)
        try:
            yield checkout
        finally:
            subprocess.run(["umount", "--", path] if method == OVERLAY else ["fusermount3", "-u", "--", path], check=True, timeout=60)
            shutil.rmtree(hidden)
            os.rmdir(path)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("overlays")
    user = Project(root)
    folder = write(root / "base", BASE | {"a/.artifactignore": IGNORED})
    (folder / "c").mkdir()
    (folder / "l").symlink_to("a/a")
    (folder / "a" / "b" / "b").chmod(0o755)
    user.snapshot(folder, "animals")
    with mounted(user) as mount:
        cache = Cache(str(root / "own cache"), 64 << 20)
        project = OpenProject(open_store(user.url), cache, str(root / "own state"), keyring=encryption.keyring(root / "home"))
        try:
            yield Stage(root, mount.path, project)
        finally:
            cache.close()


# -- what programs do to files -----------------------------------------------------------------------------------------------------------
Act = Callable[[str], None]


def _write(path: str, content: bytes) -> Act:
    return lambda top: _store(f"{top}/{path}", content, "wb")


def _append(path: str) -> Act:
    return lambda top: _store(f"{top}/{path}", b"+", "ab")


def _store(path: str, content: bytes, mode: str) -> None:
    with open(path, mode) as file:
        file.write(content)


def _touch(path: str) -> Act:
    return lambda top: os.utime(f"{top}/{path}")  # copied up, and not changed


def _mkdir(path: str) -> Act:
    return lambda top: os.mkdir(f"{top}/{path}")


def _remove(path: str) -> Act:
    def act(top: str) -> None:
        if os.path.isdir(f"{top}/{path}") and not os.path.islink(f"{top}/{path}"):
            shutil.rmtree(f"{top}/{path}")
        else:
            os.unlink(f"{top}/{path}")

    return act


def _rename(old: str, new: str) -> Act:
    def act(top: str) -> None:
        try:
            os.rename(f"{top}/{old}", f"{top}/{new}")
        except OSError:  # a directory of the version, as mv does then
            if not os.path.lexists(f"{top}/{new}") and not f"{new}/".startswith(f"{old}/"):
                shutil.copytree(f"{top}/{old}", f"{top}/{new}", symlinks=True)
                shutil.rmtree(f"{top}/{old}")

    return act


def _renew(path: str, below: str) -> Act:
    """A folder that was emptied and made again, with a folder in it that may have been there before."""

    def act(top: str) -> None:
        shutil.rmtree(f"{top}/{path}")
        os.makedirs(f"{top}/{path}/{below}")
        _store(f"{top}/{path}/{below}/d", b"again", "wb")

    return act


def _turn(path: str) -> Act:
    def act(top: str) -> None:
        folder = os.path.isdir(f"{top}/{path}")
        _remove(path)(top)
        if folder:
            _store(f"{top}/{path}", b"was a folder", "wb")
        else:
            os.mkdir(f"{top}/{path}")
            _store(f"{top}/{path}/a", b"was a file", "wb")

    return act


there = st.sampled_from([*BASE, *FOLDERS])
paths = there | st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
acts: st.SearchStrategy[Act] = st.one_of(
    st.builds(_write, paths, st.sampled_from([b"", b"1", b"2", b"new"])),
    st.builds(_append, paths),
    st.builds(_touch, paths),
    st.builds(_mkdir, paths),
    st.builds(_remove, paths),
    st.builds(_rename, paths, paths),
    st.builds(_turn, there),
    st.sampled_from(NESTED).map(lambda pair: _renew(*pair)),
    st.builds(lambda path, mode: lambda top: os.chmod(f"{top}/{path}", mode), paths, st.sampled_from([0o644, 0o755])),
    st.builds(lambda path: lambda top: os.symlink("a/a", f"{top}/{path}"), paths),
    st.builds(lambda old, new: lambda top: os.link(f"{top}/{old}", f"{top}/{new}"), paths, paths),
    st.builds(
        lambda where, lines: _write(f"{where}.artifactignore", "\n".join(lines).encode()),
        st.sampled_from(["", "", "a/", "d/"]),
        st.lists(st.sampled_from(PATTERNS), max_size=3),
    ),
)


def _replace(path: str) -> Act:
    """As editors write a file: another one takes its place, or that of its whiteout."""

    def act(top: str) -> None:
        _store(f"{top}/.new", b"local", "wb")
        os.rename(f"{top}/.new", f"{top}/{path}")

    return act


def plain_root(project: OpenProject, checkout: Checkout, base: Table) -> bytes:
    """The digest of what everybody sees, by reading all of it."""
    artifact = project.artifact("animals")
    with Staging(checkout.path) as staging:
        reader = ContentReader(staging, lambda _: True, chunking=artifact.cipher.chunking)
        try:
            found = scan(staging, base, lambda _: None)
            return changed_by(base, drive(project.store, Changes(staging, reader, None, Silent()).from_scan(found))).root
        finally:
            reader.close()


# Not made smaller when it fails: with real mounts and commits that takes longer than reading it as it is.
@settings(max_examples=15, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("method", METHODS)
# Removed, that made a version, and there again as something that is ignored: what the lower version has there must not come back.
@example(
    batches=[
        [_remove("c.x"), _remove("b"), _remove("d/a"), _write(".artifactignore", b"c.x\nb\n/d/a\n")],
        [_write("c.x", b"local"), _mkdir("b"), _write("b/d", b"local"), _mkdir("d/a"), _write("new", b"1")],
    ]
)
@example(batches=[[_remove("a/a"), _write("a/.artifactignore", b"a\n")], [_replace("a/a"), _write("new", b"1")]])
@given(batches=st.lists(st.lists(acts, min_size=1, max_size=8), min_size=1, max_size=3))
def test_the_upper_directory_alone_tells_the_tree(stage: Stage, method: str, batches: list[list[Act]]) -> None:
    project, catalog = stage.project, stage.project.catalog("animals")
    with stage.checkout(method) as checkout:
        for batch in batches:
            for act in batch:
                with suppress(OSError):
                    act(checkout.path)
            state = project.existing("animals")
            base = catalog.table(state, checkout.base.number)
            expected = plain_root(project, checkout, base)
            assert bool(status(project, checkout).changes) == (expected != base.root)
            with checkout.staged() as staging:
                result = take_staged(project, staging, "animals", Options(), basis=CheckoutBasis(checkout, force=True))
            state = project.existing("animals")
            assert state.versions[result.version].digest == expected
            became = Lived(result.version, expected.hex())
            checkout = replace(checkout, base=became, latest=result.version)
            assert status(project, checkout).changes == ()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_to_an_open_file_is_in_the_upper_directory(stage: Stage, method: str) -> None:
    with stage.checkout(method) as checkout, open(f"{checkout.path}/log", "wb", buffering=0) as file:
        file.write(b"so far")
        file.write(bytes(300_000))
        with checkout.staged() as staging:
            found = staging.read(b"log", 1 << 20)
        assert found is not None and found[0] == b"so far" + bytes(300_000)
