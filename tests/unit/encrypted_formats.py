"""The formats of encrypted projects, for hostile.py: packs, records, project.json and key slots under a key that the reader has.

An enemy without the key can only change bytes; one who has it encrypts what he likes. Both are made here.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from blake3 import blake3

from artifactmount.acts import Commit, SetAlias
from artifactmount.crypto import SALT_LENGTH, ProjectKey, Record
from artifactmount.document import make_document, read_document
from artifactmount.errors import CorruptError
from artifactmount.keys import KmsKey, Passphrase, Slot
from artifactmount.log import Entry, decode_checkpoint, decode_entry, encode_checkpoint, encode_entry
from artifactmount.pack import HEAD_LENGTH, PackBuilder, compress
from artifactmount.ranges import PackId, PackRanges
from artifactmount.state import State
from tests.unit.mutations import NUMBERS, chew, other_json, seal

PROJECT = "11" * 16
KEY = ProjectKey(bytes(range(32)), PROJECT)
SECRET = bytes(range(32, 64))
"""What the victim's key file holds."""
CIPHER = KEY.cipher("evil")
_PACK = PackId(3, 1)
_SALT_AT = 8  # in a record


@contextmanager
def drawn(draw: Callable[[int], bytes]) -> Iterator[None]:
    """Salts and nonces from `draw`, so that the same is made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.urandom", draw)
        yield


def a_pack() -> bytes:
    builder = CIPHER.builder()
    for content in (b"hello", bytes(300), bytes(range(200))):
        builder.add(CIPHER.chunking.digest(content), len(content), compress(content)[1])
    return CIPHER.pack(_PACK, builder)


def pack_again(data: bytes) -> bytes:
    builder = CIPHER.builder()
    for row in CIPHER.whole(_PACK, data):
        stored = data[row.offset : row.offset + row.stored]
        CIPHER.chunk(_PACK, row.offset, stored, row.plain, row.digest)
        builder.add(row.digest, row.plain, CIPHER.bare(_PACK, row.offset, stored))
    with drawn(lambda _: data[HEAD_LENGTH : HEAD_LENGTH + SALT_LENGTH]):
        return CIPHER.pack(_PACK, builder)


_KINDS: dict[str, tuple[Record, Callable[[bytes], bytes]]] = {
    "record entry": (Record.ENTRY, lambda plain: encode_entry(decode_entry(plain, 7))),
    "record checkpoint": (Record.CHECKPOINT, lambda plain: encode_checkpoint(decode_checkpoint(plain))),
}
_COMMIT = Commit(4, PackRanges(((4, 0, 1),)), (SetAlias("best", 2),))
PLAIN = {
    "record entry": encode_entry(Entry(7, bytes(32), bytes(16), "2026-01-01T00:00:00Z", "me", "t/1", _COMMIT)),
    "record checkpoint": encode_checkpoint(State(7, bytes(32))),
}


def record_again(name: str, data: bytes) -> bytes:
    kind, again = _KINDS[name]
    plain = CIPHER.open_record(kind, 7, data)
    assert again(plain) == plain
    with drawn(lambda length: data[_SALT_AT : _SALT_AT + length]):
        return CIPHER.record(kind, 7, plain)


def a_slot(kind: str) -> Slot:
    parameters = {
        "file": {},
        "passphrase": Passphrase("correct horse", log_n=14).begin(PROJECT)[0],
        "kms": {"key": "arn:aws:kms:eu-west-1:111122223333:key/1", "ciphertext": "ab" * 20},
    }
    return Slot.make(KEY, kind, parameters[kind], SECRET, {"label": "mine", "actor": "me", "created": "2026-01-01"})


def slot_again(valid: Slot, data: bytes) -> bytes:
    """Whoever has the project's key knows a slot that is not as it was made; whoever has its own, gets no other key out of it."""
    slot = Slot.decode(data, valid.id)
    with suppress(CorruptError):
        assert slot.facts(KEY)["label"] == "mine" and slot == valid
    with suppress(CorruptError):
        assert slot.unwrap(SECRET) == KEY.raw
    if slot.kind == "passphrase" and slot.parameters != valid.parameters:  # these have been tried, and cost 50 ms
        with suppress(CorruptError):
            Passphrase("correct horse").secret(slot.parameters, PROJECT)
    if slot.kind == "kms":
        with suppress(CorruptError):
            KmsKey("arn:aws:kms:eu-west-1:111122223333:key/none").secret(slot.parameters, PROJECT)
    return slot.encode()


def document_again(data: bytes) -> bytes:
    found = read_document(data)
    if found.scheme is not None and hmac.compare_digest(KEY.mac(found.proven), found.mac):
        assert data == DOCUMENT  # nobody without the key makes another
    return data


with drawn(random.Random(1).randbytes):
    DOCUMENT = make_document(PROJECT, KEY)
    SLOTS = {kind: a_slot(kind) for kind in ("file", "passphrase", "kms")}
    FORMATS: dict[str, tuple[bytes, Callable[[bytes], bytes], bool]] = {
        "encrypted pack": (a_pack(), pack_again, True),
        **{name: (CIPHER.record(kind, 7, PLAIN[name]), partial(record_again, name), True) for name, (kind, _) in _KINDS.items()},
        "encrypted project.json": (DOCUMENT, document_again, True),
        **{f"slot {kind}": (slot.encode(), partial(slot_again, slot), True) for kind, slot in SLOTS.items()},
    }
BINARY = ("encrypted pack", *_KINDS)


def by_who_has_the_key(chance: random.Random, name: str) -> bytes:
    """What an enemy with the key puts into one of the binary formats."""
    with drawn(chance.randbytes):
        if name == "encrypted pack":
            return CIPHER.pack(_PACK, _other_builder(chance))
        if chance.random() < 0.2:
            return CIPHER.record(_KINDS[name][0], 7, chew(chance, PLAIN[name]))
        fields = json.loads(PLAIN[name])
        del fields["check"]
        return CIPHER.record(_KINDS[name][0], 7, seal(other_json(chance, fields)))


def _other_builder(chance: random.Random) -> PackBuilder:
    builder = CIPHER.builder()
    for _ in range(chance.choice((1, 1, 2, 5))):
        content = chance.choice((b"x", bytes(300), bytes(chance.choice((1 << 20, 4 << 20))), chance.randbytes(40)))
        stored = chance.choice((compress(content)[1], content[:100], b""))
        plain = chance.choice((len(content), len(content), len(stored), (4 << 20) + 1, *NUMBERS)) % (1 << 32)
        builder.add(chance.choice((CIPHER.chunking.digest(content), blake3(content).digest())), plain, stored)
    return builder
