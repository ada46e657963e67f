"""One version of parts that several runs give: `upsert_artifact`, `finish_artifact`."""

from __future__ import annotations

from pathlib import Path

import pytest

import artifactmount as am
import artifactmount.wandb as wandb
from artifactmount.errors import ArtifactFinalizedError, NotFoundError, RefusedError, StagingError
from tests.api.conftest import draft, write


def test_several_runs_make_one_version(anywhere: Path) -> None:
    """As W&B's scripts do it; the last one may have files of its own, or none."""
    wandb.init(project="zoo", group="night")
    for rank in range(3):
        artifact = wandb.Artifact("animals", type="dataset")
        artifact.add_dir(str(write(anywhere / f"rank{rank}", {f"{rank}.txt": b"%d" % rank, "shared/readme": b"read me"})))
        assert wandb.upsert_artifact(artifact) is artifact and artifact.is_draft() and artifact.distributed_id == "night"
    wandb.finish()
    with am.init() as run:
        with pytest.raises(NotFoundError):
            run.artifact("animals:latest")
        last = am.Artifact("animals", "dataset", description="all", metadata={"ranks": 4})
        with last.new_file("3.txt") as file:
            file.write("3")
        done = run.finish_artifact(last, aliases=["best"], distributed_id="night")
        assert (done.version, done.description, done.metadata["ranks"], done.distributed_id) == ("v0", "all", 4, "night")
        assert sorted(done.manifest.entries) == ["0.txt", "1.txt", "2.txt", "3.txt", "shared/readme"]
        assert sorted(done.aliases) == ["best", "latest"]
        again = run.finish_artifact(am.Artifact("animals", "dataset"), distributed_id="night")
        assert again.version == "v0" and again.open("2.txt").read() == b"2"


def test_a_script_that_is_run_again_finds_its_version(anywhere: Path) -> None:
    """The leader's and a writer's, after the version was made: they make no version of their own files alone. Others need another id."""
    with am.init() as run:
        for _ in range(2):
            run.upsert_artifact(draft({"s0": b"0"}), distributed_id="night")
            done = run.finish_artifact(draft({"s1": b"1"}), distributed_id="night")
            assert done.version == "v0" and sorted(done.manifest.entries) == ["s0", "s1"]
        with pytest.raises(RefusedError, match="night became animals:v0, and this part is not in it"):
            run.upsert_artifact(draft({"s0": b"other"}), distributed_id="night")
        assert run.artifact("animals:latest").version == "v0"


def test_two_that_differ(run: am.Run) -> None:
    for content in (b"one", b"two"):
        run.upsert_artifact(draft({"a": content}), distributed_id="run-1")
    with pytest.raises(RefusedError, match=r"a differs between part 0 .* and part 2"):
        run.finish_artifact(am.Artifact("animals", "dataset"), distributed_id="run-1")
    assert not run.artifact_exists("animals")


def test_what_is_refused(run: am.Run, home: Path) -> None:
    with pytest.raises(TypeError, match="needs a distributed_id"):
        run.upsert_artifact(draft({"a": b"a"}))
    with pytest.raises(TypeError, match="needs a distributed_id"):
        run.finish_artifact(draft({"a": b"a"}))
    with pytest.raises(ValueError, match="not an id for parts"):
        run.upsert_artifact(draft({"a": b"a"}), distributed_id="a b")
    with pytest.raises(ValueError, match="is incremental"):
        run.upsert_artifact(am.Artifact("animals", "dataset", incremental=True), distributed_id="x")
    with pytest.raises(NotFoundError, match="has no parts of x"):
        run.finish_artifact(am.Artifact("animals", "dataset"), distributed_id="x")
    part = run.upsert_artifact(draft({"a": b"a"}), distributed_id="x", aliases=["later"])
    with pytest.raises(ArtifactFinalizedError):
        part.add_file(str(write(home, {"b": b"b"}) / "b"))
    logged = run.log_artifact(draft({"z": b"z"}))
    with pytest.raises(ArtifactFinalizedError):
        run.upsert_artifact(logged, distributed_id="x")
    for call in (run.upsert_artifact, run.finish_artifact):
        with pytest.raises(ValueError, match="already exists with type"):
            call(draft({"a": b"a"}, type_="model"), distributed_id="x")
    changed = am.Artifact("animals", "dataset")
    path = write(home, {"c": b"c"}) / "c"
    changed.add_file(str(path))
    path.write_bytes(b"other")
    with pytest.raises(StagingError):
        run.upsert_artifact(changed, distributed_id="x")
