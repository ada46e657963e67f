"""The example that users check first, to the byte; what `snapshot` prints, keeps and refuses."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests import encryption
from tests.cli.program import Program
from tests.cli.trees import File, Folder, read, stored_bytes, write
from tests.store.servers import Server

MB = 1_000_000
CAT, DOG, RAT = (Random(seed).randbytes(size) for seed, size in enumerate((2 * MB, 1 * MB, 3 * MB)))


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write(tmp_path / "animals", {b"cat.png": File(CAT), b"dog.png": File(DOG)})


def bytes_in(program: Program, request: pytest.FixtureRequest) -> int:
    """What the project's artifacts take in their store, in the folder `data`."""
    if not program.project.startswith("s3://"):
        return stored_bytes(Path(program.project) / "artifacts/animals/data")
    server: Server = request.getfixturevalue("s3_server")
    bucket, _, prefix = program.project.removeprefix("s3://").partition("/")
    page = server.client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/artifacts/animals/data/")
    return sum(item["Size"] for item in page["Contents"])


def test_the_example(anywhere: Program, animals: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    anywhere.quick = False
    assert anywhere.run("snapshot", animals, "animals").out == "animals:v0  +2 ~0 -0  adds 3.0 MB  tracks 3.0 MB\n"
    assert 3 * MB <= bytes_in(anywhere, request) <= 3.03 * MB
    (animals / "rat.png").write_bytes(RAT)
    assert anywhere.run("snapshot", animals, "animals").out == "animals:v1  +1 ~0 -0  adds 3.0 MB  tracks 6.0 MB\n"
    assert 6 * MB <= bytes_in(anywhere, request) <= 6.06 * MB
    assert anywhere.run("snapshot", animals, "animals").out == "animals:v1  unchanged\n"
    versions = anywhere.run("ls", "animals", "--json").json
    assert [(v["version"], v["tracks"], v["adds"], v["files"], v["aliases"]) for v in versions] == [
        ("v0", 3 * MB, 3 * MB, 2, []),
        ("v1", 6 * MB, 3 * MB, 3, ["latest"]),
    ]
    assert anywhere.run("diff", "animals:v0", "animals:v1").out == "A rat.png\n"
    other = anywhere.elsewhere(tmp_path / "other machine")
    assert other.run("download", "animals").out == "animals:v1  3 files (6.0 MB) written, 0 kept  artifacts/animals:v1\n"
    assert read(other.folder / "artifacts/animals:v1") == read(animals)
    other.run("download", "animals:v0", "old")
    assert read(other.folder / "old") == {b"cat.png": File(CAT), b"dog.png": File(DOG)}
    assert other.run("verify").out.endswith(" read: all good\n")


def test_a_snapshot_as_json(anywhere: Program, animals: Path) -> None:
    said = {"artifact": "animals", "version": "v0", "changed": True, "added": 2, "modified": 0, "removed": 0, "adds": 3 * MB, "ignored": 0}
    aliases = ["best", "good", "latest"]
    options = ("--alias", "best", "--alias", "good", "--json")
    assert anywhere.run("snapshot", animals, "animals", *options).json == said | {"tracks": 3 * MB, "aliases": aliases}
    (animals / "dog.png").unlink()
    (animals / "cat.png").write_bytes(CAT[:-1])
    changed = anywhere.run("snapshot", animals, "animals", "--json").json
    assert (changed["version"], changed["added"], changed["modified"], changed["removed"]) == ("v1", 0, 1, 1)
    assert changed["tracks"] == 2 * MB - 1 and 0 < changed["adds"] < 2 * MB and changed["aliases"] == ["latest"]
    again = anywhere.run("snapshot", animals, "animals", "--json").json
    assert (again["version"], again["changed"], again["adds"], again["added"]) == ("v1", False, 0, 0)


def test_content_that_an_older_version_has_makes_no_new_one(program: Program, animals: Path) -> None:
    program.run("snapshot", animals, "animals")
    (animals / "dog.png").write_bytes(b"woof")
    program.run("snapshot", animals, "animals")
    (animals / "dog.png").write_bytes(DOG)
    assert program.run("snapshot", animals, "animals").out == "animals:v0  unchanged\n"
    assert program.run("ls", "animals").lines == ["v0  latest", "v1"]


def test_a_rename_and_a_copy_store_nothing_anew(program: Program, animals: Path) -> None:
    program.run("snapshot", animals, "animals")
    os.rename(animals / "cat.png", animals / "tiger.png")
    (animals / "puppy.png").write_bytes(DOG)
    assert program.run("snapshot", animals, "animals").out == "animals:v1  +2 ~0 -1  adds 0 B  tracks 4.0 MB\n"


def test_the_same_size_and_time_of_modification_hide_no_change(program: Program, animals: Path) -> None:
    program.run("snapshot", animals, "animals")
    before = (animals / "cat.png").stat()
    (animals / "cat.png").write_bytes(RAT[: 2 * MB])
    os.utime(animals / "cat.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert program.run("snapshot", animals, "animals").out == "animals:v1  +0 ~1 -0  adds 2.0 MB  tracks 3.0 MB\n"


def test_the_executable_bit_alone_is_a_change(program: Program, animals: Path) -> None:
    program.run("snapshot", animals, "animals")
    (animals / "cat.png").chmod(0o755)
    assert program.run("snapshot", animals, "animals").out == "animals:v1  +0 ~1 -0  adds 0 B  tracks 3.0 MB\n"


def test_an_empty_folder_is_a_version(program: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert program.run("snapshot", tmp_path / "empty", "nothing").out == "nothing:v0  +0 ~0 -0  adds 0 B  tracks 0 B\n"
    assert program.run("ls", "nothing:v0").out == ""
    program.run("download", "nothing")
    assert read(program.folder / "artifacts/nothing:v0") == {}


def test_note_type_and_metadata(anywhere: Program, animals: Path) -> None:
    options = ("--note", "first\nlight", "--type", "images", "--metadata", "source=web", "--metadata", 'n={"a": [1, null]}')
    anywhere.run("snapshot", animals, "animals", *options, "--metadata", "x=NaN")
    shown = anywhere.run("show", "animals", "--json").json
    assert (shown["note"], shown["type"], shown["base"]) == ("first\nlight", "images", None)
    assert shown["metadata"] == {"source": "web", "n": {"a": [1, None]}, "x": "NaN"}
    assert anywhere.run("snapshot", animals, "animals", "--note", "second").out == "animals:v0  unchanged\n"
    shown = anywhere.run("show", "animals", "--json").json
    assert (shown["note"], shown["metadata"]["source"]) == ("second", "web")
    purged, described, _ = anywhere.run("log", "animals").lines  # the old card leaves the bucket
    assert described.endswith("  animals:v0 described") and purged.endswith("  animals: 1 pack purged from the store")


def test_a_name_has_one_type(anywhere: Program, animals: Path) -> None:
    anywhere.run("snapshot", animals, "animals", "--type", "images")
    before = anywhere.run("log", "animals", "--json").json
    (animals / "rat.png").write_bytes(RAT)
    refused = anywhere.run("snapshot", animals, "animals", "--type", "model", code=4)
    assert "'images'" in refused.err and "'model'" in refused.err
    assert anywhere.run("ls", "animals").lines == ["v0  latest"]
    after = anywhere.run("log", "animals", "--json").json
    assert [next(iter(entry["act"])) for entry in after[: len(after) - len(before)]] in ([], ["close", "open"])
    assert anywhere.run("snapshot", animals, "animals").out.startswith("animals:v1  +1")
    assert anywhere.run("show", "animals", "--json").json["type"] == "images"
    assert anywhere.run("verify").code == 0


def test_artifacts_do_not_touch_each_other(program: Program, animals: Path, tmp_path: Path) -> None:
    program.run("snapshot", animals, "animals")
    folder = write(tmp_path / "plants", {b"trees": Folder(), b"trees/oak": File(CAT)})
    assert program.run("snapshot", folder, "plants").out == "plants:v0  +2 ~0 -0  adds 2.0 MB  tracks 2.0 MB\n"
    assert program.run("ls").lines == ["animals", "plants"]


@encryption.plain_only
def test_the_embedded_project_and_the_config_file(program: Program, animals: Path) -> None:
    """Without a word of configuration the project is a folder of the user's."""
    del program.environment["ARTIFACTMOUNT_PROJECT"], program.environment["ARTIFACTMOUNT_CACHE"]
    program.run("snapshot", animals, "animals")
    assert (program.home / "home/data/artifactmount/project.json").is_file()
    assert (program.home / "home/cache/artifactmount").is_dir()
    config = program.home / "home/config/artifactmount/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'project = "{program.home}/configured"\n')
    config.chmod(0o600)
    program.run("ls", code=3)
    program.run("snapshot", animals, "animals")
    assert (program.home / "configured/project.json").is_file()
    program.run("--project", str(program.home / "said"), "snapshot", animals, "animals")
    assert (program.home / "said/project.json").is_file()
    config.write_text("project = [\n")
    assert str(config) in program.run("ls", code=2).err


def test_init_again_changes_nothing(anywhere: Program) -> None:
    first = anywhere.run("init", "--json").json
    second = anywhere.run("init", "--json").json
    assert first["id"] == second["id"] and not second["created"]
    assert anywhere.run("init").out == f"{anywhere.project}: a project already, nothing was changed\n"
    assert anywhere.run("ls").out == "" and anywhere.run("log").out == ""
    assert anywhere.run("verify").out == "0 packs, 0 B read: all good\n"
