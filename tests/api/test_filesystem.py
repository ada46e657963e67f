"""The project as an fsspec file system: names, freshness, ranges, errors, other processes. fsspec's own tests: test_fsspec_suite.py."""

from __future__ import annotations

import gc
import os
import pickle
import random
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from errno import EROFS
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import pytest

import artifactmount as am
from artifactmount.filesystem import ArtifactFileSystem
from tests.api.conftest import draft, write

_LARGE = random.Random(3).randbytes(5_000_000)
_FILES = {"cats/1.png": b"one", "cats/2.png": b"two", "empty": b"", "large": _LARGE, "labels.csv": b"name,legs\ncat,4\nhen,2\n"}


def opened() -> ArtifactFileSystem:
    """A file system of the configured project, which no other test has used."""
    return ArtifactFileSystem(skip_instance_cache=True)


@pytest.fixture
def files(run: am.Run) -> ArtifactFileSystem:
    run.log_artifact(draft(_FILES), aliases=["best"])
    return opened()


def test_names(run: am.Run, files: ArtifactFileSystem) -> None:
    run.log_artifact(draft({"cats/1.png": b"one"}))
    run.log_artifact(draft({"a": b"a"}, "wheels"))
    assert files.ls("artifactmount://", detail=False) == ["animals", "wheels"]
    assert files.ls("artifactmount://animals", detail=False) == ["animals/v0", "animals/best", "animals/v1", "animals/latest"]
    assert files.ls("artifactmount://animals:v0/cats/", detail=False) == ["animals:v0/cats/1.png", "animals:v0/cats/2.png"]
    assert files.ls("animals/best/cats", detail=False) == ["animals/best/cats/1.png", "animals/best/cats/2.png"]
    assert files.ls("/animals:best//cats/1.png", detail=False) == ["animals:best/cats/1.png"]
    assert files.find("animals:latest") == ["animals:latest/cats/1.png"]
    assert files.find("animals:v0", maxdepth=1) == ["animals:v0/empty", "animals:v0/labels.csv", "animals:v0/large"]
    assert files.find("animals:v0/cats", withdirs=True) == ["animals:v0/cats", "animals:v0/cats/1.png", "animals:v0/cats/2.png"]
    assert files.find("animals:v0/cats/1.png") == ["animals:v0/cats/1.png"]
    assert files.find("animals:v7") == files.find("animals:v0/none") == files.find("a b") == []
    assert files.find("animals") == [f"animals/v0/{name}" for name in sorted(_FILES)] + ["animals/v1/cats/1.png"]
    assert files.du("animals") == sum(map(len, _FILES.values())) + 3 and files.du("/wheels") == 1
    assert files.glob("animals:v0/*/*.png") == ["animals:v0/cats/1.png", "animals:v0/cats/2.png"]
    assert files.glob("*/*/cats/1.png") == [f"animals/{version}/cats/1.png" for version in ("best", "latest", "v0", "v1")]
    assert list(files.walk("animals:v0")) == [
        ("animals:v0", ["cats"], ["empty", "labels.csv", "large"]),
        ("animals:v0/cats", [], ["1.png", "2.png"]),
    ]
    assert files.du("animals:v0") == sum(map(len, _FILES.values()))
    with pytest.raises(ValueError, match="maxdepth"):
        files.find("animals:v0", maxdepth=0)


def test_what_is_said_of_a_file(run: am.Run, files: ArtifactFileSystem) -> None:
    entry = run.use_artifact("animals:v0").manifest.entries["cats/1.png"]
    said = files.info("artifactmount://animals:latest/cats/1.png")
    assert said["name"] == "animals:latest/cats/1.png"
    assert (said["type"], said["size"], said["version"], said["digest"], said["ETag"]) == ("file", 3, "v0", entry.digest, entry.digest)
    assert files.modified("animals:v0/cats/1.png") == datetime.fromtimestamp(said["mtime"], UTC)
    assert files.ukey("animals:v0/cats/1.png") == entry.digest and files.checksum("animals:v0/cats/1.png") == int(entry.digest, 16)
    assert files.info("animals:latest")["digest"] == run.use_artifact("animals").digest
    assert files.info("animals:latest")["destination"] == "v0" and "destination" not in files.info("animals:v0")
    assert [files.info(path)["type"] for path in ("", "animals", "animals:v0", "animals:v0/cats")] == ["directory"] * 4
    assert files.modified("animals") == files.modified("animals:v0/cats")
    assert files.isdir("animals:v0/cats") and files.isfile("animals:v0/large") and not files.isfile("animals:v0")
    assert files.size("animals:v0/large") == len(_LARGE)


def test_an_alias_is_followed_each_time(run: am.Run, files: ArtifactFileSystem) -> None:
    before = files.ukey("animals:latest/cats/1.png"), files.ukey("animals:latest")
    first = files.open("animals:latest/cats/1.png")
    run.log_artifact(draft({"cats/1.png": b"another"}))
    assert files.cat_file("animals:latest/cats/1.png") == b"another" and files.ls("animals:latest/cats", detail=False) == [
        "animals:latest/cats/1.png"
    ]
    after = files.ukey("animals:latest/cats/1.png"), files.ukey("animals:latest")
    assert before[0] != after[0] and before[1] != after[1]
    assert files.ukey("animals:v0/cats/1.png") == before[0]
    with first:  # what was open stays with its version
        assert first.path == "animals:v0/cats/1.png" and first.read() == b"one"


def test_a_deleted_version_is_gone(run: am.Run, files: ArtifactFileSystem) -> None:
    run.log_artifact(draft({"other": b"other"}))
    file = files.open("animals:v0/large")
    run.use_artifact("animals:v0").delete(delete_aliases=True)
    assert files.ls("animals", detail=False) == ["animals/v1", "animals/latest"]
    assert not files.exists("animals:v0/large") and not files.exists("animals:best")
    with pytest.raises(FileNotFoundError, match="deleted"), file:
        file.read()


def test_ranges(anywhere: Path) -> None:
    with am.init() as run:
        run.log_artifact(draft(_FILES))
    files, numbers = opened(), random.Random(4)
    for start, end in (
        (None, None),
        (0, 10),
        (-10, None),
        (2_000_000, 4_000_000),
        (None, -4_999_999),
        (5_000_000, None),
        (9, 3),
        (0, 1 << 40),
    ):
        assert files.cat_file("animals:v0/large", start, end) == _LARGE[start:end]
    starts = [numbers.randrange(len(_LARGE)) for _ in range(50)]
    found = files.cat_ranges(["animals:v0/large"] * 50, starts, [start + 1000 for start in starts])
    assert found == [_LARGE[start : start + 1000] for start in starts]
    *good, missing, folder = files.cat_ranges([f"animals:v0/{path}" for path in (*_FILES, "none", "cats")], 1, None)
    assert good == [content[1:] for content in _FILES.values()]
    assert isinstance(missing, FileNotFoundError) and isinstance(folder, IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        files.cat_ranges(["animals:v0/cats/1.png", "animals:v0/none"], 0, 1, on_error="raise")
    assert files.cat(["animals:v0/cats/1.png", "animals:v0/cats/2.png"]) == {
        "animals:v0/cats/1.png": b"one",
        "animals:v0/cats/2.png": b"two",
    }
    with files.open("animals:v0/large") as file:
        for _ in range(50):
            at = file.seek(numbers.randrange(len(_LARGE)))
            assert file.read(5000) == _LARGE[at : at + 5000]
        assert file.seek(0) == 0 and file.read() == _LARGE
    with files.open("animals:v0/labels.csv", "r") as text:
        assert text.readlines() == ["name,legs\n", "cat,4\n", "hen,2\n"]


def test_small_files_are_not_fetched_one_by_one(anywhere: Path) -> None:
    contents = {f"{number:03d}": b"%d" % number for number in range(100)}
    paths = [f"animals:v0/{name}" for name in contents]
    with am.init() as run:
        run.log_artifact(draft(contents))
    shutil.rmtree(anywhere.parent / "home/.cache")  # what was written is cached
    write(anywhere, {"no cache": b""})
    for cache, requests in ((None, 2), (str(anywhere / "no cache"), 100)):  # where nothing can be kept, a pack for each file would be worse
        files = ArtifactFileSystem(cache=cache, skip_instance_cache=True)
        files.info("animals:v0/000")
        asked = count_requests(files)
        assert [files.cat_file(path) for path in paths] == list(contents.values())
        in_place = files._here.project.url[0] == "/"  # then each piece is read where it lies, and nothing is kept
        assert len(asked) == (100 if in_place else requests)
        asked.clear()
        assert files.cat_ranges(paths, 0, None) == list(contents.values())
        assert len(asked) == (100 if in_place else 0 if cache is None else 1)


def count_requests(files: ArtifactFileSystem) -> list[int]:
    """The lengths of what is read from the store from now on."""
    store = files._here.project.store
    get, asked = store.get, list[int]()

    def counted(key: str, start: int = 0, stop: int | None = None) -> bytes:
        found = get(key, start, stop)
        asked.append(len(found))
        return found

    store.get = counted  # type: ignore[method-assign]
    return asked


def test_symlinks(run: am.Run, home: Path) -> None:
    folder = write(home / "linked", {"in/file": b"content", "in/deep/file": b"deep"})
    for name, target in {"to": "in/file", "here": "in", "in/up": "..", "out": "../../x", "abs": "/etc/hostname", "self": "self"}.items():
        (folder / name).symlink_to(target)
    artifact = am.Artifact("linked", "dataset")
    artifact.add_dir("linked")
    run.log_artifact(artifact)
    files = opened()
    assert files.cat_file("linked:v0/to") == files.cat_file("linked:v0/here/up/here/file") == b"content"
    to = files.info("linked:v0/to")
    assert (to["type"], to["size"], to["destination"]) == ("file", 7, "in/file") and to["digest"] == files.ukey("linked:v0/in/file")
    listed = {entry["name"].removeprefix("linked:v0/"): entry["type"] for entry in files.ls("linked:v0")}
    assert listed == {"abs": "link", "here": "link", "in": "directory", "out": "link", "self": "link", "to": "file"}
    assert files.isdir("linked:v0/here") and files.ls("linked:v0/here/deep", detail=False) == ["linked:v0/here/deep/file"]
    assert files.find("linked:v0") == ["linked:v0/in/deep/file", "linked:v0/in/file", "linked:v0/to"]
    assert files.find("linked:v0/here") == ["linked:v0/here/deep/file", "linked:v0/here/file"]
    for path in ("out", "abs", "self", "to/x", "in/none", "in/up/../x"):
        assert not files.exists(f"linked:v0/{path}")
    files.get("linked:v0", str(home / "copy"), recursive=True)
    assert (home / "copy/to").read_bytes() == b"content" and not (home / "copy/here").exists()


def test_names_that_are_not_utf8(run: am.Run, home: Path) -> None:
    folder = write(home / "odd", {os.fsdecode(b"\xff\x80"): b"odd", "new\nline": b"n", "a:b": b"c"})
    artifact = am.Artifact("odd", "dataset")
    artifact.add_dir(str(folder))
    run.log_artifact(artifact)
    files = opened()
    assert {name: files.cat_file(name) for name in files.find("odd:v0")} == {
        "odd:v0/a:b": b"c",
        "odd:v0/new\nline": b"n",
        os.fsdecode(b"odd:v0/\xff\x80"): b"odd",
    }


def test_references_are_read_through(run: am.Run, home: Path) -> None:
    folder = write(home / "elsewhere", {"scan": b"scanned", "soon": b"before"})
    artifact = am.Artifact("scans", "dataset")
    artifact.add_reference(f"file://{folder}")
    run.log_artifact(artifact)
    with pytest.raises(PermissionError, match="references"):
        opened().cat_file("scans:v0/scan")
    config = write(home.parent / "home/.config/artifactmount", {"config.toml": b'[references]\nallow = ["file:///"]\n'})
    (config / "config.toml").chmod(0o600)
    files = opened()
    assert files.cat_file("scans:v0/scan", 2, 5) == b"ann" and files.info("scans:v0/scan")["reference"] == f"file://{folder}/scan"
    (folder / "soon").write_bytes(b"after all")
    with pytest.raises(OSError, match="changed"), files.open("scans:v0/soon") as file:
        file.read()


def test_nothing_can_be_changed(files: ArtifactFileSystem, home: Path) -> None:
    path, local = "animals:v0/new", str(write(home / "some", {"file": b"x"}) / "file")
    acts: list[Callable[[], Any]] = [
        lambda: files.open(path, "wb"),
        lambda: files.open(path, "ab"),
        lambda: files.open(path, "xb"),
        lambda: files.open(path, "w"),
        lambda: files.pipe(path, b""),
        lambda: files.pipe_file(path, b""),
        lambda: files.write_text(path, ""),
        lambda: files.write_bytes(path, b""),
        lambda: files.touch(path),
        lambda: files.mkdir(path),
        lambda: files.makedir(path),
        lambda: files.makedirs(path),
        lambda: files.mkdirs(path),
        lambda: files.rmdir("animals:v0/cats"),
        lambda: files.rm("animals:v0/cats", recursive=True),
        lambda: files.rm_file("animals:v0/large"),
        lambda: files.delete("animals:v0/large"),
        lambda: files.copy("animals:v0/large", path),
        lambda: files.cp_file("animals:v0/large", path),
        lambda: files.mv("animals:v0/large", path),
        lambda: files.rename("animals:v0/large", path),
        lambda: files.put(local, path),
        lambda: files.put_file(local, path),
        lambda: files.upload(local, path),
    ]
    for act in acts:
        with pytest.raises(OSError, match="read-only; `artifactmount snapshot") as refused:
            act()
        assert refused.value.errno == EROFS
    assert sorted(files.find("animals:v0")) == sorted(f"animals:v0/{name}" for name in _FILES)


def test_errors(files: ArtifactFileSystem, home: Path) -> None:
    for path in ("none", "animals:none", "animals:v9/x", "animals:v0/none", "a b", "animals:", "animals:v0:1", ":", "animals:v0/large/x"):
        assert not files.exists(path) and not files.isdir(path) and not files.isfile(path)
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            files.info(path)
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            files.ls(path)
    for path in ("", "animals", "animals:v0", "animals:v0/cats"):
        with pytest.raises(IsADirectoryError):
            files.open(path)
    with pytest.raises(NotImplementedError):
        files.modified("")
    elsewhere = ArtifactFileSystem("nowhere")  # of the working directory
    with pytest.raises(FileNotFoundError, match=r"no project at .*nowhere"):
        elsewhere.ls("")
    assert not (home / "nowhere").exists()
    (home.parent / "project/project.json").write_bytes(b"damaged")
    with pytest.raises(OSError, match=r"project\.json"):
        opened().exists("animals:latest/large")  # nobody knows


# -- other processes and threads ---------------------------------------------------------------------------------------------------------
def read_all(files: ArtifactFileSystem, version: str = "latest") -> dict[str, bytes]:
    """Everything in a version of `animals`, by name."""
    return {name.partition("/")[2]: files.cat_file(name) for name in files.find(f"animals:{version}")}


def read_rest(file: Any) -> bytes:
    """The rest of an open file."""
    rest: bytes = file.read()
    return rest


def test_in_another_process(run: am.Run, files: ArtifactFileSystem) -> None:
    with files.open("animals:latest/large") as file:
        assert file.read(4) == _LARGE[:4]
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            assert pool.submit(read_all, files).result() == _FILES
            assert pool.submit(read_rest, file).result() == _LARGE[4:]
        assert read_all(files) == _FILES and file.read() == _LARGE[4:]


def test_a_forked_process_goes_on_with_what_it_was_given(anywhere: Path) -> None:
    """Not pickled, but there already, as PyTorch's workers have it."""
    with am.init() as run:
        run.log_artifact(draft(_FILES))
    files = opened()
    file = files.open("animals:latest/large")
    assert file.read(4) == _LARGE[:4] and read_all(files) == _FILES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.api.test_filesystem._inherited", (files, file), raising=False)
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            assert pool.submit(read_inherited).result() == (_FILES, _LARGE[4:])
    assert read_all(files) == _FILES and file.read() == _LARGE[4:]
    file.close()


def test_a_fork_does_not_wait_for_a_lock_of_its_parent(run: am.Run, files: ArtifactFileSystem) -> None:
    """Neither where fsspec lets go of its file systems, nor where the child ends."""
    del files
    kept = fsspec.filesystem("artifactmount", project=run._opened.url)
    assert kept.cat_file("animals:v0/cats/1.png") == b"one"
    lock, held, done = kept._here.project.cache._segments._reading, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    del kept
    try:
        child = get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(20)
        ended = child.exitcode
        if ended is None:
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        assert ended == 0
    finally:
        done.set()
        holder.join()
        ArtifactFileSystem.clear_instance_cache()


def read_inherited() -> tuple[dict[str, bytes], bytes]:
    """What the parent left open, read in the child."""
    files, file = globals()["_inherited"]
    return read_all(files), file.read()


def test_threads_share_one(files: ArtifactFileSystem) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(found == _FILES for found in pool.map(read_all, [files] * 24))


def test_it_is_found_by_its_name(run: am.Run, files: ArtifactFileSystem) -> None:
    del files
    with fsspec.open("artifactmount://animals:best/labels.csv", "rb", project=run._opened.url, skip_instance_cache=True) as file:
        assert file.read() == _FILES["labels.csv"]
    again = pickle.loads(pickle.dumps(opened()))  # noqa: S301 - our own
    assert isinstance(again, ArtifactFileSystem) and again.exists("animals:best/labels.csv")
    assert fsspec.filesystem("artifactmount", project="/a", skip_instance_cache=True) != fsspec.filesystem("artifactmount", project="/b")


# -- which project -----------------------------------------------------------------------------------------------------------------------
def make_projects(folder: Path) -> None:
    """The same artifact, in project `a` and in project `b`, with content that says which."""
    for name in ("a", "b"):
        with am.init(project=str(folder / name)) as run:
            run.log_artifact(draft({"which": name.encode()}))


def read_which() -> bytes:
    """What the inherited file system reads, where another project is configured meanwhile."""
    os.environ["ARTIFACTMOUNT_PROJECT"] = os.environ["ARTIFACTMOUNT_PROJECT"][:-1] + "b"
    content: bytes = globals()["_inherited"].cat_file("animals:v0/which")
    return content


def test_it_stays_with_its_project(run: am.Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del run
    make_projects(home)
    (home / "in").mkdir()
    monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", str(home / "a"))
    configured = opened()
    with monkeypatch.context() as there:
        there.chdir(home)
        relative = fsspec.filesystem("artifactmount", project="a", skip_instance_cache=True)
    pickled = [pickle.dumps(each) for each in (configured, relative)]
    monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", str(home / "b"))
    monkeypatch.chdir(home / "in")
    for files in (configured, relative, *map(pickle.loads, pickled)):
        assert files.cat_file("animals:v0/which") == b"a"
    assert configured == relative != opened()


def test_a_forked_process_stays_with_the_project(run: am.Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del run
    make_projects(home)
    monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", str(home / "a"))
    monkeypatch.setattr("tests.api.test_filesystem._inherited", opened(), raising=False)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert pool.submit(read_which).result() == b"a"


def test_another_configured_project_is_another_file_system(run: am.Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del run
    make_projects(home)
    for name in ("a", "b"):
        monkeypatch.setenv("ARTIFACTMOUNT_PROJECT", str(home / name))
        with fsspec.open("artifactmount://animals:v0/which") as file:
            assert file.read() == name.encode()
        assert fsspec.filesystem("artifactmount") is fsspec.filesystem("artifactmount", project=str(home / name))


def test_an_option_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="no option 'projekt'"):
        fsspec.filesystem("artifactmount", projekt="/a")
    assert fsspec.filesystem("artifactmount", project="/a", use_listings_cache=False)
