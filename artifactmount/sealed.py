"""Canonical JSON under a checksum: what project.json, log entries and checkpoints are made of. Pure; knows none of them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from blake3 import blake3

from artifactmount.errors import CorruptError, NeedsNewerError

#: The version of everything that is sealed.
FORMAT = 1


def canonical(fields: object) -> bytes:
    """One line of ASCII, keys sorted: equal fields, equal bytes."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(fields: Mapping[str, Any]) -> bytes:
    """Canonical JSON with a check over all of it: every flipped bit is noticed, also where no other bytes prove these."""
    # Each value is written once, and put together twice: a checkpoint of 10,000 versions has 5 MB of them.
    values = {name: canonical(value) for name, value in fields.items()}
    check = blake3(_put_together(values)).hexdigest()[:32]
    return _put_together({**values, "check": canonical(check)})


def _put_together(values: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(b"%b:%b" % (canonical(name), value) for name, value in sorted(values.items())) + b"}"


def unseal(data: bytes, limit: int, what: str, known: Container[str] = ()) -> dict[str, Any]:
    """The fields of sealed bytes, without format and check. `known`: words that may stand in `needs`.

    Raises CorruptError; NeedsNewerError for another format or need.
    """
    if len(data) > limit:
        raise CorruptError(f"{what} of {len(data)} bytes (limit {limit})")
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise CorruptError(f"{what} is no JSON object")
        rest = {key: value for key, value in fields.items() if key != "check"}
        whole = seal(rest) == data
    except (ValueError, RecursionError, UnicodeError) as error:
        raise CorruptError(f"{what} cannot be read: {str(error)[:80]}") from None
    if not whole:
        raise CorruptError(f"{what} is damaged: its checksum is wrong")
    found = rest.pop("format", None)
    if type(found) is not int or found != FORMAT:
        raise NeedsNewerError(f"{what} has another format: this project needs a newer artifactmount")
    needs = rest.get("needs", [])
    if not isinstance(needs, list) or not all(isinstance(word, str) and word in known for word in needs):
        raise NeedsNewerError(f"{what} needs {needs!r:.80}: this project needs a newer artifactmount")
    return rest
