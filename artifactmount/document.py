"""project.json: what a project is, in one document that is created once. Pure; of an encrypted project, its key proves every field."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from blake3 import blake3

from artifactmount.crypto import ProjectKey
from artifactmount.errors import CorruptError, NeedsNewerError
from artifactmount.sealed import FORMAT, canonical, seal

PROJECT_KEY = "project.json"
DOCUMENT_LIMIT = 1 << 16
SCHEME = "aes-256-gcm blake3 1"
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_MAC = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What project.json says. Of an encrypted project: the scheme, the proof by its key, and the bytes that this is the proof of."""

    id: str
    made: str
    scheme: str | None = None
    mac: bytes = b""
    proven: bytes = b""

    @property
    def pinned(self) -> str:
        """What must never change, as one word."""
        return self.id if self.scheme is None else f"{self.id}:{blake3(self.proven + self.mac).hexdigest()}"


def moment() -> str:
    """The time now, as stored. To the microsecond: two keys that are added within a second are listed in that order."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def make_document(identity: str, key: ProjectKey | None) -> bytes:
    """The bytes of a new project.json."""
    fields: dict[str, Any] = {"format": FORMAT, "id": identity, "created": moment(), "encryption": None}
    if key is not None:
        fields["encryption"] = {"scheme": SCHEME}
        fields["encryption"] = {"scheme": SCHEME, "mac": key.mac(canonical(fields)).hex()}
    return seal(fields)


def read_document(document: bytes) -> Identity:
    """What project.json says. Raises CorruptError, NeedsNewerError."""
    try:
        fields = json.loads(document)
        fields = {key: value for key, value in fields.items() if key != "check"}
        if seal(fields) != document:
            raise CorruptError(f"{PROJECT_KEY} is damaged: its checksum is wrong")
        if json.dumps(fields["format"]) != str(FORMAT):
            raise NeedsNewerError("this project needs a newer artifactmount")
        identity, made, encryption = fields["id"], fields["created"], fields.get("encryption")
        scheme = mac = proven = None
        if encryption is not None:
            scheme, mac = encryption["scheme"], encryption.pop("mac", None)
            proven = canonical(fields)
    except (ValueError, KeyError, AttributeError, RecursionError, TypeError) as error:
        raise CorruptError(f"{PROJECT_KEY} is damaged: {error}") from None
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity) or not isinstance(made, str):
        raise CorruptError(f"{PROJECT_KEY} is damaged: its fields are not what they must be")
    if encryption is None or proven is None:
        return Identity(identity, made)
    if scheme != SCHEME:
        raise NeedsNewerError("this project needs a newer artifactmount")
    if not isinstance(mac, str) or not _MAC.fullmatch(mac):
        raise CorruptError(f"{PROJECT_KEY} is damaged: its fields are not what they must be")
    return Identity(identity, made, scheme, bytes.fromhex(mac), proven)
