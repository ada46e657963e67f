"""One file, symlink or reference of an artifact, as the Python API shows it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from artifactmount.api.stored import Stored
from artifactmount.assembly import Kept, Local, Referenced, Row
from artifactmount.errors import ArgumentError, ArtifactNotLoggedError, MissingEntryError
from artifactmount.reference import Referent
from artifactmount.rows import Kind, kind_of


class Owner(Protocol):
    """The artifact that an entry is of."""

    @property
    def name(self) -> str:
        """See Artifact."""
        ...

    def _digest_of(self, entry: Entry) -> str: ...

    def _stored_version(self) -> Stored: ...

    def _root(self, root: str | None) -> str: ...


class Entry:
    """One path of an artifact. Two of the same artifact and path are equal."""

    __slots__ = ("_artifact", "path", "row")

    def __init__(self, artifact: Owner, path: bytes, row: Row) -> None:
        self._artifact, self.row = artifact, row
        self.path: str = os.fsdecode(path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and (self._artifact, self.path) == (other._artifact, other.path)

    def __hash__(self) -> int:
        return hash((self._artifact, self.path))

    def __repr__(self) -> str:
        return f"<Entry {self.path} of {self._artifact.name}>"

    @property
    def name(self) -> str:
        """The path, as W&B's File has it."""
        return self.path

    @property
    def size(self) -> int:
        """In bytes; of a symlink the length of what it says."""
        return self.row.size

    @property
    def kind(self) -> str:
        """One of "file", "symlink" and "reference"."""
        return kind_of(self.row.mode).name.lower()

    @property
    def digest(self) -> str:
        """What tells its content from any other: the project's digest in hex (a BLAKE3); in `artifactmount.wandb` what W&B has there.

        Raises ArtifactNotLoggedError for a file of a draft, which nobody has read yet (not in `artifactmount.wandb`, which reads it).
        """
        return self._artifact._digest_of(self)

    @property
    def content_digest(self) -> str:
        """The project's own digest, in hex. Raises ArtifactNotLoggedError for a file of a draft."""
        if isinstance(self.row, Kept):
            return self.row.run.digest_of(self.row.row).hex()
        raise ArtifactNotLoggedError(f"{self.path} has a digest when it is logged; nobody has read it yet")

    @property
    def referent(self) -> Referent | None:
        """The record of a reference; None for what is none."""
        if kind_of(self.row.mode) is not Kind.REFERENCE:
            return None
        if isinstance(self.row, Referenced):
            return Referent.decode(self.row.record)
        assert isinstance(self.row, Kept)
        return Referent.decode(self.row.run.target(self.row.row))

    @property
    def ref(self) -> str | None:
        """The URI of a reference; None for what is none."""
        return None if self.referent is None else self.referent.uri

    @property
    def extra(self) -> dict[str, Any]:
        """Of a reference what tells a change of it: `etag`, `versionID`."""
        referent = self.referent
        found = {} if referent is None else {"etag": referent.etag, "versionID": referent.version}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def link(self) -> str | None:
        """What a symlink says; None for what is none."""
        if kind_of(self.row.mode) is not Kind.SYMLINK:
            return None
        if isinstance(self.row, Local):
            return os.fsdecode(os.readlink(self.row.path))
        assert isinstance(self.row, Kept)
        return os.fsdecode(self.row.run.target(self.row.row))

    @property
    def local_path(self) -> str | None:
        """Where a file of a draft lies; None for what is not on this machine."""
        return os.fsdecode(self.row.path) if isinstance(self.row, Local) else None

    def ref_target(self) -> str:
        """The URI of a reference. Raises ArgumentError for what is none."""
        if self.ref is None:
            raise ArgumentError(f"{self.path} is no reference")
        return self.ref

    def ref_url(self) -> str:
        """The URI of what lies elsewhere; of a file its path in the artifact, as `artifactmount ls` takes it."""
        return self.ref or f"{self._artifact.name}/{self.path}"

    def parent_artifact(self) -> Any:
        """The Artifact that it is of."""
        return self._artifact

    def download(self, root: str | None = None, skip_cache: bool | None = None) -> str:
        """Write it below `root` (default: the artifact's own folder) under its path; where it is then.

        What is there and right is kept. `skip_cache` has no meaning here. Raises ArtifactNotLoggedError, CorruptError, StoreError,
        SourceError.
        """
        stored, root = self._artifact._stored_version(), self._artifact._root(root)
        stored.download(root, path=os.fsencode(self.path))
        return os.path.join(root, self.path)

    def open(self) -> io.BufferedReader:
        """The bytes, as a file to read from. See `Artifact.open`."""
        return self._artifact._stored_version().stream(os.fsencode(self.path))


class Manifest:
    """All entries of an artifact. `version` is of the form of the manifest, as W&B counts it."""

    version = 1

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries: Mapping[str, Entry] = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def get_entry_by_path(self, path: str) -> Entry | None:
        """The entry at a path, or None."""
        return self.entries.get(path)

    def get_entries_in_directory(self, directory: str) -> list[Entry]:
        """All entries below a folder. Raises MissingEntryError when there are none."""
        top = directory.strip("/") + "/"
        found = [entry for path, entry in self.entries.items() if path.startswith(top)]
        if not found:
            raise MissingEntryError(f"no folder {directory} in the artifact")
        return found

    def to_manifest_json(self) -> dict[str, Any]:
        """As W&B's manifest: `{"version": 1, "contents": {path: {"digest", "size", "ref", "extra"}}}`; what is empty is left out."""
        return {"version": 1, "contents": {path: _as_json(entry) for path, entry in sorted(self.entries.items())}}


def _as_json(entry: Entry) -> dict[str, Any]:
    fields = {"digest": entry.digest, "size": entry.size, "ref": entry.ref, "extra": entry.extra}
    return {name: value for name, value in fields.items() if value not in (None, {})}
