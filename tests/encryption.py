"""The same tests over encrypted projects: `ARTIFACTMOUNT_TEST_ENCRYPT=1 scripts/test tests/cli` (or model, or fuse).

Then every project that the fixtures make is encrypted with one key, which lies in a file in every home. Nothing else is different.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from artifactmount.artifact import Artifact
from artifactmount.crypto import ProjectKey
from artifactmount.document import PROJECT_KEY, make_document
from artifactmount.keys import NO_KEYS, PREFIX, Keyring, Slot

T = TypeVar("T")

ENCRYPTED = os.environ.get("ARTIFACTMOUNT_TEST_ENCRYPT", "") not in ("", "0")
KEY = bytes(range(32))
plain_only = pytest.mark.skipif(ENCRYPTED, reason="looks for plain bytes in the store, says itself what is encrypted, or names no project")
_LINE = f"artifactmount-key-1:{KEY.hex()}\n"


def write_key(folder: Path) -> Path:
    """The file of the one key, in this folder."""
    path = folder / "project.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(_LINE)
        path.chmod(0o600)
    return path


def variables(home: Path) -> dict[str, str]:
    """What the environment of a user needs to say, if anything."""
    return {"ARTIFACTMOUNT_KEY_FILE": str(write_key(home))} if ENCRYPTED else {}


def arguments(given: Sequence[T]) -> list[T | str]:
    """The arguments, or those that make an encrypted project instead of another."""
    return [*given, "--encrypt"] if ENCRYPTED and "init" in given else list(given)


def keyring(home: Path) -> Keyring:
    """What a user opens a project with."""
    return Keyring((str(write_key(home)),)) if ENCRYPTED else NO_KEYS


def artifact(project_id: str, name: str, *, encrypted: bool | None = None) -> Artifact:
    """An artifact of a project without project.json."""
    if ENCRYPTED if encrypted is None else encrypted:
        return Artifact(project_id, name, ProjectKey(KEY, project_id).cipher(name))
    return Artifact(project_id, name)


def documents(project_id: str) -> dict[str, bytes]:
    """What makes a store a project, by key: project.json, and the slot of the one key."""
    if not ENCRYPTED:
        return {PROJECT_KEY: make_document(project_id, None)}
    key = ProjectKey(KEY, project_id)
    slot = Slot.make(key, "file", {}, KEY, {"label": "", "actor": "test", "created": "2026-01-01T00:00:00Z"})
    return {PREFIX + slot.id: slot.encode(), PROJECT_KEY: make_document(project_id, key)}
