"""docs/scale.md says what the formulas say: its counted tables are worked out again, cell by cell."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from artifactmount import artifact, catalog, download, namespace, prefetch, steps
from artifactmount.artifact import Artifact, Writer
from artifactmount.packer import Packer
from artifactmount.session import Session
from artifactmount.steps import drive
from tests.scale import formulas
from tests.scale.counted import CountedStore, Requests

PAGE = (Path(__file__).parent.parent.parent / "artifactmount/docs/scale.md").read_text()
_PUT, _GET = 0.005 / 1000, 0.0004 / 1000  # dollars
_DAY = 86_400
_WORDS = ("put", "get", "list", "delete", "head")

Row = tuple[str, ...]


def rows(name: str) -> list[Row]:
    """The cells of a counted table, without its head."""
    (table,) = re.findall(rf"^<!-- counted: {name} -->\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in table.splitlines()[2:]]


def figures(name: str) -> list[int]:
    """The first column of a table: what its rows are worked out for."""
    return [int(row[0].replace(",", "")) for row in rows(name)]


def human(size: int) -> str:
    """Bytes, as the page writes them."""
    exact, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if exact >= 1000:
            exact, unit = exact / 1000, larger
    return f"{exact:.3g} {unit}"


# -- requests ------------------------------------------------------------------------------------------------------------------------
def evaluate(cell: str, values: dict[str, int]) -> int:
    """A cell that is a sum of products of numbers, letters and `pages(…)`."""

    def of(node: ast.expr) -> int:
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return of(left) + of(right)
            case ast.BinOp(left, ast.Mult(), right):
                return of(left) * of(right)
            case ast.Name(letter):
                return values[letter]
            case ast.Constant(int(figure)):
                return figure
            case ast.Call(ast.Name("pages"), [keys]):
                return formulas.pages(of(keys))
            case _:
                raise ValueError(f"no formula: {cell!r}")

    return of(ast.parse(cell, mode="eval").body)


def expected_requests(values: dict[str, int]) -> list[Requests]:
    """What the rows of the table of commands come to."""
    letters = (values[letter] for letter in "PMHCSRNTKG")
    p, m, h, c, s, r, n, t, k, g = letters
    opened = formulas.START + Requests(get=h + c * m)
    return [
        formulas.MAKING + formulas.first_snapshot(p, m),
        formulas.first_snapshot(p, m),
        formulas.snapshot(p, m),
        formulas.unchanged(),
        opened,
        opened + Requests(get=g),
        formulas.delete(sessions=s, trash=t),
        formulas.delete(sessions=s, trash=t, rewritten=r, new=n, replaced=1, metadata=m),
        formulas.collect(k),
        formulas.POLL,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_table_of_commands(seed: int) -> None:
    numbers = random.Random(seed)
    values = {letter: numbers.randrange(1, 3000) for letter in "PMHCSRNTKG"}
    told = [Requests(**{word: evaluate(cell, values) for word, cell in zip(_WORDS, row[1:], strict=True)}) for row in rows("requests")]
    assert told == expected_requests(values)


def test_the_table_of_what_is_done_at_once() -> None:
    at_once = [steps._SPAWNED, artifact._AHEAD, catalog._PARALLEL, download._PARALLEL]
    assert [row[1] for row in rows("parallel")] == [str(number) for number in at_once]
    assert download._PARALLEL == prefetch._PARALLEL


# -- how much there is ---------------------------------------------------------------------------------------------------------------
def row_of_files(files: int, size: int) -> Row:
    """What the page says of so many files of so many bytes."""
    packs, metadata = formulas.content_packs(files, size), formulas.metadata_packs(formulas.ROW * files)
    sent = formulas.first_snapshot(packs, metadata)
    got = formulas.open_version(2, 1, metadata).get + formulas.stretches(files, size)
    return (
        f"{files:,}",
        f"{size // 1000} KB",
        f"{packs:,}",
        human(files * (size + formulas.CHUNK + formulas.ROW)),
        human(formulas.ROW * files),
        f"{metadata:,}",
        f"{sent.put:,}",
        f"{sent.put * _PUT + sent.get * _GET:.2f}",
        f"{got:,}",
        f"{got * _GET:.2f}",
    )


def test_the_table_of_files() -> None:
    sizes = [1000 * int(row[1].removesuffix(" KB")) for row in rows("files")]
    assert rows("files") == [row_of_files(files, size) for files, size in zip(figures("files"), sizes, strict=True)]


def test_a_list_takes_no_more_packs_than_it_says() -> None:
    animals, writer = Artifact("project", "animals"), Writer("a", "t")
    for size in (100, 11 << 20, 30 << 20):
        packer = Packer(animals, Session(animals, writer, animals.empty()))
        metadata = drive(CountedStore(), packer.store_metadata(b"card", random.randbytes(size), b""))
        assert len(metadata.packs) <= formulas.metadata_packs(size)


def test_the_tables_of_the_log_and_of_versions() -> None:
    assert rows("log") == [(f"{entries:,}", f"{formulas.from_nothing(entries):,}") for entries in figures("log")]
    assert rows("news") == [(f"{behind:,}", f"{formulas.news(behind):,}") for behind in figures("news")]
    assert rows("versions") == [
        (
            f"{versions:,}",
            f"{2 * versions:,}",
            f"{formulas.open_version(2 * versions, formulas.chain(versions)).get:,}",
            f"{formulas.first_on_machine(2 * versions, versions).get:,}",
            human(formulas.checkpoint(versions)),
            human(formulas.checkpoints(versions)),
        )
        for versions in figures("versions")
    ]


def test_the_table_of_writers() -> None:
    worked_out = [(formulas.contended(writers), formulas.snapshots_at_once(writers)) for writers in figures("writers")]
    assert rows("writers") == [
        (f"{writers:,}", f"{entry.put:,}", f"{entry.get:,}", f"{most.put:,}", f"{most.get:,}")
        for writers, (entry, most) in zip(figures("writers"), worked_out, strict=True)
    ]


def test_the_table_of_readers() -> None:
    a_second = formulas.POLL.get / namespace._FRESH
    opened = formulas.open_version(2, 1, formulas.metadata_packs(formulas.ROW * 1_000_000)).get
    assert rows("readers") == [
        (
            f"{machines:,}",
            f"{machines * a_second:,.0f}",
            f"{machines * a_second * _DAY * _GET:,.2f}",
            f"{machines * (formulas.look(2) + 1):,}",
            f"{machines * opened:,}",
            human(machines * formulas.ROW * 1_000_000),
        )
        for machines in figures("readers")
    ]
