"""Mutation check: each rule that everything rests on is switched off, and a test has to fail.

    .venv/bin/python scripts/check_mutants.py [--only NAME]… [--jobs 2] [--why] [--list]

The table is in tests/mutants.py, explained in artifactmount/docs/testing.md. Package and tests are copied to a temporary folder; there all
tests of the table must pass. Then, for one mutant after the other, one edit is made in a copy of the copy, and each of its tests is run by
itself and must fail: not with an error of the edit's own, such as a name that there is not, nor by a time-out. `--why` shows what failed.

Exits with 1 when a mutant survives or a test fails without one; with 2 when an edit no longer fits the source.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mutants import MUTANTS, MisfitError, Mutant

ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("artifactmount", "tests", "pyproject.toml")
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - folders of our own are made in it
_SECONDS = 200  # for each test: pytest ends one after two minutes, but an edit may lead into a loop that it cannot end
#: What shows nothing of the rule: an edit that cannot run, and a test that was too slow, with the edit or because of the machine.
_NO_KILL = re.compile(r"^(?:E|[ |]+\|) +((Name|UnboundLocal|Import|Attribute|Type)Error|Failed: Timeout)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """How pytest ended: its exit code, its output, and seconds."""

    code: int
    output: str
    seconds: float

    @property
    def why(self) -> str:
        """The first line of what failed."""
        found = re.findall(r"^E  +(\S.*)", self.output, re.MULTILINE)[:1] or re.findall(r"^ +\| ([\w.]+: .*)", self.output, re.MULTILINE)
        return str(found[-1] if found else self.output.strip().rpartition("\n")[2])[:140]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    runs: list[Ran]

    @property
    def killed(self) -> bool:
        """Whether each of its tests failed, and for the rule's sake."""
        return all(ran.code == 1 and not _NO_KILL.search(ran.output) for ran in self.runs)

    def show(self, *, why: bool) -> str:
        """In a line; with `why` in one more for each test."""
        seconds = sum(ran.seconds for ran in self.runs)
        lines = [f"{'killed' if self.killed else 'SURVIVED':8} {seconds:5.1f} s  {self.mutant.name}"]
        for test, ran in zip(self.mutant.tests, self.runs, strict=True):
            ended = {0: "passes", 1: "fails"}.get(ran.code, "does not run")
            lines.append(f"{'':19}{test.rpartition('::')[2]} {ended}: {ran.why}")
        return "\n".join(lines if why or not self.killed else lines[:1])


def copy(source: Path, target: Path) -> Path:
    """The package, its tests and what they read, in a folder of its own."""
    target.mkdir()
    for name in _COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, symlinks=True)
        else:
            shutil.copy2(source / name, target / name)
    return target


def run(folder: Path, tests: tuple[str, ...], *, compiled: bool = False) -> Ran:
    """Run tests of a copy. `compiled`: leave the compiled modules there for the next copy of it."""
    environment = os.environ | {"PYTHONPATH": str(folder)} | ({} if compiled else {"PYTHONDONTWRITEBYTECODE": "1"})
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    began, limit = time.monotonic(), _SECONDS * len(tests)
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return Ran(-1, f"E   not ended after {limit} s", time.monotonic() - began)
    return Ran(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def check_imported(folder: Path) -> None:
    """That what runs in a copy is the copy. Otherwise every mutant would survive, or worse: fail with the tests of another tree."""
    code = "import artifactmount, tests.mutants as tests; print(artifactmount.__file__, tests.__file__)"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    for found in done.stdout.split():
        if not Path(found).is_relative_to(folder):
            raise SystemExit(f"{found} is imported instead of the copy in {folder}")


def switch_off(mutant: Mutant, folder: Path) -> None:
    """Make the edit in a copy."""
    path = folder / mutant.path
    path.write_text(mutant.edit(path.read_text()))
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def judge(mutant: Mutant, clean: Path) -> Verdict:
    """Run each of a mutant's tests under it."""
    folder = copy(clean, clean.with_name(mutant.name))
    try:
        switch_off(mutant, folder)
        return Verdict(mutant, [run(folder, (test,)) for test in mutant.tests])
    finally:
        shutil.rmtree(folder)


def chosen(names: list[str]) -> tuple[Mutant, ...]:
    """The mutants of these names; all without any."""
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        raise SystemExit(f"no mutant {', '.join(sorted(unknown))}; --list names them")
    return tuple(mutant for mutant in MUTANTS if not names or mutant.name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description="Switch off one rule after the other: a test has to fail.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this mutant; may be given several times")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (default 2)")
    parser.add_argument("--why", action="store_true", help="show what failed")
    parser.add_argument("--list", action="store_true", help="name the mutants, their rules and tests, and do nothing")
    arguments = parser.parse_args()
    mutants = chosen(arguments.only)
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.rule}", *mutant.tests, sep="\n    ")
        return 0
    try:
        for mutant in mutants:
            mutant.edit((ROOT / mutant.path).read_text())
    except MisfitError as misfit:
        print(misfit, file=sys.stderr)
        return 2
    os.nice(10)
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=_MEMORY) as name:
        return check(mutants, Path(name).resolve(), arguments.jobs, arguments.why)


def check(mutants: tuple[Mutant, ...], folder: Path, jobs: int, why: bool) -> int:
    """All of it, in a folder; the exit code."""
    clean = copy(ROOT, folder / "clean")
    check_imported(clean)
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    ran = run(clean, tests, compiled=True)
    print(f"{len(tests)} tests without a mutant: {'pass' if ran.code == 0 else 'FAIL'} {ran.seconds:.1f} s", flush=True)
    if ran.code != 0:
        print(ran.output)
        return 1
    survived = 0
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(lambda mutant: judge(mutant, clean), mutants):
            print(verdict.show(why=why), flush=True)
            survived += not verdict.killed
    print(f"{len(mutants)} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
