"""`import artifactmount.wandb as wandb`: W&B's digests, labels, and the functions of its module and of its public API."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import artifactmount.wandb as wandb
from artifactmount.errors import NotFoundError, StagingError
from tests.api.conftest import write


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No run is left under way."""
    yield
    wandb.finish()


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()  # noqa: S324 - W&B's


def manifest(digests: dict[str, str]) -> str:
    text = "wandb-artifact-manifest-v1\n" + "".join(f"{path}:{digests[path]}\n" for path in sorted(digests))
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324 - W&B's


FILES = {"b.txt": b"b", "a/c": b"c" * (3 << 20), "a-b": b""}
DIGEST = manifest({path: md5(content) for path, content in FILES.items()})


def test_the_digest_is_the_one_of_wandb(home: Path) -> None:
    artifact = wandb.Artifact("animals", "dataset")
    artifact.add_dir(str(write(home / "in", FILES)))
    assert artifact.digest == DIGEST and artifact.get_entry("b.txt").digest == md5(b"b")
    run = wandb.init()
    run.log_artifact(artifact)
    assert artifact.digest == run.use_artifact("animals").digest == artifact.commit_hash == DIGEST
    assert artifact.get_entry("a/c").digest == md5(FILES["a/c"])
    assert artifact.manifest.to_manifest_json()["contents"]["b.txt"] == {"digest": md5(b"b"), "size": 1}


def test_a_version_that_was_logged_otherwise_is_read_for_its_digest(home: Path) -> None:
    import artifactmount as am

    with am.init() as run:
        plain = run.log_artifact(str(write(home / "in", FILES)), "animals", "dataset")
        assert len(plain.digest) == 64
    artifact = wandb.init().use_artifact("animals")
    assert artifact.digest == DIGEST
    made = artifact.new_draft()
    assert made.digest == DIGEST
    made.remove("a")
    made.save()
    assert made.name == "animals:v1" and made.digest == manifest({path: md5(FILES[path]) for path in ("b.txt", "a-b")})


def test_digests_of_links_and_references(home: Path) -> None:
    folder = write(home / "in", {"a": b"a"})
    (folder / "link").symlink_to("a")
    artifact = wandb.Artifact("animals", "dataset")
    artifact.add_dir("in")
    (reference,) = artifact.add_reference(f"file://{folder}/a", "far")
    assert reference.digest == f"file://{folder}/a" and artifact.get_entry("link").digest == md5(b"a")
    assert artifact.digest == wandb.init().log_artifact(artifact).digest


def test_the_digest_of_a_file_of_another_artifact(home: Path) -> None:
    write(home / "in", FILES)
    run = wandb.init()
    first = run.log_artifact("in", "animals", "dataset")
    other = wandb.Artifact("plants", "dataset")
    for path in FILES:
        other.add_reference(first.get_entry(path))
    assert other.digest == DIGEST == run.log_artifact(other).digest


def test_a_file_that_changed_has_no_digest(home: Path) -> None:
    artifact = wandb.Artifact("animals", "dataset")
    artifact.add_file(str(write(home, {"a": b"one"}) / "a"))
    write(home, {"a": b"other"})
    with pytest.raises(StagingError, match="changed since it was added; add it again"):
        wandb.init().log_artifact(artifact)


def test_labels_are_no_places(home: Path) -> None:
    with wandb.init(entity="me", project="zoo", job_type="train", name="first", config={"lr": 1}, mode="online") as run:
        assert (run.project, run.entity, run.name, run.job_type, run.config) == ("zoo", "me", "first", "train", {"lr": 1})
        assert run.url == str(home.parent / "project")
        run.log_artifact(str(write(home / "in", FILES)), name="animals", type="dataset")
        for name in ("animals", "zoo/animals", "me/zoo/animals:latest", "me/zoo/animals:v0"):
            assert run.use_artifact(name).version == "v0"
        for name in ("other/animals", "you/zoo/animals", "a/b/c/animals"):
            with pytest.raises(ValueError, match=r"open the other one|not an artifact"):
                run.use_artifact(name)
    with wandb.init(project=str(home / "place")) as other:
        assert other.project == other.url == str(home / "place")
    assert wandb.Api().artifact("anyone/anything/animals:v0").version == "v0"


def test_the_functions_of_the_module(home: Path) -> None:
    write(home / "in", FILES)
    artifact = wandb.Artifact("animals", "dataset")
    artifact.add_dir("in")
    wandb.log_artifact(artifact)  # begins a run
    assert wandb.run is not None and wandb.use_artifact("animals").version == "v0"
    saved = wandb.Artifact("animals", "dataset")
    saved.add_file("in/b.txt")
    saved.save()
    assert saved.version == "v1"
    with pytest.raises(NotImplementedError, match="log is not supported"):
        wandb.log({"loss": 1.0})
    wandb.finish()
    assert vars(wandb)["run"] is None
    with pytest.raises(wandb.CommError):
        wandb.use_artifact("plants")
    with pytest.raises(wandb.errors.CommError):
        wandb.use_artifact("plants")


def test_downloads_go_where_the_environment_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(home / "elsewhere"))
    artifact = wandb.init().log_artifact(str(write(home / "in", FILES)), "animals", "dataset")
    assert artifact.download() == str(home / "elsewhere/animals:v0") and (home / "elsewhere/animals:v0/b.txt").exists()


def test_the_time_to_live_is_inherited_from_nothing(home: Path) -> None:
    artifact = wandb.Artifact("animals", "dataset")
    artifact.ttl = timedelta(days=1)
    artifact.ttl = wandb.ArtifactTTL.INHERIT
    assert artifact.ttl is None


def test_the_public_api(home: Path) -> None:
    write(home / "in", FILES)
    with wandb.init() as run:
        run.log_artifact("in", "animals", "dataset", tags=["a", "b"])
        run.log_artifact("in/b.txt", "animals", "dataset", tags=["a"])
        run.log_artifact("in", "net", "model")
    api = wandb.Api()
    assert [artifact.version for artifact in api.artifacts("dataset", "animals")] == ["v1", "v0"]
    assert [artifact.version for artifact in api.artifacts("dataset", "animals", tags=["a", "b"])] == ["v0"]
    assert [collection.name for collection in api.artifact_collections("any", "model")] == ["net"]
    assert api.artifact_types() == ["dataset", "model"]
    assert api.artifact_exists("animals:v0") and not api.artifact_exists("animals:v9")
    assert api.artifact_collection_exists("net", "model") and not api.artifact_collection_exists("net", "dataset")
    assert not api.artifact_collection_exists("plants", "dataset")
    with pytest.raises(NotFoundError, match="is of type"):
        api.artifact_collection("model", "animals")
    api.finish()


def test_the_public_api_makes_no_project(home: Path) -> None:
    with pytest.raises(NotFoundError, match="no project at"):
        wandb.Api()
    assert not (home.parent / "project").exists()
