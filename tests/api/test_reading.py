"""Versions are read: as files in a folder, as streams, through a mount, and looked back at."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import artifactmount as am
from artifactmount.errors import CorruptError, GoneError, IsDirectoryError, NotFoundError, RefusedError, SourceError
from artifactmount.mountpoint import find, mount_at
from artifactmount.settings import Settings
from tests.api.conftest import draft, write
from tests.fuse.mounts import tree_of


@pytest.fixture
def logged(run: am.Run, home: Path) -> am.Artifact:
    """A version of everything a folder can hold."""
    folder = write(home / "in", {"a/b.txt": b"b", "a/bc.txt": b"bc", "run": b"#!", "large": random.Random(1).randbytes(5 << 20)})
    (folder / "run").chmod(0o755)
    (folder / "empty").mkdir()
    (folder / "a/link").symlink_to("../run")
    artifact = am.Artifact("animals", "dataset")
    artifact.add_dir("in")
    return run.log_artifact(artifact)


def test_download(logged: am.Artifact, home: Path, run: am.Run) -> None:
    assert logged.download() == run.use_artifact("animals:latest").download() == "./artifacts/animals:v0"
    assert tree_of(home / "artifacts/animals:v0") == tree_of(home / "in")
    assert (home / "artifacts/animals:v0/large").read_bytes() == (home / "in/large").read_bytes()
    write(home / "out", {"a/b.txt": b"wrong", "mine": b"stays"})
    assert logged.download("out") == "out"
    assert (home / "out/a/b.txt").read_bytes() == b"b" and (home / "out/mine").exists()


def test_a_download_of_a_part(logged: am.Artifact, home: Path) -> None:
    logged.download(home / "out", path_prefix="a/b")
    assert sorted(tree_of(home / "out")) == [b"a", b"a/b.txt", b"a/bc.txt"]
    assert logged.get_entry("a/link").download("out") == "out/a/link" and os.readlink("out/a/link") == "../run"
    assert logged.get_entry("run").download() == "./artifacts/animals:v0/run"


def test_what_is_right_is_kept(logged: am.Artifact, home: Path) -> None:
    logged.download("out")
    before = (home / "out/large").stat().st_ino
    (home / "out/run").unlink()
    logged.download("out")
    assert (home / "out/large").stat().st_ino == before and (home / "out/run").exists()


def test_references_are_downloaded_where_that_is_allowed(run: am.Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(home / "data", {"a": b"aa"})
    artifact = am.Artifact("animals", "dataset")
    artifact.add_reference(f"file://{folder}", name="far")
    run.log_artifact(artifact)
    with pytest.raises(SourceError, match="the config file does not name it"):
        artifact.download("out")
    config = write(home.parent / "home/.config/artifactmount", {"config.toml": b'[references]\nallow = ["file:///"]\n'})
    (config / "config.toml").chmod(0o600)
    with am.init() as again:
        artifact = again.use_artifact("animals")
        assert artifact.open("far/a").read() == b"aa"
        artifact.download("out")
        artifact.verify("out")
        assert (home / "out/far/a").read_bytes() == b"aa" and artifact.size == 2
        (folder / "a").unlink()
        with pytest.raises(SourceError, match="is gone"):
            artifact.download("other")
        artifact.download("other", allow_missing_references=True)
        assert not (home / "other/far/a").exists()


def test_checkout(logged: am.Artifact, home: Path) -> None:
    write(home / "out", {"mine": b"goes", "more/deep/x": b"goes", "a/b.txt/not a file": b"goes", "run": b"other"})
    assert logged.checkout("out") == "out" and tree_of(home / "out") == tree_of(home / "in")
    assert logged.checkout() == "./artifacts/animals" and tree_of(home / "artifacts/animals") == tree_of(home / "in")
    write(home.parent / "home", {"precious": b""})
    with pytest.raises(RefusedError, match="would be emptied"):
        logged.checkout(home.parent / "home")
    with pytest.raises(RefusedError, match="lies in the project folder"):
        logged.checkout(home.parent / "project")
    assert (home.parent / "home/precious").exists()


def test_verify(logged: am.Artifact, home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        logged.verify()
    logged.download()
    logged.verify()
    folder = home / "artifacts/animals:v0"
    (folder / "extra").touch()
    with pytest.raises(ValueError, match="Found file extra which is not a member of artifact animals:v0"):
        logged.verify()
    (folder / "extra").unlink()
    (folder / "run").chmod(0o644)
    with pytest.raises(ValueError, match="Digest mismatch for file: run"):
        logged.verify(folder)
    (folder / "run").unlink()
    with pytest.raises(FileNotFoundError, match="run of animals:v0 is not in"):
        logged.verify(folder)


def test_files_and_file(logged: am.Artifact, run: am.Run) -> None:
    assert [entry.name for entry in logged.files()] == ["large", "run", "a/b.txt", "a/bc.txt", "a/link"]
    assert [entry.size for entry in logged.files(["a/bc.txt", "nothing"])] == [2]
    with pytest.raises(ValueError, match="has 5 files, not one"):
        logged.file()
    one = run.log_artifact(draft({"x/y": b"1"}, "plants"))
    assert one.file() == "./artifacts/plants:v0/x/y" and one.file("out") == "out/x/y"
    entry = logged.get_entry("a/b.txt")
    assert len(entry.digest) == 64 and entry.digest == entry.content_digest and entry.kind == "file" and entry.link is None


def test_a_file_is_read_where_it_lies(logged: am.Artifact, home: Path, run: am.Run) -> None:
    content = (home / "in/large").read_bytes()
    with logged.open("large") as file:
        assert file.seekable() and file.readable() and not file.writable()
        assert file.seek(-10, os.SEEK_END) == len(content) - 10 and file.read() == content[-10:]
        for at in (0, 1 << 20, (2 << 20) - 1, 3 << 20, len(content) - 1):
            file.seek(at)
            assert file.read(1 << 20) == content[at : at + (1 << 20)] and file.tell() == min(at + (1 << 20), len(content))
        assert file.read() == b"" or file.seek(0) == 0
        file.seek(len(content) + 5)
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    assert logged.open("a/b.txt", "r", encoding="ascii").read() == "b" and run.open("animals:v0/a/bc.txt").read() == b"bc"
    assert logged.open("a/link").read() == b"#!" and logged.get_entry("run").open().read() == b"#!"
    for path, kind in (("nothing", KeyError), ("a", IsDirectoryError)):
        with pytest.raises(kind):
            logged.open(path)
    with pytest.raises(ValueError, match="mode"):
        logged.open("run", "w")


def test_links_that_lead_nowhere(run: am.Run, home: Path) -> None:
    folder = write(home / "in", {"a": b""})
    for name, target in (("out", "../x"), ("absolute", "/etc/passwd"), ("round", "round"), ("dangling", "x")):
        (folder / name).symlink_to(target)
    artifact = run.log_artifact("in", "animals", "dataset")
    for name in ("out", "absolute", "round", "dangling"):
        with pytest.raises(KeyError):
            artifact.open(name)


@pytest.mark.needs_fuse
def test_mounted(logged: am.Artifact, home: Path) -> None:
    def present() -> str | None:
        return find(logged.project, Settings().state_directory)

    with logged.mounted() as path, logged.mounted() as again:
        assert again == path and tree_of(Path(path)) == tree_of(home / "in")  # the second one uses the mount of the first
        made = present()
    assert made is not None and path.startswith(made) and present() is None and not os.path.exists(made)
    with logged.mounted() as path:
        busy = open(os.path.join(path, "run"), "rb")  # noqa: SIM115 - left open on purpose
    assert mount_at(os.path.dirname(os.path.dirname(path))) is None
    busy.close()
    logged.delete()
    with pytest.raises(NotFoundError, match="no version animals:v0"), logged.mounted():
        pass
    assert present() is None


def test_history_diff_and_sizes(run: am.Run) -> None:
    run.log_artifact(draft({"cat": b"c" * 2000, "dog": b"d" * 1000}))
    run.log_artifact(draft({"cat": b"c" * 2000, "dog": b"d" * 1000, "rat": b"r" * 3000}))
    run.log_artifact(draft({"cat": b"C", "rat": b"r" * 3000}))
    assert [(change.version, change.change) for change in run.history("animals", "cat")] == [("v2", "M"), ("v0", "A")]
    assert "@" in run.history("animals", "dog")[0].actor and run.history("animals", "dog")[0].time.endswith("Z")
    with pytest.raises(NotFoundError):
        run.history("animals", "cow")
    assert run.diff("animals:v1", "animals") == [
        am.PathDifference("M", "cat", "file", 2000, 1),
        am.PathDifference("D", "dog", "file", 1000, 0),
    ]
    assert [(size.tracks, size.adds, size.frees) for size in run.sizes("animals")] == [(3000, 3000, 0), (6000, 3000, 0), (3001, 1, 1)]


def test_delete(run: am.Run, home: Path) -> None:
    first = run.log_artifact(draft({"a": b"a"}), aliases=["best"])
    second = run.log_artifact(draft({"a": b"b" * 100}))
    with pytest.raises(RefusedError, match="best"):
        first.delete()
    second.delete()  # `latest` is no reason: it falls back
    assert second.state == "DELETED" and run.use_artifact("animals").version == "v0"
    for read in (lambda: second.open("a").read(), lambda: second.download("out"), second.save):
        with pytest.raises((NotFoundError, GoneError, CorruptError)):
            read()
    first.delete(delete_aliases=True)
    assert run.names() == [] and run.log_artifact(draft({"a": b"a"})).version == "v2"  # numbers are never used again


def test_collections(run: am.Run) -> None:
    for content in (b"a", b"b"):
        artifact = run.log_artifact(draft({"a": content}), aliases=["best"])
    run.log_artifact(draft({"a": b"a"}, "plants"))
    collection = artifact.collection
    assert [each.version for each in collection.artifacts()] == ["v1", "v0"] and collection.aliases == ["best", "latest"]
    assert collection.name == "animals" and collection.is_sequence() and run.names() == ["animals", "plants"]
    collection.delete()
    assert run.names() == ["plants"]
    with pytest.raises(NotFoundError):
        run.collection("animals")


def test_an_artifact_outlives_its_run(home: Path) -> None:
    with am.init() as run:
        artifact = run.log_artifact(draft({"a": b"a"}))
    assert artifact.open("a").read() == b"a" and run.use_artifact("animals").version == "v0"
    run.finish()


def test_a_fork_is_told_what_to_do(run: am.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = run.log_artifact(draft({"a": b"a"}))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RefusedError, match=r"opened in another process.*spawn"):
        artifact.open("a")
    with pytest.raises(RefusedError):
        run.log_artifact(draft({"b": b"b"}))
