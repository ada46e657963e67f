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
    bench("snapshots.py", "--small", "--row", "3", "--peers", "", "--dir", tmp_path, "--results", results)
    assert list(tmp_path.iterdir()) == [results]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(line["row"], line["case"], line["who"], line["round"]) for line in lines] == [
        ("3", "beyond unchanged", "artifactmount", 0),
        ("3", "new metadata", "artifactmount", 0),
        ("3", "beyond unchanged", "artifactmount", -1),
    ]
    assert 0 < lines[1]["value"] < 64 << 10 and lines[2]["store"]["create"] >= 3
    told = bench("report.py", "--small", "--results", results)
    (row,) = [line for line in told.splitlines() if "new metadata in the store" in line]
    assert row.startswith("| 3 | ") and row.endswith(" KiB | – | – | ≤ 64 KiB | yes |")
    assert "not measured" not in row and "store: " in told and "not measured" in bench("report.py", "--results", results)
