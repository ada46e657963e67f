"""Aliases: made, moved, removed; what is not the user's to set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.trees import File, write


@pytest.fixture
def logged(anywhere: Program, tmp_path: Path) -> Program:
    for content in (b"zero", b"one"):
        anywhere.run("snapshot", write(tmp_path / "pets", {b"f": File(content)}), "pets")
    return anywhere


def test_move_and_remove(logged: Program) -> None:
    assert logged.run("alias", "pets:v0", "best", "paper").lines == ["pets:best -> v0", "pets:paper -> v0"]
    assert logged.run("ls", "pets").lines == ["v0  best  paper", "v1  latest"]
    assert logged.run("alias", "pets", "best").lines == ["pets:best -> v1"]
    assert logged.run("alias", "pets:paper", "good", "--json").json == {"artifact": "pets", "aliases": {"good": "v0"}}
    assert logged.run("ls", "pets").lines == ["v0  good  paper", "v1  best  latest"]
    assert logged.run("alias", "--remove", "pets", "best", "paper").lines == ["pets:best removed", "pets:paper removed"]
    assert logged.run("alias", "--remove", "pets", "good", "--json").json == {"artifact": "pets", "aliases": {"good": None}}
    assert logged.run("ls", "pets").lines == ["v0", "v1  latest"]
    said = [line.split("  ", 2)[2] for line in logged.run("log", "pets", "-n", "3").lines]
    assert said == ["pets:good removed", "pets:best removed, pets:paper removed", "pets:good -> v0"]
    logged.run("verify")


def test_an_alias_that_is_there_already_writes_nothing(logged: Program) -> None:
    logged.run("alias", "pets:v0", "best")
    before = logged.run("log", "pets", "--json").out
    assert logged.run("alias", "pets:v0", "best").lines == ["pets:best -> v0"]
    assert logged.run("log", "pets", "--json").out == before


def test_removing_is_all_or_nothing(program: Program, tmp_path: Path) -> None:
    program.run("snapshot", write(tmp_path / "pets", {}), "pets", "--alias", "a")
    program.run("alias", "--remove", "pets", "a", "b", code=3)
    assert program.run("ls", "pets").lines == ["v0  a  latest"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("pets:v0", "latest"),
        ("pets:v0", "v0"),
        ("pets:v0", "v7"),
        ("pets:v0", "-x"),
        ("pets:v0", ".x"),
        ("pets:v0", "a/b"),
        ("pets:v0", "a:b"),
        ("pets:v0", ""),
        ("pets:v0", "ä"),
        ("pets:v0", "x" * 129),
        ("pets:v0", "good", "bad one"),
        ("pets:v0/f", "x"),
        ("pets:", "x"),
        ("pets:v0",),
        ("--remove", "pets:v0", "x"),
        ("--remove", "pets", "latest"),
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_what_makes_no_sense_is_2_and_does_nothing(program: Program, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    program.quick = True
    program.run("snapshot", write(tmp_path / "pets", {b"f": File()}), "pets")
    before = program.run("log", "pets", "--json")
    program.run("alias", *arguments, code=2)
    assert program.run("log", "pets", "--json") == before
