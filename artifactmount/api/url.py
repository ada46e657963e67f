"""What a path of `artifactmount://` means: the project, an artifact, or a path in a version or alias of it. Pure; asks no project."""

from __future__ import annotations

import os
from dataclasses import dataclass

from artifactmount.errors import NotFoundError
from artifactmount.names import Reference
from artifactmount.state import NAME


@dataclass(frozen=True, slots=True)
class Place:
    """What a path means: the project (no artifact), an artifact (no version), or a path in a version or alias of it.

    `prefix`: how all names at this place begin.
    """

    artifact: str = ""
    version: str = ""
    path: bytes = b""
    prefix: str = ""

    @staticmethod
    def of(text: str) -> Place:
        """The place of a path without its protocol. Raises NotFoundError for what no name can be."""
        artifact, _, rest = text.strip("/").partition("/")
        artifact, colon, version = artifact.partition(":")
        if not colon:
            version, _, rest = rest.partition("/")
        if artifact or colon:
            for name in (artifact, version) if version or colon else (artifact,):
                if not NAME.fullmatch(name):
                    raise NotFoundError(f"{text!r}: no artifact, version or alias is called {name!r}; write animals:latest/cat.png")
        prefix = artifact + (colon or "/") + version if version else artifact
        return Place(artifact, version, b"/".join(part for part in os.fsencode(rest).split(b"/") if part not in (b"", b".")), prefix)

    @property
    def reference(self) -> Reference:
        """The version or alias, for who looks it up."""
        return Reference(self.artifact, self.version)

    def name(self, path: bytes) -> str:
        """The name of a path in this version."""
        return f"{self.prefix}/{os.fsdecode(path)}" if path else self.prefix
