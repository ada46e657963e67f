"""A version's card: its note and metadata. It is stored beside the version's run, so it leaves the bucket with the version."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from artifactmount.errors import CorruptError, UsageError

CARD_LIMIT = 1 << 20
DEPTH_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Card:
    """What a user says of a version. `metadata` holds JSON values."""

    note: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Canonical JSON. Raises UsageError beyond 1 MiB."""
        fields = {"metadata": self.metadata, "note": self.note}
        if _is_deep(fields):  # as it can be written, every reader can show it
            raise UsageError(f"metadata is nested deeper than {DEPTH_LIMIT} levels")
        try:
            json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair is no text
            text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError(f"note or metadata cannot be written as JSON: {str(error)[:80]}") from None
        if len(text) > CARD_LIMIT:
            raise UsageError(f"note and metadata come to {len(text)} bytes (limit {CARD_LIMIT}); put them in a file instead")
        return text.encode()

    @staticmethod
    def decode(data: bytes) -> Card:
        """Raises CorruptError."""
        try:
            fields = json.loads(data)
            note, metadata = fields["note"], fields["metadata"]
            canonical = Card(note, metadata).encode() == data
        except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
            raise CorruptError(f"a version's card cannot be read: {str(error)[:80]}") from None
        if not canonical or not isinstance(note, str) or not isinstance(metadata, dict):
            raise CorruptError("a version's card is not in its one form")
        return Card(note, metadata)


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(DEPTH_LIMIT + 2):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list, tuple))]
        level = [item for part in inner for item in part]
        if not level:
            return False
    return True
