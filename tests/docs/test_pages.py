"""Each page is followed from top to bottom by somebody who has nothing but it: what it says is typed, and prints what it says."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from artifactmount import wandb
from tests.docs.pages import PAGES, Block, Step, blocks, fits, steps
from tests.docs.stranger import Stranger, stranger
from tests.store.servers import Server
from tests.wandb_artifacts import file_entry, manifest

#: What a page takes for granted: files and objects of so many bytes. Paths are relative to where it is followed.
GIVEN: dict[str, dict[str, int]] = {
    "README.md": {"animals/cat.png": 2_000_000, "animals/dog.png": 1_000_000, "rat.png": 3_000_000, "s3://my-bucket/animals/fox.png": 100},
    "coming-from.md": {"artifacts/animals:v3/cat.png": 2_000_000, "artifacts/animals:v3/dog.png": 1_000_000},
    "private.md": {"s3://hospital/scans/7/brain.dcm": 5_000, "s3://hospital/scans/8/brain.dcm": 6_000},
    "security.md": {"animals/cat.png": 1_000},
    "staging.md": {"animals/cat.png": 2_000_000, "animals/dog.png": 1_000_000, "rat.png": 3_000_000},
    "python.md": {"images/cats/1.png": 1_000, "labels.csv": 100, "s3://my-bucket/animals/fox.png": 100},
}

#: Folders of them that W&B downloaded: its manifest lies there, too.
FROM_WANDB = {"coming-from.md": "artifacts/animals:v3"}

RUN = [page for page in PAGES if any(block.language in ("console", "python") and not block.word for block in blocks(page.read_text()))]


def buckets(page: str, found: list[Block]) -> set[str]:
    """The buckets that a page's commands and scripts name, and those it takes for granted."""
    texts = [block.text for block in found if block.language in ("console", "python")] + list(GIVEN.get(page, {}))
    return {name for text in texts for name in re.findall(r"s3://([a-z0-9.-]+)", text)}


def give_files(folder: Path, page: str) -> None:
    """The files that a page takes for granted."""
    for path, size in GIVEN.get(page, {}).items():
        if not path.startswith("s3://"):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(random.Random(path).randbytes(size))
    if page in FROM_WANDB:
        downloaded = folder / FROM_WANDB[page]
        contents = {file.name: file_entry(file.read_bytes()) for file in downloaded.iterdir()}
        (downloaded / "wandb_manifest.json").write_text(manifest(contents))


@contextmanager
def given_buckets(server: Server, page: str, names: set[str]) -> Iterator[None]:
    """Buckets of these names, with the objects that a page takes for granted. The server is shared, so they go again."""
    for name in names:
        server.client.create_bucket(Bucket=name)
    try:
        for path, size in GIVEN.get(page, {}).items():
            if path.startswith("s3://"):
                bucket, _, key = path.removeprefix("s3://").partition("/")
                server.client.put_object(Bucket=bucket, Key=key, Body=random.Random(path).randbytes(size))
        yield
    finally:
        for name in names:
            for key in server.keys(name):
                server.client.delete_object(Bucket=name, Key=key)
            server.client.delete_bucket(Bucket=name)


@pytest.mark.needs_fuse
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = [block for block in blocks(page.read_text()) if not block.word]
    with ExitStack() as stack:
        somebody = stack.enter_context(stranger(tmp_path))
        give_files(somebody.folder, page.name)
        if names := buckets(page.name, found):
            server: Server = request.getfixturevalue("s3_server")
            stack.enter_context(given_buckets(server, page.name, names))
            somebody.configure_aws(server)
        stack.callback(wandb.finish)
        for block in found:
            follow(somebody, page.name, block)


def follow(somebody: Stranger, page: str, block: Block) -> None:
    """Do what a block says."""
    if block.language == "console":
        for step in steps(block):
            somebody.follow(step, page)
    elif block.language == "python":
        somebody.run_python(block.text, page, block.line)
    elif block.language == "output":
        assert fits(tuple(block.text.splitlines()), somebody.printed.splitlines()), f"{page}:{block.line}: it prints\n{somebody.printed}"


# -- the reader of pages, itself -------------------------------------------------------------------------------------------------------
def test_blocks_and_steps_of_a_page() -> None:
    text = "# A\n\n```console\n$ echo a \\\n> b\na  b\n\n$ true # c\n```\n\n1. x\n   ```python wandb\n   if a:\n       b\n   ```\n"
    first, second = blocks(text)
    assert (second.language, second.word, second.text, second.line) == ("python", "wandb", "if a:\n    b\n", 13)
    assert steps(first) == [Step("echo a \\\nb", ("a  b", ""), 4), Step("true # c", (), 8)]
    with pytest.raises(ValueError, match="line 4: a console block begins with a command"):
        steps(Block("console", "", "a\n", 4))


@pytest.mark.parametrize(
    ("expected", "printed", "fit"),
    [
        (("a",), ["a"], True),
        (("a",), ["a", "b"], False),
        (("a", "…"), ["a"], True),
        (("a", "…", "z"), ["a", "b", "c", "z"], True),
        (("a … z", "q"), ["a b z", "q"], True),
        (("a … z",), ["a", " z"], False),
        (("a ...",), ["a ", ], True),
        (("1+1",), ["11"], False),
    ],
)  # fmt: skip
def test_wildcards(expected: tuple[str, ...], printed: list[str], fit: bool) -> None:
    assert fits(expected, printed) == fit


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (Step("echo b", ("a",), 1), "the page says:\na"),
        (Step("false", (), 1), "exit code 1"),
        (Step("exit 3", (), 1), "the shell ended"),
        (Step("artifactmount sweep", (), 1), "No such command"),
        (Step("artifactmount ls --long", (), 1), "No such option"),
    ],
    ids=lambda value: getattr(value, "command", ""),
)
def test_a_page_that_says_something_else_fails(command: Step, says: str, tmp_path: Path) -> None:
    with stranger(tmp_path) as somebody, pytest.raises(AssertionError, match=re.escape(says)):
        somebody.follow(command, "page")


def test_somebody_follows_a_page_in_one_shell_and_one_python(tmp_path: Path) -> None:
    with stranger(tmp_path) as somebody:
        lines = ["cd ..", "export ARTIFACTMOUNT_PROJECT=$PWD/x", "ls /nowhere"]
        for line in lines:
            printed, code = somebody.type(line)
        assert code == 2 and len(printed) == 1 and somebody.type("echo $?") == (["2"], 0)
        somebody.follow(Step("ls /nowhere", ("ls: …",), 1), "page")
        somebody.run_python("import os\na = os.getcwd()", "page", 1)
        somebody.run_python("print(a, os.environ['ARTIFACTMOUNT_PROJECT'])", "page", 1)
        assert somebody.printed == f"{somebody.home} {somebody.home}/x\n"
