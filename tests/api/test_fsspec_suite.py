"""fsspec's own test suite over `artifactmount://`: the classes that only read.

`AbstractGetTests` runs whole. Its fixtures, and one of its tests, write what is then read: here into a staging folder, of which the next
read takes a snapshot. No test of the other classes only reads: `AbstractOpenTests`, `AbstractPipeTests`, `AbstractPutTests` and
`AbstractCopyTests` each write through the file system first, and versions cannot be written; `test_filesystem.py` tests that each such call
is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

import artifactmount as am
from artifactmount.api.url import Place
from artifactmount.filesystem import ArtifactFileSystem


class StagedFileSystem(ArtifactFileSystem):
    """What is written below `written:latest` goes to a staging folder, and is a version when it is read."""

    cachable = False

    def __init__(self, run: am.Run, staging: Path) -> None:
        super().__init__(run._opened.url)
        self._run, self._staging, self._changed = run, staging, True

    def _path(self, path: str) -> Path:
        self._changed = True
        name, _, rest = str(self._strip_protocol(path)).partition("/")
        assert name == "written:latest"
        return self._staging / rest

    def _place(self, path: str) -> Place:
        if self._changed:
            self._changed = False
            artifact = am.Artifact("written", "dataset")
            artifact.add_dir(str(self._staging))
            self._run.log_artifact(artifact)
        return super()._place(path)

    def mkdir(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self._path(path).mkdir(parents=True)

    def makedirs(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self._path(path).mkdir(parents=True, exist_ok=True)

    def pipe(self, path: str, value: bytes) -> None:  # type: ignore[override]
        target = self._path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(value)

    def touch(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self.pipe(path, b"")

    def rm(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        shutil.rmtree(self._path(path))


class TestGet(AbstractGetTests, AbstractFixtures):  # type: ignore[misc]
    """Copying files, folders and globs to a local folder, in all of fsspec's ways to name source and target."""

    @pytest.fixture
    def fs(self, run: am.Run, tmp_path: Path) -> StagedFileSystem:
        (tmp_path / "staging").mkdir()
        return StagedFileSystem(run, tmp_path / "staging")

    @pytest.fixture
    def fs_path(self) -> str:
        return "written:latest"
