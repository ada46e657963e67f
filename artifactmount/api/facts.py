"""What is known and said of an artifact, draft or version: its properties, as W&B names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from artifactmount.api.checks import checked_aliases, checked_metadata, checked_name, checked_tags, checked_ttl, checked_type
from artifactmount.api.draft import Draft
from artifactmount.api.entry import Manifest
from artifactmount.api.stored import Stored
from artifactmount.api.unsupported import Unsupported
from artifactmount.assembly import Row
from artifactmount.errors import ArtifactNotLoggedError
from artifactmount.rows import Kind, kind_of


class Facts(Unsupported):
    """The properties of `Artifact`."""

    def __init__(
        self,
        name: str,
        type: str,  # noqa: A002 - W&B's name for it
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        incremental: bool = False,
        use_as: str | None = None,
        storage_region: str | None = None,
        digest_algorithm: str | None = None,
    ) -> None:
        self._name, self._type = checked_name(name), checked_type(type)
        self._description = description
        self._metadata = checked_metadata(metadata)
        self._aliases: list[str] = []
        self._tags: tuple[str, ...] = ()
        self._ttl: int | None = None
        self.incremental = incremental
        self._draft: Draft | None = Draft()
        self._stored: Stored | None = None
        self._manifest: Manifest | None = None
        self._final = False
        self._shared: str | None = None
        self._base: Stored | None = None  # a version that rows of the draft are kept of

    def __repr__(self) -> str:
        return f"<Artifact {self.name}>"

    def _stored_version(self) -> Stored:
        if self._stored is None:
            raise ArtifactNotLoggedError(f"{self._name} is a draft; run.log_artifact makes it a version")
        return self._stored

    def _rows(self) -> Iterator[tuple[bytes, Row]]:
        if self._draft is not None:
            yield from self._draft.assembly.rows()
        else:
            yield from ((path, row) for path, row in self._stored_version().rows() if row is not None)

    # -- what it is ----------------------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Such as "animals:v3"; of a draft the bare name."""
        return self._name if self._stored is None else str(self._stored.reference)

    @property
    def qualified_name(self) -> str:
        """As `name`: a project is a place here, and no part of names."""
        return self.name

    source_name, source_qualified_name = name, qualified_name

    @property
    def type(self) -> str:
        """Such as "dataset" or "model"."""
        return self._type

    @property
    def version(self) -> str:
        """Such as "v3". Raises ArtifactNotLoggedError."""
        return f"v{self._stored_version().number}"

    source_version = version

    @property
    def id(self) -> str:
        """What no other version anywhere has. Raises ArtifactNotLoggedError."""
        stored = self._stored_version()
        return f"{stored.opened.project.id}/{stored.reference}"

    @property
    def project(self) -> str:
        """The place of the project. Raises ArtifactNotLoggedError."""
        return self._stored_version().opened.url

    source_project = project

    @property
    def entity(self) -> str:
        """Who made it: "user@host", as the writer said. Raises ArtifactNotLoggedError."""
        return self._stored_version().version.actor

    source_entity = entity

    @property
    def url(self) -> str:
        """Where it lies in the store. Raises ArtifactNotLoggedError."""
        return f"{self.project}/artifacts/{self._name}"

    @property
    def digest(self) -> str:
        """The digest of all paths and contents: the project's own, 64 hex digits; in `artifactmount.wandb` W&B's.

        Raises ArtifactNotLoggedError.
        """
        return self._stored_version().version.digest.hex()

    @property
    def commit_hash(self) -> str:
        """As `digest`."""
        return self.digest

    @property
    def size(self) -> int:
        """Bytes of all files, and of what references lead to."""
        if self._stored is not None:
            return self._stored.version.counts.bytes
        return sum(row.size for _, row in self._rows() if kind_of(row.mode) is not Kind.SYMLINK)

    @property
    def file_count(self) -> int:
        """How many files and references it has; folders and symlinks are not counted."""
        if self._stored is not None:
            return self._stored.version.counts.files + self._stored.version.counts.references
        return sum(kind_of(row.mode) is not Kind.SYMLINK for _, row in self._rows())

    @property
    def state(self) -> str:
        """One of "PENDING" (a draft), "COMMITTED" and "DELETED"."""
        if self._stored is None:
            return "PENDING"
        return "COMMITTED" if self._stored.is_there() else "DELETED"

    @property
    def created_at(self) -> str:
        """When it was committed, in UTC, ISO 8601, as the writer's clock said. Raises ArtifactNotLoggedError."""
        return self._stored_version().version.time

    @property
    def updated_at(self) -> str:
        """As `created_at`: what is said of a version changes without a time of its own (`artifactmount log` has it)."""
        return self.created_at

    @property
    def distributed_id(self) -> str | None:
        """The id under which this artifact was given to `upsert_artifact` or `finish_artifact`; None where it was not."""
        return self._shared

    @property
    def history_step(self) -> int | None:
        """None: no metrics are kept here."""
        return None

    is_link = False

    @property
    def linked_artifacts(self) -> list[Any]:
        """Nothing: there are no links between projects."""
        return []

    def is_draft(self) -> bool:
        """Whether it was not logged yet."""
        return self._stored is None

    # -- what is said of it: set, and `save()` once it is logged ---------------------------------------------------------------------
    @property
    def description(self) -> str | None:
        """A text, None where there is none; `artifactmount` calls it a note."""
        return self._description

    @description.setter
    def description(self, text: str | None) -> None:
        self._description = text

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values. It may be changed in place; it is checked again when it is logged or saved."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any] | None) -> None:
        self._metadata = checked_metadata(metadata)

    @property
    def aliases(self) -> list[str]:
        """The names that point to it, `latest` too. May be changed in place; `latest` follows by itself. Raises ArtifactNotLoggedError."""
        self._stored_version()
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: Iterable[str]) -> None:
        self._stored_version()
        checked_aliases(aliases)
        self._aliases = list(aliases)

    @property
    def tags(self) -> list[str]:
        """In the order in which they were set. To change them, set them."""
        return list(self._tags)

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        self._tags = checked_tags(tags)

    @property
    def ttl(self) -> timedelta | None:
        """How long from `created_at` on the version is kept, in whole seconds; None: for ever. `artifactmount expire --ttl` acts on it."""
        return None if self._ttl is None else timedelta(seconds=self._ttl)

    @ttl.setter
    def ttl(self, ttl: timedelta | None) -> None:
        self._ttl = checked_ttl(ttl)
