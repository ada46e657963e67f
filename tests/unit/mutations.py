"""Mutations: bytes chewed, JSON with other values under a right seal, and the numbers, texts and names that somebody may trust.

Shared by everything that makes hostile input. Knows no format.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from blake3 import blake3


# -- JSON that is sealed and still wrong -----------------------------------------------------------------------------------------------
def canonical(fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def seal(fields: Any) -> bytes:
    return canonical({**fields, "check": blake3(canonical(fields)).hexdigest()[:32]})


def sites(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found += sites(inner)
    return found


ODD: list[Any] = [None, True, False, 0, 1, 1.0, -1, 1 << 53, 1 << 64, 10**16, float("nan"), float("inf"), "", "latest", "v0", "\ud800"]
ODD += [
    "ab" * 32,
    "AB" * 32,
    "ab" * 16,
    "x" * 2000,
    [],
    {},
    [[]],
    [{}],
    ["x"],
    {"x": 1},
    {"open": {}},
    {"n": 1},
    [1, 1],
    [[0, 0, 10**8 - 1]],
]
ODD += [
    [[0, 0, 10**8]],
    [[0, 0, 0, 1, 0]],
    [[0, 0, 0, 1, 0]] * 2,
    [[1, 0, 0], [0, 0, 0]],
    [[0, 0, 0], [0, 1, 1]],
    [[0, 2, 1]],
    [[0, 0, True]],
]


# -- mutations -------------------------------------------------------------------------------------------------------------------------
NUMBERS: tuple[int, ...] = (0, 1, 2, 3, 7, 8, 255, 256, 4095, 4096, 1 << 20, 1 << 22)
NUMBERS += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 53, 1 << 62, 1 << 63, (1 << 64) - 1)
TEXTS: tuple[str, ...] = (
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "latest",
    "v0",
    "\x1b[31m\x9b2J",
    "\udcc2\udc9b",
    "\ud800",
    "\u202e",
    "1e999",
)
TEXTS += ("x" * 2000,)
NAMES = (b"", b".", b"..", b"a/b", b"/", b"\0", b"a", b"b", b"x" * 255, b"\xff", b"\x1b[2J", b"\xc2\x9b", b"\n", b"~", b"-rf", b"\x01")
KEYS = (b"", b"a", b"a\0b", b"b", b"..", b"a\0..", b"/", b"a/b", b"\0", b"a\0", b"\0".join([b"d"] * 2047), b"x" * 255, b"link", b"empty")


def chew(chance: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, taken out, repeated, or made a number that somebody may trust."""
    chewed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, length = chance.randrange(len(chewed) + 1), chance.choice((1, 1, 2, 4, 8, 32, 59))
        match chance.randrange(6):
            case 0 if at < len(chewed):
                chewed[at] ^= 1 << chance.randrange(8)
            case 1:
                del chewed[at : at + length]
            case 2:
                chewed[at:at] = chewed[at : at + length]
            case 3:
                width = chance.choice((1, 2, 4, 8))
                chewed[at : at + width] = (chance.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
            case 4:
                other = chance.randrange(len(chewed) + 1)
                chewed[at : at + length] = chewed[other : other + length]
            case _:
                chewed[at:at] = chance.randbytes(length)
    return bytes(chewed)


def other_json(chance: random.Random, fields: Any) -> Any:
    """The fields with some values exchanged, missing, or of another kind."""
    fields = json.loads(json.dumps(fields))
    for _ in range(chance.choice((1, 1, 2, 3))):
        found = sites(fields)
        if not found:
            break
        container, key = chance.choice(found)
        match chance.randrange(6):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, list):
                container.insert(key, container[key])
            case 2:
                container[key] = chance.choice(NUMBERS)
            case 3:
                container[key] = chance.choice(TEXTS)
            case 4:
                donor, at = chance.choice(found)
                container[key] = json.loads(json.dumps(donor[at])) if at in donor or (isinstance(donor, list) and at < len(donor)) else None
            case _:
                container[key] = copy.deepcopy(chance.choice(ODD))
    return fields
