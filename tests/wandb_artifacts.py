"""Artifacts as W&B leaves them on a machine: a manifest, and files in a folder or in its cache."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

Contents = dict[str, dict[str, Any]]


def md5(content: bytes) -> str:
    """The digest of a file, as W&B's manifest has it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def file_entry(content: bytes) -> dict[str, Any]:
    """A file's entry, with what else W&B puts there."""
    return {"digest": md5(content), "size": len(content), "birthArtifactID": "QXJ0aWZhY3Q6MQ=="}


def manifest(contents: Contents) -> str:
    """The manifest of an artifact that has these entries."""
    config = {"storageLayout": "V2"}
    return json.dumps({"version": 1, "storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": config, "contents": contents})


def digest(contents: Contents) -> str:
    """W&B's digest of the artifact, worked out as its client does."""
    lines = "".join(f"{path}:{contents[path]['digest']}\n" for path in sorted(contents))
    return hashlib.md5(b"wandb-artifact-manifest-v1\n" + lines.encode(), usedforsecurity=False).hexdigest()


def downloaded(folder: Path, files: dict[str, bytes], references: Contents | None = None) -> Contents:
    """Write files and their manifest to a folder; what the manifest has."""
    contents: Contents = {path: file_entry(content) for path, content in files.items()} | (references or {})
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wandb_manifest.json").write_text(manifest(contents))
    return contents


def cached(cache: Path, *contents: bytes) -> list[Path]:
    """Write files to W&B's cache; where they lie."""
    paths = []
    for content in contents:
        name = hashlib.md5(content, usedforsecurity=False).hexdigest()
        path = cache / "obj/md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths
