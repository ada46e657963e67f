"""What measures: its programs start, and one of them measures something that the report makes a row of. Says nothing of speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "scripts/bench"


def bench(*arguments: str | Path) -> str:
    """What a program prints; it must end well."""
    program, *rest = arguments
    ran = subprocess.run([sys.executable, BENCH / program, *rest], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(("program", "option"), [("snapshots.py", "13"), ("mounts.py", "11"), ("s3.py", "12"), ("report.py", "--write")])
def test_a_program_says_what_it_does(program: str, option: str) -> None:
    assert option in bench(program, "--help")


def test_a_trial_is_measured_counted_and_reported(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    bench("snapshots.py", "--small", "--row", "1", "--peers", "", "--dir", tmp_path, "--results", results)
    assert list(tmp_path.iterdir()) == [results]
    timed, counted = (json.loads(line) for line in results.read_text().splitlines())
    assert [timed[name] for name in ("row", "case", "who", "round", "small")] == ["1", "first snapshot", "artifactmount", 0, True]
    assert timed["value"] > timed["sync"] >= 0 and timed["cpu"] > 0 and timed["stored"] > 10_000_000
    assert (counted["round"], counted["value"]) == (-1, None) and counted["store"]["create"] >= 3

    restic, git = ({**timed, "who": who, "value": timed["value"] * slower} for who, slower in (("restic", 4), ("git", 2)))
    failed = {**timed, "who": "dvc", "value": None, "error": "dvc is not here"}
    results.write_text("".join(json.dumps(line) + "\n" for line in (timed, counted, restic, git, failed)))
    told = bench("report.py", "--small", "--results", results)
    rows = [line for line in told.splitlines() if line.startswith("| 1 | first snapshot of ")]
    assert [row.split(" | ")[-3:] for row in rows] == [
        ["0.25 ×", "≤ 0.4 ×", "yes |"],
        ["0.5 ×", "≤ 0.25 ×", "**no** |"],
        ["–", "≤ 0.05 ×", "– |"],
    ]
    assert "store: create" in told and "- row 1, dvc: dvc is not here" in told
    assert "**no**" not in bench("report.py", "--results", results)  # a trial is no figure
