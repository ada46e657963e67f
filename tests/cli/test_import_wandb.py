"""`import-wandb`: what W&B left on this machine becomes the same version here, or nothing does."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import pytest

from artifactmount import wandb
from artifactmount.assembly import AssembledStaging
from artifactmount.staging import Staging
from tests.cli.program import Program
from tests.wandb_artifacts import cached, digest, downloaded, file_entry, manifest, md5

FILES = {"cat.png": b"a cat", "sub/dog.png": b"a dog", "sub/empty": b"", "large.bin": random.Random(1).randbytes(3_000_000)}
S3 = {"ref": "s3://zoo/fox.png", "digest": "0123456789abcdef", "size": 7, "extra": {"etag": "0123456789abcdef", "versionID": "v-1"}}


@pytest.fixture
def quick(program: Program) -> Program:
    program.quick = True
    return program


@pytest.fixture
def folder(program: Program) -> Path:
    return program.folder / "artifacts/zoo:v3"


def kept_digest(program: Program, artifact: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """W&B's digest that is kept with a version, and a script sees; empty where none is."""
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    version = wandb.Api().artifact(artifact)
    assert version._stored is not None
    kept = version._stored.card.labels.md5
    assert kept in ("", version.digest)
    return kept


def _watched(staging: AssembledStaging, real: Callable[[AssembledStaging, bytes], int], reads: list[bytes], path: bytes) -> int:
    reads.append(path)
    return real(staging, path)


def nothing_was_made(program: Program) -> bool:
    """Whether no version of any artifact is there."""
    return program.run("ls").out == ""


def test_a_download_becomes_a_version(anywhere: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, folder = anywhere, anywhere.folder / "artifacts/zoo:v3"
    program.quick = True
    contents = downloaded(folder, FILES, {"fox.png": S3})
    (folder / "not of it").write_bytes(b"x")
    (folder / "sub/dog.png").chmod(0o755)
    ran = program.run("import-wandb", folder, "--alias", "best", "--type", "dataset", "--note", "from W&B", "--metadata", "n=1", "--json")
    assert ran.err == ""
    expected = {"artifact": "zoo", "version": "v0", "changed": True, "added": 6, "aliases": ["best", "latest"]}
    assert ran.json | expected == ran.json
    assert set(program.run("ls", "zoo:v0").lines) >= {"cat.png", "fox.png", "large.bin"}
    shown = program.run("show", "zoo", "--json").json
    assert (shown["note"], shown["metadata"]["n"]) == ("from W&B", 1)
    for path in ("large.bin", "sub"):
        program.run("download", f"zoo/{path}", tmp_path / "out")
    assert all((tmp_path / "out" / path).read_bytes() == FILES[path] for path in FILES if path != "cat.png")
    assert os.access(tmp_path / "out/sub/dog.png", os.X_OK)
    assert kept_digest(program, "zoo:v0", monkeypatch) == digest(contents)


def test_the_same_again_makes_no_version(program: Program, folder: Path) -> None:
    downloaded(folder, FILES)
    assert program.run("import-wandb", folder).out.startswith("zoo:v0  +5 ~0 -0")
    quick = program
    quick.quick = True
    assert quick.run("import-wandb", folder).out == "zoo:v0  unchanged\n"
    (folder / "wandb_manifest.json").unlink()
    quick.run("snapshot", folder, "zoo")  # a folder of the same files is the same version
    assert quick.run("ls", "zoo").lines == ["v0  latest"]


def test_a_version_has_what_its_manifest_has_and_no_more(quick: Program, folder: Path) -> None:
    downloaded(folder, FILES, {"fox.png": S3})
    quick.run("import-wandb", folder)
    (folder / "cat.png").write_bytes(b"another cat")
    other = {"cat.png": file_entry(b"another cat")}
    (folder / "wandb_manifest.json").write_text(manifest(other))
    assert quick.run("import-wandb", folder).out.startswith("zoo:v1  +0 ~1 -5")


def test_an_equal_snapshot_gets_the_digest(quick: Program, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick.folder.joinpath("plain").mkdir()
    (quick.folder / "plain/cat.png").write_bytes(b"a cat")
    quick.run("snapshot", "plain", "zoo")
    contents = downloaded(folder, {"cat.png": b"a cat"})
    assert quick.run("import-wandb", folder).out == "zoo:v0  unchanged\n"
    assert kept_digest(quick, "zoo", monkeypatch) == digest(contents)


@pytest.mark.parametrize("where", ["--wandb-cache", "WANDB_CACHE_DIR", "XDG_CACHE_HOME"])
def test_what_is_not_in_the_folder_is_in_the_cache(quick: Program, tmp_path: Path, where: str) -> None:
    given = tmp_path / "kept"
    cached({"--wandb-cache": given, "WANDB_CACHE_DIR": given / "artifacts"}.get(where, given / "wandb/artifacts"), *FILES.values())
    file = tmp_path / "saved.json"
    file.write_text(manifest({path: file_entry(content) for path, content in FILES.items()}))
    (tmp_path / "none").mkdir()
    options = ["--wandb-cache", str(given)] if where.startswith("--") else []
    quick.environment |= {} if options else {where: str(given)}
    ran = quick.run("import-wandb", tmp_path / "none", "zoo", "--manifest", file, *options)
    assert ran.out.startswith("zoo:v0  +5 ~0 -0")
    quick.run("download", "zoo", tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize("path", ["cat.png", "large.bin"])
def test_other_content_is_named(quick: Program, folder: Path, path: str) -> None:
    downloaded(folder, FILES)
    content = bytearray(FILES[path])
    content[-1] ^= 1
    (folder / path).write_bytes(content)
    refused = quick.run("import-wandb", folder, code=6).err
    assert all(said in refused for said in (str(folder / path), md5(bytes(content)), md5(FILES[path]), "nothing was committed"))
    assert nothing_was_made(quick)


@pytest.mark.parametrize("path", ["cat.png", "large.bin"])
def test_a_file_that_was_read_once_is_held_against_every_manifest(
    quick: Program, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(folder, FILES)
    monkeypatch.setattr(Staging, "clock", lambda _: time.time_ns() + 10**10)  # so that stats are trusted at once
    quick.run("import-wandb", folder)
    reads: list[bytes] = []
    monkeypatch.setattr(AssembledStaging, "open", partialmethod(_watched, AssembledStaging.open, reads))
    quick.run("import-wandb", folder)
    assert reads == []
    contents = {name: file_entry(content) for name, content in FILES.items()}
    contents[path] |= {"digest": md5(b"something else")}
    (folder / "wandb_manifest.json").write_text(manifest(contents))
    assert path in quick.run("import-wandb", folder, code=6).err
    assert quick.run("ls", "zoo").lines == ["v0  latest"]


def test_another_size_is_named(quick: Program, folder: Path) -> None:
    downloaded(folder, FILES)
    (folder / "cat.png").write_bytes(b"a cat and more")
    assert "cat.png has 14 bytes" in quick.run("import-wandb", folder, code=6).err
    assert nothing_was_made(quick)


def test_a_wrong_file_of_the_cache_is_named(quick: Program, tmp_path: Path, folder: Path) -> None:
    downloaded(folder, FILES)
    (folder / "cat.png").unlink()
    (path,) = cached(tmp_path / "kept", b"a cat")
    path.write_bytes(b"a rat")
    assert str(path) in quick.run("import-wandb", folder, "--wandb-cache", tmp_path / "kept", code=6).err
    assert nothing_was_made(quick)


def test_missing_files_are_named(quick: Program, folder: Path) -> None:
    files = {f"{number}.png": b"%d" % number for number in range(8)}
    downloaded(folder, files)
    for name in files:
        (folder / name).unlink()
    refused = quick.run("import-wandb", folder, code=4).err
    assert "0.png, 1.png, 2.png, 3.png, 4.png and 3 more" in refused
    assert nothing_was_made(quick)


@pytest.mark.parametrize("what", ["link", "linked folder", "folder", "fifo"])
def test_only_plain_files_are_read(quick: Program, tmp_path: Path, folder: Path, what: str) -> None:
    downloaded(folder, {"sub/dog.png": b"a dog"})
    (tmp_path / "dog.png").write_bytes(b"a dog")
    (folder / "sub/dog.png").unlink()
    match what:
        case "link":
            (folder / "sub/dog.png").symlink_to(tmp_path / "dog.png")
        case "linked folder":
            (folder / "sub").rmdir()
            (folder / "sub").symlink_to(tmp_path)
        case "folder":
            (folder / "sub/dog.png").mkdir()
        case "fifo":
            os.mkfifo(folder / "sub/dog.png")
    assert "sub/dog.png" in quick.run("import-wandb", folder, code=4).err
    assert nothing_was_made(quick)


def test_a_hostile_manifest_is_refused(quick: Program, folder: Path) -> None:
    (quick.folder / "secret").write_bytes(b"secret")
    downloaded(folder, {})
    (folder / "wandb_manifest.json").write_text(manifest({"../../secret": file_entry(b"secret")}))
    assert "'../../secret' is no path in an artifact" in quick.run("import-wandb", folder, code=6).err
    (folder / "wandb_manifest.json").write_text(manifest({"a": file_entry(b"a"), "a/b": file_entry(b"b")}))
    (folder / "a").write_bytes(b"a")
    assert quick.run("import-wandb", folder, code=4).err
    (folder / "wandb_manifest.json").unlink()
    os.mkfifo(folder / "wandb_manifest.json")
    assert "not a file" in quick.run("import-wandb", folder, code=4).err
    assert nothing_was_made(quick)


def test_references_that_cannot_be_tracked(quick: Program, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = {"ref": "gs://zoo/owl.png", "digest": "x", "size": 3}
    unsized = {"ref": "s3://zoo/all", "digest": "s3://zoo/all"}
    downloaded(folder, {"cat.png": b"a cat"}, {"owl.png": cloud, "all": unsized, "fox.png": S3})
    refused = quick.run("import-wandb", folder, code=4).err
    assert "owl.png leads to 'gs://zoo/owl.png'" in refused and "1 more" in refused and "--allow-missing-references" in refused
    assert nothing_was_made(quick)
    ran = quick.run("import-wandb", folder, "--allow-missing-references")
    assert [line.split(":")[1] for line in ran.err.splitlines()] == [" skipped owl.png", " skipped all"]
    assert sorted(quick.run("ls", "zoo").lines) == ["v0  latest"] and quick.run("ls", "zoo:v0").lines == ["cat.png", "fox.png"]
    assert kept_digest(quick, "zoo", monkeypatch) == ""  # it is not W&B's version


def test_what_references_lack_is_said(quick: Program, folder: Path) -> None:
    downloaded(folder, {}, {"owl.png": {"ref": "file:///zoo/owl.png", "digest": md5(b"owl"), "size": 3}, "fox.png": S3})
    told = quick.run("import-wandb", folder).err
    assert "1 reference tracked by size alone" in told and "file:///zoo/owl.png" in told and "references.allow" in told


def test_the_name_is_that_of_the_folder_or_given(quick: Program, folder: Path) -> None:
    downloaded(folder, {"cat.png": b"a cat"})
    other = folder.rename(folder.parent / "zoo")
    assert "ARTIFACT" in quick.run("import-wandb", other, code=2).err
    quick.folder = other.rename(folder)
    assert quick.run("import-wandb", ".").out.startswith("zoo:v0")
    assert quick.run("import-wandb", folder, "animals").out.startswith("animals:v0")
    assert quick.run("import-wandb", folder, "no/name", code=2).err


def test_where_there_is_no_manifest(quick: Program, folder: Path) -> None:
    assert "no such folder" in quick.run("import-wandb", folder, code=3).err
    folder.mkdir(parents=True)
    assert "--manifest FILE" in quick.run("import-wandb", folder, code=3).err
    assert "no such file" in quick.run("import-wandb", folder, "--manifest", "x.json", code=3).err
    (folder / "manifest.json").write_text('{"name": "somebody else\'s"}')
    assert "manifest.json: not a manifest of W&B" in quick.run("import-wandb", folder, code=6).err
