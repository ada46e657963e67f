"""What users call things: artifacts, versions, aliases, and paths in them. `animals`, `animals:v3`, `animals:best/cats/1.png`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from artifactmount.errors import NotFoundError, UsageError
from artifactmount.state import LATEST, NAME, RESERVED, State, Version

_VERSION = re.compile(r"v(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user typed: an artifact, perhaps a version or alias of it, perhaps a path inside."""

    artifact: str
    version: str | None = None
    path: bytes = b""

    def __str__(self) -> str:
        return f"{self.artifact}:{self.version}" if self.version else self.artifact


def check_artifact(name: str) -> str:
    """`name`, or UsageError when it is no artifact's name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"not a name for an artifact: {name!r} (letters, digits, _ . -; at most 128, not beginning with . or -)")
    return name


def check_alias(name: str) -> str:
    """`name`, or UsageError when users may not set it."""
    if name == LATEST or RESERVED.fullmatch(name):
        raise UsageError(f"{name!r} is not yours to set: `latest` follows by itself, and v0, v1, … are versions")
    if not NAME.fullmatch(name):
        raise UsageError(f"not a name for an alias: {name!r} (letters, digits, _ . -; at most 128, not beginning with . or -)")
    return name


def parse(text: str) -> Reference:
    """`ARTIFACT[:VERSION|:ALIAS][/PATH]`. The path's bytes are what was typed, also when they are not UTF-8."""
    head, slash, path = text.partition("/")
    artifact, colon, version = head.partition(":")
    check_artifact(artifact)
    if colon and not NAME.fullmatch(version):
        raise UsageError(f"not a version or alias: {version!r} in {text!r}")
    return Reference(artifact, version or None, path.strip("/").encode("utf-8", "surrogateescape") if slash else b"")


def number_of(text: str) -> int | None:
    """3 for "v3"; None for anything else."""
    match = _VERSION.fullmatch(text)
    return int(match[1]) if match and len(text) < 19 else None


def resolve(state: State, reference: Reference) -> Version:
    """The live version a reference means; no version means `latest`. Raises NotFoundError saying what there is."""
    name = reference.version or LATEST
    number = number_of(name)
    if number is None:
        number = state.aliases.get(name)
    version = state.versions.get(number) if number is not None else None
    if version is None:
        if not state.versions:
            raise NotFoundError(f"no artifact {reference.artifact}; `artifactmount ls` lists what there is")
        deleted = number is not None and number < state.next
        raise NotFoundError(
            f"no version {reference.artifact}:{name}"
            + (" (deleted)" if deleted else "")
            + f"; `artifactmount ls {reference.artifact}` lists them"
        )
    return version
