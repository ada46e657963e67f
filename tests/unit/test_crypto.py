"""What encryption promises: no (key, nonce) pair twice, nothing readable, and no bit, place or order that can be changed unnoticed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import artifactmount
from artifactmount.acts import Open
from artifactmount.artifact import Artifact
from artifactmount.crypto import AROUND, RECORD_AROUND, ArtifactCipher, Cipher, ProjectKey, Record, copy_chunks
from artifactmount.digest import CHUNK_LIMIT, chunk_digest, cut
from artifactmount.errors import CorruptError
from artifactmount.log import Entry, encode_checkpoint, entry_digest
from artifactmount.pack import HEAD_LENGTH, compress
from artifactmount.ranges import PackId
from artifactmount.state import State
from tests import encryption

PROJECT = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
KEY = ProjectKey(bytes(range(32)), PROJECT)
PACK = PackId(3, 1)
CONTENTS = [b"hi", b"a secret of some length. " * 40, bytes(range(256))]


def cipher(name: str = "animals") -> Cipher:
    return KEY.cipher(name)


def packed(pack: PackId = PACK, contents: list[bytes] = CONTENTS, name: str = "animals") -> bytes:
    used = cipher(name)
    builder = used.builder()
    for content in contents:
        builder.add(used.chunking.digest(content), len(content), compress(content)[1])
    stored = used.pack(pack, builder)
    assert builder.size == len(stored) and builder.table() == used.whole(pack, stored)
    return stored


def opened(stored: bytes, pack: PackId = PACK, name: str = "animals") -> list[bytes]:
    used = cipher(name)
    return [used.chunk(pack, r.offset, stored[r.offset : r.offset + r.stored], r.plain, r.digest) for r in used.whole(pack, stored)]


def flips(data: bytes, check: Callable[[bytes], object]) -> None:
    """Every single flipped bit of `data` makes `check` raise CorruptError."""
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError):
            check(bytes(damaged))


# -- keys and nonces -------------------------------------------------------------------------------------------------------------------
def test_no_key_and_nonce_are_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 1,000,000 chunks, their tables of contents and records; numbers that are sealed again, too."""
    keys: set[bytes] = set()
    encrypted = 0

    class Recording:
        def __init__(self, key: bytes) -> None:
            assert key not in keys
            keys.add(key)
            self._real, self._nonces = AESGCM(key), set[bytes]()

        def encrypt(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
            nonlocal encrypted
            encrypted += 1
            assert nonce not in self._nonces
            self._nonces.add(nonce)
            return self._real.encrypt(nonce, plain, aad)

    monkeypatch.setattr("artifactmount.crypto.aes", Recording)
    ciphers, digest = [KEY.cipher("animals"), KEY.cipher("plants")], bytes(32)
    for round_ in range(100):
        for one in ciphers:
            builder = one.builder()
            for number in range(5000):
                builder.add(digest, 2 + number % 3, b"ab" + b"c" * (number % 3))
            one.pack(PackId(round_ // 10, round_ % 5), builder)  # every number twice
            one.record(Record.ENTRY, round_ // 2, b"entry")
            one.record(Record.CHECKPOINT, round_ // 2, b"checkpoint")
    assert encrypted == 100 * 2 * (5000 + 1 + 2) and len(keys) == 100 * 2 * 3


def test_only_two_functions_encrypt() -> None:
    """What makes it so by construction: a pack's function with the salt it draws, and one that is given a new key every time."""
    found: set[tuple[str, str]] = set()
    once: set[tuple[str, str]] = set()
    for path in Path(artifactmount.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Attribute) and call.func.attr == "encrypt":
                    found.add((path.stem, function.name))
                if isinstance(call.func, ast.Name) and call.func.id == "encrypt_once":
                    once.add((path.stem, function.name))
    found.remove(("keys", "begin"))  # asks KMS to encrypt
    assert found == {("crypto", "pack"), ("crypto", "encrypt_once")}
    assert once == {("crypto", "record"), ("keys", "make")}


def test_every_artifact_and_project_has_keys_of_its_own() -> None:
    stored = packed()
    assert opened(stored) == CONTENTS
    other = ProjectKey(bytes(range(32)), "11" * 16).cipher("animals")
    for stranger in (cipher("plants"), other, ProjectKey(bytes(32), PROJECT).cipher("animals")):
        with pytest.raises(CorruptError):
            stranger.whole(PACK, stored)
    assert other.chunking.digest(b"x") != cipher().chunking.digest(b"x") != chunk_digest(b"x")


# -- packs -----------------------------------------------------------------------------------------------------------------------------
def test_a_pack_comes_back_and_shows_nothing() -> None:
    stored = packed()
    assert opened(stored) == CONTENTS
    used = cipher()
    assert used.table(PACK, stored[: used.front_length(used.count(stored[:HEAD_LENGTH]))]) == used.whole(PACK, stored)
    digests = [digest(content) for content in CONTENTS for digest in (chunk_digest, used.chunking.digest)]
    contents = [content for content in CONTENTS if len(content) > 7]  # shorter ones are in random bytes by chance
    assert contents and all(what not in stored for what in (*contents, *digests, b"secret"))


def test_equal_packs_are_stored_as_other_bytes() -> None:
    assert packed() != packed()


def test_every_flipped_bit_of_a_pack_is_noticed() -> None:
    flips(packed(contents=[b"hi", b"there" * 30]), opened)


def test_a_pack_that_is_cut_or_longer_is_noticed() -> None:
    stored = packed()
    for damaged in (*(stored[:length] for length in range(0, len(stored), 7)), stored + b"\0", b""):
        with pytest.raises(CorruptError):
            opened(damaged)


def test_two_packs_cannot_be_swapped() -> None:
    one, other = packed(PackId(3, 0), [b"one"]), packed(PackId(3, 1), [b"two"])
    elsewhere, later = packed(PackId(3, 0), [b"one"], "plants"), packed(PackId(4, 0), [b"one"])
    assert opened(one, PackId(3, 0)) == [b"one"]
    for stored in (other, elsewhere, later):
        with pytest.raises(CorruptError):
            opened(stored, PackId(3, 0))
        with pytest.raises(CorruptError):  # nor a single chunk of it, read without the table
            cipher().bare(PackId(3, 0), builder_offset(1), stored[builder_offset(1) :])


def test_two_chunks_cannot_be_swapped() -> None:
    contents = [b"one", b"two"]  # of one length
    stored, used = packed(contents=contents), cipher()
    first, second = used.whole(PACK, stored)
    one, two = (stored[row.offset : row.offset + row.stored] for row in (first, second))
    assert used.bare(PACK, first.offset, one) == b"one"
    swapped = stored[: first.offset] + two + one
    for row in (first, second):
        with pytest.raises(CorruptError):
            used.bare(PACK, row.offset, swapped[row.offset : row.offset + row.stored])
    older = packed(contents=contents)  # nor with one of the same place in another sealing, under a table that says otherwise
    with pytest.raises(CorruptError):
        used.chunk(PACK, first.offset, older[first.offset : first.offset + first.stored], 3, second.digest)


def builder_offset(count: int) -> int:
    return cipher().front_length(count)


def test_plain_packs_and_records_are_refused() -> None:
    plain, used = Artifact(PROJECT, "animals").cipher, cipher()
    builder = plain.builder()
    builder.add(chunk_digest(b"hi"), 2, b"hi")
    with pytest.raises(CorruptError):
        used.whole(PACK, plain.pack(PACK, builder))
    with pytest.raises(CorruptError):
        plain.whole(PACK, packed())
    with pytest.raises(CorruptError):
        used.open_record(Record.ENTRY, 0, b'{"act":{}}')


def test_chunks_are_copied_to_another_pack_as_they_are() -> None:
    used, stored, new = cipher(), packed(), PackId(9, 0)
    builder = used.builder()
    copy_chunks(used, PACK, stored, used.whole(PACK, stored)[1:], builder)
    assert opened(used.pack(new, builder), new) == CONTENTS[1:]


def test_overheads_are_what_they_are_said_to_be() -> None:
    used = cipher()
    assert [row.stored for row in used.whole(PACK, packed(contents=[b"hi"]))] == [2 + AROUND]
    assert len(used.record(Record.ENTRY, 0, b"12345")) == 5 + RECORD_AROUND


# -- log entries and checkpoints -------------------------------------------------------------------------------------------------------
def entries(artifact: Artifact, count: int) -> list[bytes]:
    state, found = artifact.empty(), list[bytes]()
    for seq in range(count):
        found.append(artifact.encode_entry(Entry(seq, state.digest, bytes(16), "time", "me", "test", Open(bytes(16)))))
        state, _ = artifact.apply(state, found[-1])
    return found


def test_every_flipped_bit_of_a_log_entry_is_noticed() -> None:
    artifact = encryption.artifact(PROJECT, "animals", encrypted=True)
    (entry,) = entries(artifact, 1)
    assert b"open" not in entry and b"test" not in entry
    flips(entry, lambda data: artifact.decode_entry(data, 0))


def test_two_log_entries_cannot_be_swapped() -> None:
    artifact = encryption.artifact(PROJECT, "animals", encrypted=True)
    first, second = entries(artifact, 2)
    state, _ = artifact.apply(artifact.empty(), first)
    for at, data in ((artifact.empty(), second), (state, first), (state, entries(artifact, 2)[1])):
        with pytest.raises(CorruptError):  # the last: right for its slot, but of another history
            artifact.apply(at, data)
    with pytest.raises(CorruptError, match="put where it does not belong"):  # the encryption alone would notice
        artifact.cipher.open_record(Record.ENTRY, 1, first)
    with pytest.raises(CorruptError):
        encryption.artifact(PROJECT, "plants", encrypted=True).decode_entry(first, 0)


def test_every_flipped_bit_of_a_checkpoint_is_noticed() -> None:
    artifact = encryption.artifact(PROJECT, "animals", encrypted=True)
    state = State(63, entry_digest(b"entry"))
    stored = artifact.cipher.record(Record.CHECKPOINT, 63, encode_checkpoint(state))
    assert artifact.open_checkpoint(stored, 63) == encode_checkpoint(state)
    flips(stored, lambda data: artifact.open_checkpoint(data, 63))
    with pytest.raises(CorruptError):
        artifact.open_checkpoint(stored, 127)
    with pytest.raises(CorruptError):  # nor is one an entry
        artifact.cipher.open_record(Record.ENTRY, 63, stored)


# -- names and cuts --------------------------------------------------------------------------------------------------------------------
def test_files_are_cut_at_fixed_offsets() -> None:
    chunking, content = cipher().chunking, bytes(CHUNK_LIMIT + 5)
    assert [chunking.cut(content), chunking.cut(content[:7]), chunking.cut(b"")] == [1 << 20, 7, 0]
    assert Artifact(PROJECT, "animals").cipher.chunking.cut(content) == cut(content)


def test_what_is_remembered_of_a_staging_folder_is_not_shared_with_other_projects() -> None:
    own = {project.cipher("a").chunking.own(b"k" * 16) for project in (KEY, ProjectKey(bytes(32), PROJECT))}
    assert len(own | {Artifact(PROJECT, "a").cipher.chunking.own(b"k" * 16)}) == 3 and all(len(key) == 16 for key in own)


def test_keys_are_held_for_a_few_packs_only() -> None:
    used: Any = cipher()
    assert isinstance(used, ArtifactCipher)
    for number in range(600):
        builder = used.builder()
        builder.add(bytes(32), 2, b"hi")
        used.pack(PackId(0, number), builder)
    assert len(used._held) <= 256
