"""What of a version is in a folder of this machine, and what else is there. Writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from artifactmount.download import is_right
from artifactmount.errors import NotFoundError
from artifactmount.manifest import MISSING, Table
from artifactmount.names import Reference, resolve
from artifactmount.project import Project
from artifactmount.rows import Kind, path_of
from artifactmount.run import Run
from artifactmount.state import State
from artifactmount.target import Target


@dataclass(slots=True)
class Compared:
    """What of a version is not in a folder as it should be, by path; what is there beside, or of another kind (a folder in the place
    of a file, …)."""

    missing: list[bytes]
    differing: list[bytes]
    extra: list[bytes]


def compare(project: Project, reference: Reference, path: str) -> Compared:
    """Compare the folder `path` with a version, byte by byte; what a reference leads to by size and time, as `download` left it.

    Raises NotFoundError, CorruptError, StoreError.
    """
    if not os.path.isdir(path):
        raise NotFoundError(f"no such folder: {path}")
    catalog = project.catalog(reference.artifact)

    def load(state: State) -> tuple[Table, list[Run]]:
        table = catalog.table(state, resolve(state, reference).n)
        return table, catalog.runs(state, table)

    table, runs = project.reading(reference.artifact, load)
    compared = Compared([], [], [])
    with Target(path, project.artifact(reference.artifact).cipher.chunking.digest) as target:
        for key, name, row in table.walk():
            present = target.kind(key, name)
            if present is None:
                compared.missing.append(path_of(key, name))
            elif not is_right(target, table, runs, key, name, row, present):
                compared.differing.append(path_of(key, name))
    top = os.fsencode(path)
    for folder, folders, names in os.walk(top):
        below = os.path.relpath(folder, top)
        for entry in (*folders, *names):
            found = entry if below == b"." else os.path.join(below, entry)
            row = table.lookup(found)
            is_folder = entry in folders and not os.path.islink(os.path.join(folder, entry))
            if row == MISSING or is_folder != (table.kind(row) is Kind.DIRECTORY):
                compared.extra.append(found)
    return compared
