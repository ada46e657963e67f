"""`expire` and `gc` as typed; what they decide is tested below the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.trees import File, write


@pytest.fixture
def logged(program: Program, tmp_path: Path) -> Program:
    for content in (b"zero", b"one", b"two", b"three"):
        program.run("snapshot", write(tmp_path / "pets", {b"f": File(content)}), "pets")
    return program


def test_expire(logged: Program) -> None:
    logged.run("alias", "pets:v1", "best")
    assert logged.run("expire", "pets", "--keep-last", "1", "--keep-aliased", "--dry-run", "--json").json["versions"] == ["v0", "v2"]
    assert logged.run("expire", "pets", "--keep-last", "1", code=2).err.count("\n") == 1  # nobody to ask
    assert "best" in logged.run("expire", "pets", "--keep-last", "1", "--yes", code=4).err
    assert logged.run("ls", "pets").lines == ["v0", "v1  best", "v2", "v3  latest"]
    logged.run("expire", "pets", "--keep-last", "1", "--keep-aliased", "--yes")
    assert logged.run("ls", "pets").lines == ["v1  best", "v3  latest"]
    assert logged.run("expire", "pets", "--older-than", "1d", "--yes").lines == ["pets: nothing to delete"]
    assert logged.inside("expire", "pets", "--older-than", "999999999d", "--yes").out == "pets: nothing to delete\n"
    assert logged.run("expire", "pets", code=2).err.startswith("artifactmount: say what to keep")
    logged.run("expire", "pets", "--older-than", "soon", code=2)
    logged.run("expire", "plants", "--keep-last", "1", "--yes", code=3)
    logged.run("verify")


def test_gc(logged: Program) -> None:
    assert logged.run("gc").lines == ["nothing to delete"]
    assert logged.run("gc", "pets", "--grace", "0s", "--json").json == [{"artifact": "pets", "sessions": [], "keys": 0, "bytes": 0}]
    assert logged.inside("gc", "--grace", "999999999d").out == "nothing to delete\n"
    assert logged.inside("gc", "--grace", "0").out == "nothing to delete\n"
    logged.run("gc", "pets:v0", code=2)
    logged.run("gc", "plants", code=3)
    logged.run("gc", "--grace", "1 week", code=2)
    logged.run("verify")
