"""References as typed: added, kept, refreshed, taken away, downloaded, verified, vendored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.cli.program import Program
from tests.cli.trees import read
from tests.encryption import ENCRYPTED
from tests.sources.places import BucketPlace, FolderPlace, web_place
from tests.store.servers import Server

MB = 1_000_000
CAT, DOG = (Random(seed).randbytes(size) for seed, size in enumerate((2 * MB, 1 * MB)))


def allow(program: Program, *prefixes: str) -> None:
    """Write the config file."""
    folder = Path(program.environment["XDG_CONFIG_HOME"]) / "artifactmount"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f"[references]\nallow = {list(prefixes)!r}\n")
    (folder / "config.toml").chmod(0o600)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def bucket(s3_server: Server) -> BucketPlace:
    """The user's own bucket, with two animals in it."""
    place = BucketPlace(s3_server)
    place.put("cat.png", CAT)
    place.put("pets/dog.png", DOG)
    return place


@pytest.fixture
def program(tmp_path: Path, s3_server: Server) -> Program:
    """A project in a folder, by a user with access to buckets."""
    program = Program(tmp_path, None, s3_server.environment())
    program.quick = True
    return program


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, program: Program, s3_server: Server) -> Program:
    """The same, and again with the project in a bucket."""
    if request.param == "s3":
        program.environment["ARTIFACTMOUNT_PROJECT"] = program.project = f"s3://{s3_server.make_bucket()}/some/prefix"
        program.run("init")
    return program


def contents(program: Program) -> Iterator[bytes]:
    """Every key of the project."""
    for path in Path(program.project).rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def test_the_example(anywhere: Program, bucket: BucketPlace, s3_server: Server, tmp_path: Path) -> None:
    added = anywhere.run("add-reference", "animals", bucket.uri())
    assert added.out == "animals:v0  +3 ~0 -0  adds 0 B  tracks 3.0 MB\n" and added.err == ""
    assert anywhere.run("add-reference", "animals", bucket.uri()).out == "animals:v0  unchanged\n"
    if anywhere.project.startswith("s3://"):
        page = s3_server.client.list_objects_v2(Bucket=anywhere.project.split("/")[2])["Contents"]
        assert sum(item["Size"] for item in page) < 10_000
    else:
        assert sum(map(len, contents(anywhere))) < 10_000
    listed = anywhere.run("ls", "animals:v0", "--json").json
    assert [(item["name"], item["kind"], item["size"]) for item in listed] == [("cat.png", "reference", 2 * MB), ("pets", "directory", 0)]
    assert listed[0]["uri"] == bucket.uri("cat.png") and listed[0]["checked"] and listed[0]["source_version"] is None
    assert anywhere.run("ls", "-l", "animals:v0/pets").out.endswith(f"dog.png -> {bucket.uri('pets/dog.png')}\n")
    du = anywhere.run("du", "animals", "--json").json
    assert du == [{"version": "v0", "tracks": 3 * MB, "adds": 0, "frees": 0, "stored": 0}]
    shown = anywhere.run("show", "animals", "--json").json
    assert (shown["files"], shown["references"], shown["directories"], shown["tracks"]) == (0, 2, 1, 3 * MB)
    other = anywhere.elsewhere(tmp_path / "other")
    other.quick = True
    assert other.run("download", "animals").out == "animals:v0  2 files (3.0 MB) written, 0 kept  artifacts/animals:v0\n"
    assert {path: file.content for path, file in read(other.folder / "artifacts/animals:v0").items() if hasattr(file, "content")} == {
        b"cat.png": CAT,
        b"pets/dog.png": DOG,
    }
    assert other.run("download", "animals").out == "animals:v0  0 files (0 B) written, 2 kept  artifacts/animals:v0\n"
    assert other.run("verify", "--references").out.endswith(", 2 references asked for: all good\n")


def test_a_folder_says_nothing_of_references(program: Program, bucket: BucketPlace) -> None:
    folder = write(program.folder / "mine", {"own.txt": b"own", "pets/mine.txt": b"mine"})
    program.run("snapshot", folder, "animals")
    assert program.run("add-reference", "animals", bucket.uri(), "--alias", "mixed").out.startswith("animals:v1  +2 ~0 -0  adds 0 B")
    assert program.run("snapshot", folder, "animals").out == "animals:v1  unchanged\n"
    (folder / "own.txt").write_bytes(b"other")
    assert program.run("snapshot", folder, "animals").out == "animals:v2  +0 ~1 -0  adds 5 B  tracks 3.0 MB\n"
    (folder / "pets/mine.txt").unlink()
    (folder / "pets").rmdir()  # of the folder, yes; of the version no: it still holds a reference
    assert program.run("snapshot", folder, "animals").out == "animals:v3  +0 ~0 -1  adds 0 B  tracks 3.0 MB\n"
    assert program.run("diff", "animals:mixed", "animals:v3").lines == ["M own.txt", "D pets/mine.txt"]
    assert program.run("snapshot", folder, "animals").out == "animals:v3  unchanged\n"


def test_a_copy_keeps_the_references_of_its_base(program: Program, bucket: BucketPlace) -> None:
    """And no others: neither when the latest has none, nor when it has more. `status` and `snapshot` speak of one version."""
    program.run("snapshot", write(program.folder / "mine", {"own.txt": b"own"}), "animals")
    program.run("checkout", "--copy", "animals", "without")
    program.run("add-reference", "animals", bucket.uri(), "--name", "wild")
    program.run("add-reference", "--remove", "animals", "wild/pets/dog.png")  # v2
    program.run("checkout", "--copy", "animals:v1", "with")
    write(program.folder / "with", {"new.txt": b"new"})
    write(program.folder / "without", {"other.txt": b"other"})
    assert program.run("status", "with").out == "A new.txt\n"
    assert program.run("snapshot", "with", "--json").json["version"] == "v3"
    assert program.run("diff", "animals:v1", "animals:v3").lines == ["A new.txt"]
    assert program.run("status", "with").out == ""
    assert program.run("download", "animals:v3", "down").code == 0
    assert (program.folder / "down/wild/pets/dog.png").read_bytes() == DOG  # and it leads where it did
    assert program.run("status", "without").lines == ["A other.txt"]
    program.run("snapshot", "without", code=4)
    assert program.run("snapshot", "--force", "without", "--json").json["version"] == "v4"
    assert program.run("diff", "animals:v0", "animals:v4").lines == ["A other.txt"]


def test_references_that_came_back_stay(program: Program, bucket: BucketPlace) -> None:
    """`latest` has them, and the highest version, which the delta is made against, has not."""
    folder = write(program.folder / "mine", {"own.txt": b"own"})
    program.run("snapshot", folder, "animals")
    program.run("add-reference", "animals", bucket.uri("cat.png"), "--name", "cat.png")
    program.snapshot(write(program.folder / "changed", {"own.txt": b"changed"}), "animals")
    program.run("add-reference", "--remove", "animals", "cat.png")  # v3
    program.run("checkout", "--copy", "animals:v1", "work")
    assert program.run("snapshot", "--force", "work").out == "animals:v1  unchanged\n"
    (folder / "new.txt").write_bytes(b"new")
    assert program.run("snapshot", folder, "animals", "--json").json["version"] == "v4"
    assert program.run("diff", "animals:v1", "animals:v4").lines == ["A new.txt"]


def test_what_the_folder_has_wins(program: Program, bucket: BucketPlace) -> None:
    program.run("add-reference", "animals", bucket.uri())
    folder = write(program.folder / "at", {"cat.png": b"a cat of my own"})
    assert program.run("snapshot", folder, "animals").out == "animals:v1  +0 ~1 -0  adds 15 B  tracks 1.0 MB\n"
    folder = write(program.folder / "above", {"pets": b"a file"})
    assert program.run("snapshot", folder, "animals").out.startswith("animals:v2  +0 ~1 -2  adds 6 B")
    program.run("add-reference", "other", bucket.uri())
    folder = write(program.folder / "below", {"cat.png/is/a/folder": b"x"})
    assert program.run("snapshot", folder, "other").out.startswith("other:v1  +3 ~1 -0")
    assert program.run("diff", "other:v0", "other:v1").lines == ["M cat.png/", "A cat.png/is/", "A cat.png/is/a/", "A cat.png/is/a/folder"]
    program.run("add-reference", "empty", bucket.uri("cat.png"), "--name", "deep/down/cat.png")
    (program.folder / "hollow/deep/down/cat.png").mkdir(parents=True)
    assert program.run("snapshot", program.folder / "hollow", "empty").out.startswith("empty:v1  +0 ~1 -0")


def test_a_refresh_mirrors_the_source(program: Program, bucket: BucketPlace) -> None:
    folder = write(program.folder / "mine", {"own.txt": b"own"})
    program.run("snapshot", folder, "animals")
    program.run("add-reference", "animals", bucket.uri(), "--name", "wild/ones")
    program.run("add-reference", "animals", bucket.uri("cat.png"), "--name", "tame/tom.png")
    bucket.put("cat.png", DOG)
    bucket.put("new/rat.png", b"rat")
    bucket.delete("pets/dog.png")
    assert program.run("add-reference", "animals", bucket.uri(), "--name", "wild/ones").out.startswith("animals:v3  +2 ~1 -2")
    assert program.run("diff", "animals:v2", "animals:v3").lines == [
        "M wild/ones/cat.png",
        "A wild/ones/new/",
        "D wild/ones/pets/",
        "A wild/ones/new/rat.png",
        "D wild/ones/pets/dog.png",
    ]
    assert program.run("log", "animals/tame/tom.png").out.count("\n") == 1  # recorded as it was


def test_references_are_taken_away(program: Program, bucket: BucketPlace) -> None:
    program.run("snapshot", write(program.folder / "mine", {"own.txt": b"own"}), "animals")
    program.run("add-reference", "animals", bucket.uri(), "--name", "wild")
    assert program.run("add-reference", "--remove", "animals", "wild/pets/dog.png").out.startswith("animals:v2  +0 ~0 -2")
    program.run("add-reference", "--remove", "animals", "nowhere", code=3)
    refused = program.run("add-reference", "--remove", "animals", "own.txt", code=4)
    assert "own.txt is no reference" in refused.err
    program.run("add-reference", "--remove", "none", "x", code=3)
    assert program.run("add-reference", "--remove", "animals", "wild").out == "animals:v0  unchanged\n"  # again what v0 is
    program.run("add-reference", "--remove", "animals", "wild", "--name", "x", code=2)


def test_what_is_in_the_way_is_not_replaced(program: Program, bucket: BucketPlace) -> None:
    folder = write(program.folder / "mine", {"cat.png": b"own", "pets": b"a file"})
    program.run("snapshot", folder, "animals")
    assert "cat.png is a file of the version already" in program.run("add-reference", "animals", bucket.uri("cat.png"), code=4).err
    assert "pets is a file" in program.run("add-reference", "animals", bucket.uri("pets/dog.png"), "--name", "pets/dog", code=4).err
    bucket.put("x", b"1")
    bucket.put("x/y", b"2")
    assert "x would be a file, and a folder" in program.run("add-reference", "animals", bucket.uri(), "--name", "all", code=4).err
    bucket.delete("x")
    bucket.put("x//y", b"2")
    assert "cannot be referenced" in program.run("add-reference", "animals", bucket.uri("x"), code=4).err
    assert program.run("ls", "animals").lines == ["v0  latest"]


def test_too_many_are_an_error_not_a_cut(program: Program, bucket: BucketPlace) -> None:
    assert "more than 1 objects" in program.run("add-reference", "animals", bucket.uri(), "--max-objects", "1", code=4).err
    program.run("ls", "animals", code=3)
    program.run("add-reference", "animals", bucket.uri(), "--max-objects", "2")
    program.run("add-reference", "animals", bucket.uri("nothing"), code=3)
    program.run("add-reference", "animals", "/data", code=2)
    program.run("add-reference", "animals", "s3://a", "s3://b", code=2)
    program.run("add-reference", "animals", bucket.uri("cat.png"), "--name", "../x", code=4)
    program.run("add-reference", "animals", bucket.uri("cat.png"), "--type", "model", code=4)


def test_a_changed_source_is_named(program: Program, bucket: BucketPlace) -> None:
    program.run("add-reference", "animals", bucket.uri())
    bucket.put("cat.png", DOG)
    ran = program.run("verify", "animals:v0", "--references", "--json", code=1).json
    assert ran["references"] == 2 and len(ran["problems"]) == 1
    assert ran["problems"][0].startswith(f"animals:v0 cat.png: {bucket.uri('cat.png')} changed since it was referenced: its ETag was ")
    assert program.run("verify", "animals:v0").out.endswith("all good\n")
    failed = program.run("download", "animals", "there", code=6)
    assert failed.err.startswith("artifactmount: cat.png: ") and "--allow-missing-references" in failed.err
    bucket.delete("pets/dog.png")
    ran = program.run("download", "animals", "there", "--allow-missing-references", "--json")
    assert ran.json["written"] == 0 and len(ran.json["skipped"]) == 2
    assert ran.err.count("artifactmount: skipped ") == 2 and f"{bucket.uri('pets/dog.png')} is gone" in ran.err
    assert sorted(os.listdir(program.folder / "there")) == ["pets"]
    allow(program, bucket.uri())
    assert "cat.png: " in program.run("vendor", "animals", code=6).err
    assert program.run("ls", "animals").lines == ["v0  latest"]


def test_without_a_checksum(program: Program, bucket: BucketPlace) -> None:
    program.run("add-reference", "animals", bucket.uri("cat.png"), "--no-checksum")
    bucket.put("cat.png", CAT[::-1])
    assert program.run("add-reference", "animals", bucket.uri("cat.png"), "--no-checksum").out == "animals:v0  unchanged\n"
    assert program.run("verify", "--references").out.endswith("all good\n")
    program.run("download", "animals")
    assert (program.folder / "artifacts/animals:v0/cat.png").read_bytes() == CAT[::-1]
    bucket.put("cat.png", DOG)
    program.run("verify", "--references", code=1)
    assert program.run("add-reference", "animals", bucket.uri("cat.png"), "--no-checksum").out.startswith("animals:v1  +0 ~1 -0")


def test_vendored_references_are_content(program: Program, bucket: BucketPlace) -> None:
    folder = write(program.folder / "mine", {"copy of dog.png": DOG, "run.sh": b"#!"})
    program.run("snapshot", folder, "animals")
    program.run("add-reference", "animals", bucket.uri(), "--note", "linked")
    bucket.put("empty", b"")
    program.run("add-reference", "animals", bucket.uri("empty"))
    allow(program, bucket.uri())
    # DOG is there already, as somebody's own file.
    assert program.run("vendor", "animals", "--note", "for good").out == "animals:v3  +0 ~3 -0  adds 2.0 MB  tracks 4.0 MB\n"
    assert program.run("vendor", "animals").out == "animals:v3  unchanged\n"
    assert program.run("vendor", "animals:v3").out == "animals:v3  unchanged\n"
    shown = program.run("show", "animals", "--json").json
    assert (shown["files"], shown["references"], shown["note"]) == (5, 0, "for good")
    for name in ("cat.png", "pets/dog.png", "empty"):
        bucket.delete(name)
    program.run("download", "animals", "copy")
    assert (program.folder / "copy/cat.png").read_bytes() == CAT and (program.folder / "copy/pets/dog.png").read_bytes() == DOG
    assert program.run("verify").out.endswith("all good\n")
    assert "no references in animals:v0" in program.run("vendor", "animals:v0", code=3).err


def test_an_older_version_is_vendored_on_top(program: Program, bucket: BucketPlace) -> None:
    folder = write(program.folder / "mine", {"a": b"a", "b": b"b"})
    program.run("snapshot", folder, "animals")
    program.run("add-reference", "animals", bucket.uri())
    program.run("add-reference", "--remove", "animals", "cat.png")
    (folder / "a").unlink()
    (folder / "c").mkdir()
    (folder / "c/d").symlink_to("../b")
    program.run("snapshot", folder, "animals")
    allow(program, bucket.uri())
    assert program.run("vendor", "animals:v1", "--json").json["version"] == "v4"
    assert program.run("diff", "animals:v1", "animals:v4").lines == ["M cat.png", "M pets/dog.png"]
    program.run("download", "animals:v4", "copy")
    assert (program.folder / "copy/cat.png").read_bytes() == CAT and (program.folder / "copy/a").read_bytes() == b"a"
    program.run("vendor", "animals:v9", code=3)
    program.run("vendor", "animals/cat.png", code=2)
    program.run("delete", "animals:v0", "animals:v1", "animals:v2", "--yes")
    assert program.run("verify", "--references").out.endswith("all good\n")


def test_vendor_hands_on_only_what_was_named(program: Program, bucket: BucketPlace, s3_server: Server) -> None:
    """Whoever may write recorded a key that only the credentials of the one who vendors open: its bytes went to everybody."""
    theirs = BucketPlace(s3_server)
    theirs.put("payroll.csv", b"secret")
    program.run("add-reference", "animals", bucket.uri("cat.png"))
    program.run("add-reference", "animals", theirs.uri("payroll.csv"), "--no-checksum")
    program.run("download", "animals")  # for one's own eyes
    assert "cat.png: " in (nothing := program.run("vendor", "animals", code=5).err) and "`references.allow`" in nothing
    for allowed in (bucket.uri(), theirs.uri("payroll"), "file:///"):
        allow(program, allowed)
        assert "is not followed" in program.run("vendor", "animals", code=5).err
    assert not [content for content in contents(program) if b"secret" in content]
    assert program.run("ls", "animals").lines == ["v0", "v1  latest"]
    allow(program, bucket.uri(), theirs.uri())
    assert program.run("vendor", "animals").out.startswith("animals:v2  +0 ~2 -0")
    assert ENCRYPTED or [content for content in contents(program) if b"secret" in content]


def test_only_what_is_allowed_is_followed(program: Program, tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "scans")
    place.put("1.dcm", b"scan")
    added = program.run("add-reference", "animals", place.uri())
    assert added.out == "animals:v0  +1 ~0 -0  adds 0 B  tracks 4 B\n" and "`references.allow`" in added.err
    for command in (("download", "animals"), ("vendor", "animals")):
        assert "is not followed" in program.run(*command, code=5).err
    assert "is not followed" in program.run("verify", "--references", code=1).out
    assert "skipped 1.dcm" in program.run("download", "animals", "there", "--allow-missing-references").err
    allow(program, "s3://", place.uri())
    assert program.run("add-reference", "animals", place.uri()).err == ""
    program.run("download", "animals")
    assert program.run("vendor", "animals").out == "animals:v1  +0 ~1 -0  adds 4 B  tracks 4 B\n"
    allow(program, "nonsense")
    program.run("verify", "--references", code=2)


def test_a_file_of_a_web_server(program: Program, tmp_path: Path) -> None:
    program.environment["NO_PROXY"] = "127.0.0.1"
    with web_place(tmp_path / "web") as place:
        place.put("cat.png", CAT)
        program.run("add-reference", "animals", place.uri("cat.png"))
        program.run("add-reference", "animals", f"{place.host}/plain/cat.png?size=large", "--name", "big/cat.png")
        allow(program, place.host)
        program.run("download", "animals")
        assert (program.folder / "artifacts/animals:v1/cat.png").read_bytes() == CAT
        assert program.run("ls", "animals:v1/big").out == "cat.png\n"
    assert program.run("download", "animals", "there", code=5).err.startswith("artifactmount: cat.png: http://127.0.0.1:")
