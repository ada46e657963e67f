"""What the fsspec file system says of artifacts, versions and rows: an fsspec entry each. Asks no store for a state; see `filesystem`."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from typing import Any

from artifactmount.api.stored import Stored
from artifactmount.errors import MissingEntryError, NotDirectoryError
from artifactmount.names import number_of
from artifactmount.rows import Kind, path_of
from artifactmount.state import State, Version

Entry = dict[str, Any]


def _time(version: Version) -> float:
    return datetime.fromisoformat(version.time).timestamp()


def artifact_entry(name: str, state: State) -> Entry:
    """An artifact that has versions; its time is that of the newest."""
    return {"name": name, "type": "directory", "size": 0, "mtime": max(map(_time, state.versions.values()))}


def is_through_alias(name: str) -> bool:
    """Whether a listed name (ARTIFACT/VERSION/…) is that of an alias, or leads through one."""
    _, slash, rest = name.strip("/").partition("/")
    return bool(slash) and number_of(rest.partition("/")[0]) is None


def version_entries(name: str, state: State) -> list[Entry]:
    """The versions of an artifact, and its aliases, in order."""
    entries: list[Entry] = []
    for number, version in state.versions.items():
        digest = version.digest.hex()
        fields = {"size": 0, "mtime": _time(version), "version": f"v{number}", "digest": digest, "ETag": digest}
        entries.append({"name": f"{name}/v{number}", "type": "directory", **fields})
        aliases = sorted(alias for alias, meant in state.aliases.items() if meant == number)
        link = {"islink": True, "destination": f"v{number}"}
        entries += ({"name": f"{name}/{alias}", "type": "directory", **fields, **link} for alias in aliases)
    return entries


def row_entry(stored: Stored, name: str, row: int) -> Entry:
    """A row that is no symlink."""
    table = stored.table
    folder, digest = table.kind(row) is Kind.DIRECTORY, table.digest(row).hex()
    return {
        "name": name,
        "type": "directory" if folder else "file",
        "size": 0 if folder else table.size(row),
        "mtime": _time(stored.version) if folder else table.mtime(row) / 1e9,
        "version": f"v{stored.number}",
        "digest": digest,
        "ETag": digest,
    }


def link_of(stored: Stored, row: int) -> Entry:
    """What the entry of a symlink has beside those of what it leads to."""
    kept = stored.row(row)
    return {"islink": True, "destination": os.fsdecode(kept.run.target(kept.row))}


def listed_entry(stored: Stored, name: str, row: int) -> Entry:
    """A row as a listing has it."""
    table = stored.table
    if table.kind(row) is not Kind.SYMLINK:
        return row_entry(stored, name, row)
    link = link_of(stored, row)
    with suppress(MissingEntryError, NotDirectoryError):
        leads_to = stored.locate(path_of(table.directory_of(row), table.name(row)))
        if table.kind(leads_to) is not Kind.DIRECTORY:
            return row_entry(stored, name, leads_to) | link
    return row_entry(stored, name, row) | link | {"type": "link", "mtime": _time(stored.version)}
