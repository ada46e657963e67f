"""Where the program runs: in a home of its own, with a project in a folder or in a bucket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program, in_bucket, in_folder


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """With a project in a folder that is not there yet."""
    return in_folder(tmp_path)


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """With a project in a folder, and again with one in a bucket."""
    return in_folder(tmp_path) if request.param == "folder" else in_bucket(tmp_path, request.getfixturevalue("s3_server"))


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """A folder for trees that are too deep for what cleans up after a test."""
    yield tmp_path
    subprocess.run(["rm", "-rf", "--", *tmp_path.iterdir()], check=True)
