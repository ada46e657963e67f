"""The mutants: each edit fits the source, each test is there, docs/testing.md tells of each; and one is made for real."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, PROTOCOL, MisfitError, Mutant

ROOT = Path(__file__).parent.parent
CHECK = ROOT / "scripts/check_mutants.py"
_ROW = re.compile(r"^\| `([\w-]+)` \| (.+) \| (`.+`) \|$", re.MULTILINE)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_edit_fits_the_source(mutant: Mutant) -> None:
    source = (ROOT / mutant.path).read_text()
    assert ast.dump(ast.parse(mutant.edit(source))) != ast.dump(ast.parse(source))


def test_an_edit_that_no_longer_fits_is_an_error() -> None:
    mutant = Mutant("name", "rule", "log.py", "a = 1", "a = 2", ("test",))
    assert mutant.edit("a = 1\n") == "a = 2\n"
    for source in ("a = 3\n", "a = 1\na = 1\n", "(a = 1\n"):
        with pytest.raises(MisfitError, match=r"name: .* artifactmount/log\.py"):
            mutant.edit(source)


def test_twenty_rules_of_the_protocol_and_no_name_twice() -> None:
    assert len(PROTOCOL) == 20 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_tests_are_there() -> None:
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        path, _, name = test.partition("::")
        assert re.search(rf"^def {name.partition('[')[0]}\(", (ROOT / path).read_text(), re.MULTILINE), test


def test_the_page_has_the_same_table() -> None:
    rows = _ROW.findall((ROOT / "artifactmount/docs/testing.md").read_text())
    assert rows == [
        (mutant.name, mutant.rule, ", ".join(f"`{test.removeprefix('tests/')}`" for test in mutant.tests)) for mutant in MUTANTS
    ]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, *arguments], capture_output=True, text=True, check=False, timeout=100)


def test_a_mutant_is_killed() -> None:
    done = check("--only", "no-fence", "--why")
    assert (done.returncode, done.stderr) == (0, "")
    first, killed, why, last = done.stdout.splitlines()
    assert first.startswith("1 tests without a mutant: pass ")
    assert re.fullmatch(r"killed +[\d.]+ s  no-fence", killed) and " fails: " in why
    assert last == "1 mutants, 0 survived"


def test_what_is_no_mutant_is_refused() -> None:
    done = check("--only", "no-such-rule")
    assert done.returncode == 1 and done.stderr == "no mutant no-such-rule; --list names them\n"
