"""Drafts: what may be said and put into them, and what is refused, with the built-in exception that scripts for W&B expect."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import artifactmount as am
from artifactmount.errors import ArtifactFinalizedError, ArtifactNotLoggedError
from tests.api.conftest import draft, write


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", "ä", ".", "..", ".a", "-a", "a" * 129])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name for an artifact"):
        am.Artifact(name, "dataset")


@pytest.mark.parametrize("type_", ["", "a" * 129, "a\nb"])
def test_types_that_are_refused(type_: str) -> None:
    with pytest.raises(ValueError, match="not a type"):
        am.Artifact("animals", type_)


def test_metadata() -> None:
    artifact = am.Artifact("animals", "any type", metadata={"a": (1, float("nan")), "b": {"c": None}})
    assert artifact.metadata == {"a": [1, None], "b": {"c": None}} and artifact.type == "any type"
    many: list[Any] = [{str(n): n for n in range(101)}, {"a": float("inf")}, {"a": object()}, {"artifactmount": 1}, {"a": "x" * (1 << 20)}]
    for metadata in many:
        with pytest.raises(ValueError, match=r"metadata|note"):
            artifact.metadata = metadata
    with pytest.raises(TypeError, match="metadata is a dict, not list"):
        artifact.metadata = [1]  # type: ignore[assignment]
    artifact.metadata = None
    assert artifact.metadata == {}


def test_tags_and_ttl() -> None:
    artifact = am.Artifact("animals", "dataset")
    artifact.tags = ["b", "a b", "b"]
    artifact.ttl = timedelta(seconds=0.5)
    assert artifact.tags == ["b", "a b"] and artifact.ttl == timedelta(seconds=1)
    for tags in (["a/b"], [""], [" a"], ["a:b"]):
        with pytest.raises(ValueError, match="not a tag"):
            artifact.tags = tags
    for ttl in (timedelta(0), timedelta(days=-1), timedelta.max):
        with pytest.raises(ValueError, match="time to live"):
            artifact.ttl = ttl
    with pytest.raises(TypeError):
        artifact.ttl = 5  # type: ignore[assignment]
    artifact.ttl = None


def test_what_a_draft_has_not(home: Path) -> None:
    artifact = draft({"a": b"a"})
    assert artifact.is_draft() and artifact.state == "PENDING" and artifact.name == artifact.qualified_name == "animals"
    assert (artifact.size, artifact.file_count) == (1, 1)
    for name in ("version", "digest", "commit_hash", "aliases", "id", "created_at", "project", "entity", "url", "collection"):
        with pytest.raises(ArtifactNotLoggedError, match=r"run\.log_artifact makes it a version"):
            getattr(artifact, name)
        assert not hasattr(artifact, name)  # an AttributeError, as in W&B
    for call in (artifact.wait, artifact.download, artifact.new_draft, artifact.delete, artifact.mounted, artifact.verify):
        with pytest.raises(ArtifactNotLoggedError):
            call()
    with pytest.raises(ArtifactNotLoggedError, match="nobody has read it"):
        print(artifact.get_entry("a").digest)


def test_add_file(home: Path) -> None:
    write(home, {"in/a.csv": b"a", "b.csv": b"bb"})
    (home / "link.csv").symlink_to("in/a.csv")
    artifact = am.Artifact("animals", "dataset")
    entry = artifact.add_file("in/a.csv")
    assert (entry.path, entry.size, entry.kind, entry.ref, entry.local_path) == ("a.csv", 1, "file", None, str(home / "in/a.csv"))
    assert artifact.add_file(home / "b.csv", name="deep/er/b").path == "deep/er/b"
    assert artifact.add_file("link.csv", policy="immutable").kind == "file"  # what it leads to
    assert artifact.get_added_local_path_name("in/a.csv") == "a.csv" and artifact.get_added_local_path_name("nothing") is None
    for path in ("nothing", "in"):
        with pytest.raises(ValueError, match=r"no such file|not a file"):
            artifact.add_file(path)
    with pytest.raises(ValueError, match="policy"):
        artifact.add_file("b.csv", policy="both")


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "./a", "a//b", "", "a/", "x" * 256])
def test_paths_that_are_refused(path: str, home: Path) -> None:
    write(home, {"a": b"a"})
    with pytest.raises(ValueError, match=r"path"):
        am.Artifact("animals", "dataset").add_file("a", name=path)


def test_a_path_is_added_twice(home: Path) -> None:
    write(home, {"a": b"one", "same": b"one", "other": b"two", "longer": b"three"})
    artifact = am.Artifact("animals", "dataset")
    for path in ("a", "a", "same"):
        artifact.add_file(path, name="x")
    for path in ("other", "longer"):
        with pytest.raises(ValueError, match="x is in the artifact already, with other content; overwrite=True replaces it"):
            artifact.add_file(path, name="x")
    assert artifact.add_file("other", name="x", overwrite=True).local_path == str(home / "other")
    with pytest.raises(ValueError, match="cannot be a file and a folder"):
        artifact.add_file("a", name="x/y", overwrite=True)


def test_add_dir(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(home, {"images/cats/1.png": b"1", "images/run.sh": b"#!", "labels.csv": b""})
    (home / "images/run.sh").chmod(0o755)
    (home / "images/empty").mkdir()
    (home / "images/first").symlink_to("cats/1.png")
    artifact = am.Artifact("animals", "dataset")
    artifact.add_dir("images")
    artifact.add_dir(home / "images", name="again/")
    assert caplog.text == ""
    paths = ["cats/1.png", "first", "run.sh"]
    assert sorted(artifact.manifest.entries) == sorted([*paths, *(f"again/{path}" for path in paths)])
    assert artifact.get_entry("first").link == "cats/1.png" and artifact.get_entry("first").kind == "symlink"
    assert (artifact.file_count, artifact.size) == (4, 6)
    (home / "images/out").symlink_to("../labels.csv")
    artifact.add_dir("images", "third")
    assert "1 symlinks lead out of the folder; they are kept as links" in caplog.text
    write(home, {"images/.artifactignore": b"*.sh\n"})
    artifact.add_dir("images", "fourth")
    assert "1 entries are left out" in caplog.text and "fourth/run.sh" not in artifact.manifest.entries
    with pytest.raises(ValueError, match="not a folder"):
        artifact.add_dir("labels.csv")
    os.mkfifo(home / "images/fifo")
    with pytest.raises(ValueError, match=r"images/fifo \(FIFO\)|fifo \(FIFO\)"):
        artifact.add_dir("images")


def test_add_dir_over_what_is_there(home: Path) -> None:
    write(home, {"one/a": b"a", "one/b": b"b", "two/a": b"a", "two/b": b"other", "two/c": b"c"})
    artifact = am.Artifact("animals", "dataset")
    artifact.add_dir("one")
    before = list(artifact.files())
    with pytest.raises(ValueError, match="b is in the artifact already"):
        artifact.add_dir("two")
    os.mkfifo(write(home / "three", {"b/c": b"", "d": b""}) / "fifo")
    with pytest.raises(ValueError, match="FIFO"):
        artifact.add_dir("three")
    (home / "three/fifo").unlink()
    with pytest.raises(ValueError, match="b cannot be a file and a folder"):
        artifact.add_dir("three", merge=True)
    assert list(artifact.files()) == before  # all of it or nothing
    artifact.add_dir("two", merge=True)
    assert [entry.local_path for entry in artifact.files(["a", "b", "c"])] == [str(home / "two" / name) for name in "abc"]


def test_new_file(home: Path) -> None:
    artifact = am.Artifact("animals", "dataset")
    with artifact.new_file("notes/a.txt", encoding="utf-16") as file:
        file.write("hi")
    local = Path(artifact.get_entry("notes/a.txt").local_path or "")
    assert local.read_text("utf-16") == "hi"
    with pytest.raises(ValueError, match="in the artifact already"), artifact.new_file("notes/a.txt"):
        pass
    with artifact.new_file("notes/a.txt", "wb") as file:
        file.write(b"other")
    assert artifact.size == 5
    with pytest.raises(ZeroDivisionError), artifact.new_file("b"):
        raise ZeroDivisionError
    with pytest.raises(KeyError):
        artifact.get_entry("b")
    for mode in ("r", "a", "w+"):
        with pytest.raises(ValueError, match="mode"), artifact.new_file("c", mode):
            pass
    del artifact
    assert not local.parent.exists()  # it goes with the draft


def test_remove(home: Path) -> None:
    artifact = draft({"a/b/1": b"1", "a/b/2": b"2", "a/c": b"c", "d": b"d"})
    artifact.remove("a/b/")
    artifact.remove(artifact.get_entry("d"))
    assert list(artifact.manifest.entries) == ["a/c"]
    for path in ("a/b", "nothing"):
        with pytest.raises(FileNotFoundError, match="in the artifact"):
            artifact.remove(path)
    for path in ("..", "/"):
        with pytest.raises(ValueError, match="not a path"):
            artifact.remove(path)


def test_get_entry_and_manifest(home: Path) -> None:
    artifact = draft({"a/1": b"1", "a/2": b"22"})
    assert artifact.get_entry("a/1") == artifact.get_path("a/1") == artifact.manifest.entries["a/1"]
    assert len({artifact.get_entry("a/1"), artifact.get_entry("a/1"), artifact.get_entry("a/2")}) == 2
    assert artifact.get_entry("a/1").parent_artifact() is artifact and artifact.get_entry("a/1").ref_url() == "animals/a/1"
    for path in ("a", "b"):
        with pytest.raises(KeyError, match=f"^no file {path} in animals$"):
            artifact.get_entry(path)
    assert len(artifact.manifest) == 2 and list(artifact.manifest) == ["a/1", "a/2"]
    assert artifact.manifest.get_entries_in_directory("a") == list(artifact.files())
    assert artifact.manifest.get_entry_by_path("b") is None
    with pytest.raises(KeyError):
        artifact.manifest.get_entries_in_directory("b")


def test_add_reference_of_files(home: Path) -> None:
    folder = write(home / "data", {"a": b"a", "b/c": b"cc"})
    artifact = am.Artifact("animals", "dataset")
    entries = artifact.add_reference(f"file://{folder}", name="far")
    assert [(entry.path, entry.size, entry.kind) for entry in entries] == [("far/a", 1, "reference"), ("far/b/c", 2, "reference")]
    assert entries[0].ref == entries[0].ref_target() == f"file://{folder}/a" and artifact.file_count == 2 and artifact.size == 3
    assert artifact.add_reference(f"file://{folder}/a")[0].path == "a"
    with pytest.raises(ValueError, match="more than 1 objects"):
        artifact.add_reference(f"file://{folder}", "more", max_objects=1)
    for uri in (str(folder), "gopher://host/file", "file:///nothing"):
        with pytest.raises(ValueError, match=r"URI|cannot read|nothing at"):
            artifact.add_reference(uri)
    (folder / "a").write_bytes(b"changed")
    with pytest.raises(ValueError, match="already, with other content"):
        artifact.add_reference(f"file://{folder}/a")
    (unchecked,) = artifact.add_reference(f"file://{folder}/a", "unchecked", checksum=False)
    assert unchecked.extra == {} and unchecked.size == 7
    with pytest.raises(ValueError, match="no reference"):
        draft({"x": b""}).get_entry("x").ref_target()


def test_nothing_is_copied(home: Path, run: am.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, {"images/large": os.urandom(1 << 20), "b": b"b"})
    temporary = home / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(shutil, "copyfileobj", None)
    artifact = am.Artifact("animals", "dataset")
    artifact.add_dir("images")
    artifact.add_file("b")
    run.log_artifact(artifact)
    assert list(temporary.iterdir()) == [] and os.stat("b").st_nlink == os.stat("images/large").st_nlink == 1


def test_a_logged_artifact_cannot_be_changed(run: am.Run, home: Path) -> None:
    artifact = run.log_artifact(draft({"a": b"a"}))
    write(home, {"b": b"b"})
    for call in (
        lambda: artifact.add_file("b"),
        lambda: artifact.add_dir("."),
        lambda: artifact.add_reference("s3://bucket/key"),
        lambda: artifact.remove("a"),
        lambda: artifact.new_file("c"),
    ):
        with pytest.raises(ArtifactFinalizedError, match=r"new_draft\(\) makes a draft of it"):
            call()
    sealed = draft({"a": b"a"})
    sealed.finalize()
    with pytest.raises(AttributeError):
        sealed.remove("a")
