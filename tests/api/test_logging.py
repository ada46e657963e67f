"""Drafts become versions: numbers, aliases, what is said of them, and when there is nothing new."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

import artifactmount as am
from artifactmount.cli import main
from artifactmount.errors import ArtifactFinalizedError, LockedError, NotFoundError, NotSupportedError, RefusedError, StagingError
from tests.api.conftest import draft, write


def test_a_version(run: am.Run) -> None:
    made = draft({"a": b"a", "b/c": b"cc"})
    made.description, made.metadata, made.tags, made.ttl = "first", {"n": 1}, ["one"], timedelta(days=1)
    artifact = run.log_artifact(made, aliases=["best", "latest"], tags=["two", "one"])
    assert artifact is made and artifact.name == "animals:v0" and artifact.version == "v0" and not artifact.is_draft()
    assert (artifact.aliases, artifact.tags, artifact.ttl) == (["best", "latest"], ["one", "two"], timedelta(days=1))
    assert (artifact.description, artifact.metadata, artifact.state) == ("first", {"n": 1}, "COMMITTED")
    assert (artifact.size, artifact.file_count) == (3, 2) and len(artifact.digest) == 64 == len(artifact.commit_hash)
    assert artifact.project == run.url and artifact.url == f"{run.url}/artifacts/animals" and "@" in artifact.entity
    assert artifact.created_at == artifact.updated_at and artifact.created_at.endswith("Z")
    assert artifact.id.endswith("/animals:v0") and artifact.wait() is artifact and artifact.wait(timeout=1) is artifact
    assert (artifact.history_step, artifact.distributed_id, artifact.is_link, artifact.linked_artifacts) == (None, None, False, [])
    again = run.use_artifact("animals:best")
    assert (again.name, again.description, again.metadata, again.tags, again.ttl) == (
        "animals:v0", "first", {"n": 1}, ["one", "two"], timedelta(days=1),
    )  # fmt: skip
    assert again.type == "dataset" and again.id == artifact.id and again.source_name == "animals:v0"


def test_the_same_content_makes_no_version(run: am.Run) -> None:
    run.log_artifact(draft({"a": b"a"}), aliases=["first"])
    run.log_artifact(draft({"a": b"other"}))
    same = draft({"a": b"a"})
    same.description = "said later"
    artifact = run.log_artifact(same, aliases=["good"])
    assert (artifact.version, artifact.aliases, artifact.description) == ("v0", ["first", "good", "latest"], "said later")
    assert run.collection("animals").aliases == ["first", "good", "latest"]
    silent = run.log_artifact(draft({"a": b"a"}))
    assert silent.description == "said later"  # what nobody said anything of stays


@pytest.mark.parametrize("aliases", [["v1"], ["a/b"], ["a:b"], [""]])
def test_aliases_that_are_refused(run: am.Run, aliases: list[str]) -> None:
    with pytest.raises(ValueError, match=r"alias|not yours to set"):
        run.log_artifact(draft({"a": b"a"}), aliases=aliases)
    assert run.names() == []


def test_one_type_for_a_name(run: am.Run) -> None:
    run.log_artifact(draft({"a": b"a"}))
    with pytest.raises(ValueError, match="animals already exists with type 'dataset'; a name has one type"):
        run.log_artifact(draft({"a": b"b"}, type_="model"))
    assert run.collection("animals").type == "dataset"


def test_a_file_that_changed_since_it_was_added(run: am.Run, home: Path) -> None:
    write(home, {"in/a": b"one", "in/b": b"b"})
    artifact = am.Artifact("animals", "dataset")
    artifact.add_dir("in")
    write(home, {"in/a": b"other", "in/c": b"not added"})
    with pytest.raises(StagingError, match=r"in/a changed since it was added; nothing was committed; add it again"):
        run.log_artifact(artifact)
    artifact.add_file("in/a", overwrite=True)  # it is still a draft
    assert [entry.path for entry in run.log_artifact(artifact).files()] == ["a", "b"]
    assert artifact.open("a").read() == b"other"


def test_a_path_is_logged(run: am.Run, home: Path) -> None:
    write(home, {"in/a": b"a", "b": b"b"})
    assert [e.path for e in run.log_artifact("in", name="folder", type="dataset").files()] == ["a"]
    file = run.log_artifact(home / "b", aliases=["x"])
    assert (file.name, file.type, file.aliases) == (f"run-{run.id}-b:v0", "unspecified", ["latest", "x"])
    assert run.log_artifact(f"file://{home}/in", name="far").get_entry("a").kind == "reference"
    with pytest.raises(ValueError, match="no such file"):
        run.log_artifact("nothing")


def test_what_lies_in_the_project_or_holds_it_is_refused(run: am.Run, home: Path) -> None:
    write(home, {"a": b"a"})
    holding = am.Artifact("animals", "dataset")
    holding.add_dir(home.parent)
    with pytest.raises(RefusedError, match=r"lies inside"):
        run.log_artifact(holding)
    inside = am.Artifact("animals", "dataset")
    inside.add_file(home.parent / "project/project.json")
    with pytest.raises(RefusedError, match=r"lies in the project folder"):
        run.log_artifact(inside)
    beside = am.Artifact("animals", "dataset")
    write(home.parent, {"b": b"b"})
    beside.add_file(home.parent / "b")  # in the same folder as the project, and no part of it
    assert run.log_artifact(beside).version == "v0"


def test_new_draft(run: am.Run, home: Path) -> None:
    first = run.log_artifact(draft({"a": b"a", "b": os.urandom(3 << 20), "c/d": b"d"}), aliases=["best"], tags=["t"])
    first.description, first.metadata = "about", {"n": 1}
    first.save()
    made = first.new_draft()
    assert made.is_draft() and (made.description, made.metadata, made.tags, made.ttl) == ("about", {"n": 1}, [], None)
    made.remove("c")
    with pytest.raises(ValueError, match="with other content"):
        made.add_file(write(home, {"a": b"b"}) / "a")
    made.add_file(write(home, {"a": b"a"}) / "a")  # what it has already
    with made.new_file("e") as file:
        file.write("e")
    second = run.log_artifact(made)
    assert (second.version, second.aliases, sorted(second.manifest.entries)) == ("v1", ["latest"], ["a", "b", "e"])
    assert run.sizes("animals")[1].adds == 1
    assert first.new_draft().is_draft() and run.log_artifact(first.new_draft()).version == "v0"


def test_a_draft_of_a_version_of_another_project(run: am.Run, home: Path) -> None:
    made = run.log_artifact(draft({"a": b"a"})).new_draft()
    with am.init(str(home / "other")) as other:
        with pytest.raises(ValueError, match="it cannot be logged in"):
            other.log_artifact(made)
        with pytest.raises(ArtifactFinalizedError):
            other.log_artifact(run.use_artifact("animals"))


def test_an_entry_is_added(run: am.Run) -> None:
    first = run.log_artifact(draft({"a": b"a", "b": b"b"}))
    made = am.Artifact("animals", "dataset")
    assert [entry.path for entry in made.add_reference(first.get_entry("a"), "x/y")] == ["x/y"]
    assert run.log_artifact(made).open("x/y").read() == b"a"


def test_an_entry_of_another_artifact_is_added(run: am.Run, home: Path) -> None:
    content = os.urandom(3 << 20)
    folder = write(home / "in", {"large": content, "run": b"#!", "empty": b""})
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")
    first = am.Artifact("animals", "dataset")
    first.add_dir("in")
    first.add_reference(f"file://{folder}/run", "far")
    run.log_artifact(first)
    other = am.Artifact("plants", "dataset")
    for path in ("large", "run", "run", "empty", "far"):
        other.add_reference(first.get_entry(path))
    with pytest.raises(ValueError, match="with other content"):
        other.add_reference(first.get_entry("large"), "run")
    with pytest.raises(NotSupportedError, match="add the file that it leads to"):
        other.add_reference(first.get_entry("link"))
    assert (other.size, other.file_count) == (len(content) + 4, 4)
    run.log_artifact(other)
    first.collection.delete()  # they share nothing
    assert other.open("large").read() == content and other.get_entry("far").ref == f"file://{folder}/run"
    other.download("out", allow_missing_references=True)  # nobody allowed to follow that one
    assert os.access("out/run", os.X_OK) and not os.access("out/large", os.X_OK) and (home / "out/empty").exists()
    assert (home / "out/run").stat().st_mtime_ns == (folder / "run").stat().st_mtime_ns


def test_incremental(run: am.Run) -> None:
    run.log_artifact(draft({"a": b"a", "b": b"b"}))
    made = am.Artifact("animals", "dataset", incremental=True)
    with made.new_file("b") as file:
        file.write("new")
    artifact = run.log_artifact(made)
    assert {path: artifact.open(path).read() for path in artifact.manifest} == {"a": b"a", "b": b"new"}
    fresh = am.Artifact("plants", "dataset", incremental=True)
    with fresh.new_file("b") as file:
        file.write("new")
    assert run.log_artifact(fresh).version == "v0"


def test_what_is_said_of_a_version_is_saved(run: am.Run) -> None:
    old = run.log_artifact(draft({"a": b"a"}), aliases=["x", "y"], tags=["t"])
    run.log_artifact(draft({"a": b"b"}))
    old = run.use_artifact("animals:v0")
    old.description, old.metadata, old.tags, old.ttl = "text", {"a": 1}, ["b", "a"], timedelta(hours=1)
    old.metadata["b"] = float("nan")
    old.aliases.remove("x")
    old.aliases.append("z")
    old.save()
    assert old.aliases == ["y", "z"]  # `latest` is another's
    again = run.use_artifact("animals:z")
    assert (again.description, again.metadata, again.tags, again.ttl) == ("text", {"a": 1, "b": None}, ["b", "a"], timedelta(hours=1))
    again.description, again.ttl, again.aliases = None, None, []
    again.save()
    last = run.use_artifact("animals:v0")
    assert (last.description, last.ttl, last.aliases, last.digest) == (None, None, [], old.digest)
    with pytest.raises(ValueError, match="not yours to set"):
        last.aliases = ["v7"]


def test_an_alias_that_moved_meanwhile_stays_where_it_is(run: am.Run) -> None:
    old = run.log_artifact(draft({"a": b"a"}), aliases=["best"])
    run.log_artifact(draft({"a": b"b"}), aliases=["best"])
    old.aliases = []
    old.save()
    assert run.use_artifact("animals:best").version == "v1"


def test_a_logged_artifact_is_logged_again(run: am.Run) -> None:
    artifact = run.log_artifact(draft({"a": b"a"}))
    assert run.log_artifact(artifact, aliases=["good"], tags=["t"]) is artifact
    assert run.use_artifact("animals").aliases == ["good", "latest"] and run.use_artifact("animals").tags == ["t"]


def test_save_logs_a_draft(home: Path) -> None:
    alone = draft({"a": b"a"})
    alone.save()
    assert alone.name == "animals:v0" and alone.project == str(home.parent / "project")
    with am.init(str(home / "other")) as other:
        within = draft({"a": b"a"})
        within.save()
        assert within.project == other.url
        elsewhere = draft({"a": b"b"})
        elsewhere.save(project=str(home / "third"))
        assert elsewhere.project == str(home / "third")
    for artifact in (alone, elsewhere):
        artifact._stored_version().opened.close()


def test_use_artifact(run: am.Run) -> None:
    run.log_artifact(draft({"a": b"a"}), aliases=["best"])
    run.log_artifact(draft({"a": b"b"}))
    assert [run.use_artifact(name).version for name in ("animals", "animals:latest", "animals:best", "animals:v0")] == [
        "v1",
        "v1",
        "v0",
        "v0",
    ]
    assert run.use_artifact(draft({"a": b"c"}), aliases=["c"]).aliases == ["c", "latest"]
    assert (artifact := run.use_artifact("animals", type="dataset")) is run.use_artifact(artifact)
    for name in ("plants", "animals:v9", "animals:nothing"):
        with pytest.raises(NotFoundError):
            run.use_artifact(name)
    for name in ("a b", "animals:v0/a", "animals:", ":v0"):
        with pytest.raises(ValueError, match="not a"):
            run.use_artifact(name)
    with pytest.raises(ValueError, match="is of type 'dataset', not 'model'"):
        run.use_artifact("animals", type="model")
    assert run.artifact_exists("animals:v0", "dataset") and run.artifact_exists("animals")
    assert not run.artifact_exists("plants") and not run.artifact_exists("animals:v9") and not run.artifact_exists("animals", "model")


def test_an_encrypted_project(home: Path) -> None:
    key, place = str(home / "key"), str(home / "secret")
    assert main(["--project", place, "--key-file", key, "init", "--encrypt"]) == 0
    with am.init(place, key_file=key) as run:
        first = run.log_artifact(draft({"a": b"a", "large": os.urandom(3 << 20)}))
        made = first.new_draft()
        made.add_file(write(home, {"a": b"a"}) / "a")  # the same content, by the project's own digests
        with made.new_file("b") as file:
            file.write("b")
        second = run.log_artifact(made)
        assert second.version == "v1" and second.open("large").read() == first.open("large").read()
        second.download("out")
        second.verify("out")
    with pytest.raises(LockedError):
        am.init(place)
