"""A version's card: its note, metadata, and labels. It is stored beside the version's run, so it leaves the bucket with the version.

Readers older than labels know no fields but note and metadata, and refuse a card with others. So labels stand in the metadata, under a key
that is kept for them: such a reader shows them there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artifactmount.errors import CorruptError, UsageError

CARD_LIMIT = 1 << 20
DEPTH_LIMIT = 64
#: The key of the metadata that is not the user's.
RESERVED = "artifactmount"
TAG_LIMIT = 128  # characters
TAGS_LIMIT = 1000
TTL_LIMIT = 1 << 33  # seconds: 272 years
_TAG = re.compile(r"[-\w]+(?: +[-\w]+)*")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Labels:
    """What is kept of a version beside note and metadata. `tags`: in the order in which they were given, each once. `ttl`: seconds from the
    version's own time until it may be deleted; None: for ever. `md5`: the digest that W&B would give the version, 32 hex digits; empty
    where nobody worked it out."""

    tags: tuple[str, ...] = ()
    ttl: int | None = None
    md5: str = ""

    def to_json(self) -> dict[str, Any]:
        """Only what there is."""
        fields = {"tags": list(self.tags), "ttl": self.ttl, "md5": self.md5}
        return {name: value for name, value in fields.items() if value not in ([], None, "")}

    @staticmethod
    def from_json(value: Any) -> Labels | None:
        """None for what is not in the one form that labels have: then it is somebody's own metadata."""
        if not isinstance(value, dict) or not value or not value.keys() <= {"tags", "ttl", "md5"}:
            return None
        tags, ttl, md5 = value.get("tags", []), value.get("ttl"), value.get("md5", "")
        if not isinstance(tags, list) or not all(is_tag(tag) for tag in tags) or len(set(tags)) != len(tags) or len(tags) > TAGS_LIMIT:
            return None
        if (ttl is not None and (type(ttl) is not int or not 0 < ttl < TTL_LIMIT)) or (md5 and not _is_md5(md5)):
            return None
        labels = Labels(tuple(tags), ttl, md5)
        return labels if labels.to_json() == value else None


def is_tag(tag: object) -> bool:
    """Whether this can be a tag: words of letters, digits, `_` and `-`, with blanks between; 128 characters at most."""
    return isinstance(tag, str) and len(tag) <= TAG_LIMIT and _TAG.fullmatch(tag) is not None


def _is_md5(value: object) -> bool:
    return isinstance(value, str) and _MD5.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Card:
    """What a user says of a version. `metadata` holds JSON values."""

    note: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    labels: Labels = Labels()

    def encode(self) -> bytes:
        """Canonical JSON. Raises UsageError beyond 1 MiB."""
        labels = self.labels.to_json()
        metadata = self.metadata | {RESERVED: labels} if labels else self.metadata
        fields = {"metadata": metadata, "note": self.note}
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
        labels = Labels.from_json(metadata.get(RESERVED))
        if labels is None:
            return Card(note, metadata)
        return Card(note, {key: value for key, value in metadata.items() if key != RESERVED}, labels)


def check_labels(tags: tuple[str, ...], ttl: int) -> None:
    """Raises UsageError for what cannot be a version's tags, or time to live (0: for ever)."""
    if not 0 <= ttl < TTL_LIMIT:
        raise UsageError(f"a time to live of {ttl} seconds (limit {TTL_LIMIT}, 272 years); without one, a version stays for ever")
    for tag in tags:
        if not is_tag(tag):
            raise UsageError(f"not a tag: {tag!r} (words of letters, digits, _ and -, with blanks between; at most {TAG_LIMIT} characters)")
    if len(tags) > TAGS_LIMIT or len(set(tags)) != len(tags):
        raise UsageError(f"{len(tags)} tags: a version has at most {TAGS_LIMIT}, each once")


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raises UsageError for metadata that is not the user's to set."""
    if RESERVED in metadata:
        raise UsageError(f"the key {RESERVED!r} of metadata is kept for labels; choose another one")


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(DEPTH_LIMIT + 2):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list, tuple))]
        level = [item for part in inner for item in part]
        if not level:
            return False
    return True
