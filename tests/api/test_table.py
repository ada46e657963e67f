"""docs/python.md and the code say the same: each of W&B's methods is in the table, each row has a test, and its scripts for W&B run.

The other examples there run with those of all pages, in tests/docs.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import artifactmount
import artifactmount.wandb as wandb
from artifactmount.api import Collection, Entry
from artifactmount.errors import NotSupportedError
from tests.api.conftest import draft, write
from tests.store.servers import Server

TESTS = Path(__file__).parent
DOCUMENT = Path(artifactmount.__file__).parent / "docs/python.md"
CLASSES: dict[str, Any] = {"Artifact": wandb.Artifact, "Entry": Entry, "Collection": Collection, "Run": wandb.Run, "Api": wandb.Api}
_ROW = re.compile(r"^\| (.+?) \| (.+) \| `(test_\w+\.py)::(test_\w+)` \|$", re.MULTILINE)

#: W&B's own methods and their arguments, in order, as its documentation has them; what has none is a property.
WANDB: dict[str, str | None] = {
    "Artifact.__init__": "name type description metadata incremental use_as storage_region",
    "Artifact.add": "obj name overwrite",
    "Artifact.add_dir": "local_path name skip_cache policy merge",
    "Artifact.add_file": "local_path name is_tmp skip_cache policy overwrite",
    "Artifact.add_reference": "uri name checksum max_objects",
    "Artifact.checkout": "root",
    "Artifact.delete": "delete_aliases",
    "Artifact.download": "root allow_missing_references skip_cache path_prefix multipart",
    "Artifact.file": "root",
    "Artifact.files": "names per_page start",
    "Artifact.finalize": "",
    "Artifact.get": "name",
    "Artifact.get_added_local_path_name": "local_path",
    "Artifact.get_entry": "name",
    "Artifact.get_path": "name",
    "Artifact.is_draft": "",
    "Artifact.link": "target_path aliases",
    "Artifact.logged_by": "",
    "Artifact.new_draft": "",
    "Artifact.new_file": "name mode encoding policy",
    "Artifact.remove": "item",
    "Artifact.save": "project settings",
    "Artifact.unlink": "",
    "Artifact.used_by": "",
    "Artifact.verify": "root",
    "Artifact.wait": "timeout",
    "Entry.download": "root skip_cache",
    "Entry.parent_artifact": "",
    "Entry.ref_target": "",
    "Entry.ref_url": "",
    "Run.finish_artifact": "artifact_or_path name type aliases distributed_id",
    "Run.log_artifact": "artifact_or_path name type aliases tags",
    "Run.upsert_artifact": "artifact_or_path name type aliases distributed_id",
    "Run.use_artifact": "artifact_or_name type aliases use_as",
    "Api.artifact": "name type",
    "Api.artifact_exists": "name type",
    **dict.fromkeys(
        f"Artifact.{name}"
        for name in [
            "id",
            "entity",
            "project",
            "name",
            "qualified_name",
            "version",
            "source_entity",
            "source_project",
            "source_name",
            "source_qualified_name",
            "source_version",
            "source_collection",
            "collection",
            "type",
            "url",
            "description",
            "metadata",
            "ttl",
            "aliases",
            "tags",
            "state",
            "manifest",
            "digest",
            "size",
            "commit_hash",
            "file_count",
            "created_at",
            "updated_at",
            "history_step",
            "is_link",
            "linked_artifacts",
            "distributed_id",
            "incremental",
        ]
    ),
    **dict.fromkeys(f"Entry.{name}" for name in ["path", "digest", "size", "ref", "extra"]),
}


@cache
def section(title: str) -> str:
    """What stands under a heading."""
    return DOCUMENT.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[tuple[str, str, str, str]]:
    """(first column, second, file of the test, test) of a table."""
    found = _ROW.findall(section(title))
    assert len(found) == sum(line.startswith("| ") for line in section(title).splitlines()) - 1  # the table's own heading
    return found


@cache
def named_in(file: str) -> set[str]:
    """The tests in a file of this folder."""
    return {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@cache
def methods(title: str) -> dict[str, str]:
    """What the table says of each name."""
    found = [(name.strip("`"), said) for name, said, *_ in rows(title)]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("title", ["What differs", "Method by method", "Beyond W&B"])
def test_every_row_names_a_test(title: str) -> None:
    for _, _, file, test in rows(title):
        assert test in named_in(file), f"{file}::{test}"


def test_every_method_of_wandb_is_in_the_table_with_its_arguments() -> None:
    table = methods("Method by method")
    for name, arguments in WANDB.items():
        kind, _, method = name.partition(".")
        assert name in table or method == "__init__", name
        if arguments is not None:
            parameters = list(inspect.signature(getattr(CLASSES[kind], method)).parameters)[1:]
            assert parameters[: len(arguments.split())] == arguments.split(), name


def test_the_table_says_what_there_is() -> None:
    for name, said in methods("Method by method").items():
        kind, _, method = name.partition(".")
        assert said.partition(":")[0] in ("same", "better", "not"), name
        there = method in (*dir(CLASSES[kind]), *_attributes(CLASSES[kind]))
        assert there, f"{name} is in the table and not in the code"
    listed = {**methods("Method by method"), **methods("Beyond W&B")}
    for kind, class_ in CLASSES.items():
        inherited = "Run" if kind == "Api" else kind
        names = {name for name in (*dir(class_), *_attributes(class_)) if not name.startswith("_")}
        missing = {name for name in names if f"{kind}.{name}" not in listed and f"{inherited}.{name}" not in listed}
        assert missing - {"id", "url", "config", "entity", "label", "job_type", "group", "name"} == set(), f"{kind} has more than its table"


@cache
def _attributes(class_: Any) -> set[str]:
    """What `__init__` gives to an instance, here and in what it comes from."""
    names: set[str] = set()
    for base in class_.__mro__:
        if base.__module__.startswith("artifactmount"):
            module = ast.parse(Path(inspect.getfile(base)).read_text())
            (tree,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == base.__name__)
            stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
            names |= {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}
    return names


def test_what_is_not_supported_says_so(home: Path) -> None:
    artifact = wandb.Artifact("animals", "dataset")
    with wandb.init() as run:
        owners: dict[str, Any] = {"Artifact": artifact, "Run": run, "Api": wandb.Api()}
        for name, said in methods("Method by method").items():
            if said.startswith("not"):
                kind, _, method = name.partition(".")
                call = getattr(owners[kind], method)
                needed = [
                    p for p in inspect.signature(call).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
                ]
                with pytest.raises(NotSupportedError, match=rf"^{method} is not supported: \w"):
                    call(*("x" for _ in needed))
        with pytest.raises(NotImplementedError):
            artifact["a"]
        with pytest.raises(NotImplementedError):
            artifact["a"] = 1
        owners["Api"].finish()


def test_a_source_is_the_artifact_itself(run: artifactmount.Run) -> None:
    artifact = run.log_artifact(draft({"a": b"a"}))
    for name in ("name", "qualified_name", "version", "entity", "project"):
        assert getattr(artifact, f"source_{name}") == getattr(artifact, name)
    assert artifact.source_collection.name == "animals"


def test_the_record_of_a_reference(run: artifactmount.Run, home: Path) -> None:
    folder = write(home / "data", {"a": b"a"})
    artifact = artifactmount.Artifact("animals", "dataset")
    (entry,) = artifact.add_reference(f"file://{folder}/a")
    logged = run.log_artifact(artifact).get_entry("a")
    assert entry.referent == logged.referent and entry.referent is not None and entry.referent.inode == (folder / "a").stat().st_ino
    assert entry.row.size == logged.row.size == 1 and isinstance(artifact, run.artifact_class)
    assert run.log_artifact(draft({"b": b"b"})).get_entry("b").referent is None


# -- the scripts -----------------------------------------------------------------------------------------------------------------------
SCRIPTS = re.findall(r"^```python wandb\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def ran(script: str, **places: str) -> dict[str, Any]:
    """The names that a script leaves, with its import line changed, and the names of buckets."""
    first, rest = script.split("\n", 1)
    assert first == "import wandb" and "import" not in rest
    return executed(f"import artifactmount.wandb as wandb\n{rest}", **places)


def executed(text: str, **places: str) -> dict[str, Any]:
    """The names that a text leaves, with the names of buckets in it replaced."""
    names: dict[str, Any] = {}
    for name, bucket in places.items():
        text = text.replace(f"s3://{name.replace('_', '-')}/", f"s3://{bucket}/")
    exec(compile(text, "python.md", "exec"), names)  # noqa: S102 - our own document
    return names


def test_the_scripts_run_with_the_import_line_changed(anywhere: Path, s3_environment: Server) -> None:
    upload, train, refer = SCRIPTS
    write(anywhere / "images", {"cats/1.png": b"cat", "dog.png": b"dog"})
    first = ran(upload)["artifact"]
    assert first.aliases == ["latest", "my-cool-alias"]
    second = ran(train)
    assert (anywhere / second["directory"] / "cats/1.png").read_bytes() == b"cat" and second["artifact"].digest == first.digest
    bucket = s3_environment.make_bucket()
    s3_environment.client.put_object(Bucket=bucket, Key="animals/wild/fox.png", Body=b"fox")
    third = ran(refer, my_bucket=bucket)["artifact"]
    (entry,) = third.files()
    assert (entry.path, entry.size, entry.ref) == ("wild/fox.png", 3, f"s3://{bucket}/animals/wild/fox.png")
    assert entry.digest == entry.extra["etag"] and entry.open().read() == b"fox"
    for artifact in (first, second["artifact"], third):
        artifact._stored_version().opened.close()
