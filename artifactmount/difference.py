"""What differs between two versions, for people: a letter, a path, what it is and was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from artifactmount.manifest import MISSING, Table
from artifactmount.merge import diff
from artifactmount.names import Reference, resolve
from artifactmount.project import Project
from artifactmount.rows import Kind, path_of


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs between two versions: A (only in the second), M (in both) or D (only in the first); sizes in bytes."""

    change: str
    path: bytes
    kind: Kind
    old_size: int
    new_size: int


def differences(project: Project, before: Reference, after: Reference) -> Iterator[Difference]:
    """What differs between two versions, which may be of different artifacts. Raises NotFoundError, CorruptError, StoreError."""
    yield from between(_table(project, before), _table(project, after))


def between(old: Table, new: Table) -> Iterator[Difference]:
    """What differs between two manifests."""
    for key, name, a, b in diff(old, new):
        change = "A" if a == MISSING else "D" if b == MISSING else "M"
        kind = old.kind(a) if b == MISSING else new.kind(b)
        yield Difference(change, path_of(key, name), kind, 0 if a == MISSING else old.size(a), 0 if b == MISSING else new.size(b))


def _table(project: Project, reference: Reference) -> Table:
    catalog = project.catalog(reference.artifact)
    return project.reading(reference.artifact, lambda state: catalog.table(state, resolve(state, reference).n))
