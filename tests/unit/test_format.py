"""docs/format.md is true: every example in it is decoded, says what the text says, and is written again to the same bytes."""

from __future__ import annotations

import importlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import artifactmount
from artifactmount.acts import Commit, DeleteArtifact, Move, Open, act_from_json, act_to_json
from artifactmount.artifact import Artifact
from artifactmount.card import Card
from artifactmount.catalog import pieces_of
from artifactmount.crypto import ProjectKey, Record, copy_chunks
from artifactmount.digest import chunk_digest, content_digest, directory_digest
from artifactmount.document import read_document
from artifactmount.fold import fold
from artifactmount.keys import Slot
from artifactmount.log import decode_checkpoint, decode_entry, encode_checkpoint, encode_entry, entry_digest
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import HEAD_LENGTH, PackBuilder, compress, count_chunks, decode, decode_table, open_chunk, table_length
from artifactmount.ranges import PackId, PackRanges
from artifactmount.reference import Referent
from artifactmount.rows import Change, Kind, is_executable, kind_of, path_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.sealed import seal
from artifactmount.state import State, genesis

DOCUMENT = (Path(artifactmount.__file__).parent / "docs" / "format.md").read_text(encoding="utf-8")
BLOCKS = {name: (form, text) for form, name, text in re.findall(r"^```(\w+) (\w+)-example\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)}
PROJECT = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ZEROS, HI = bytes(100), b"hi"


def example(name: str) -> bytes:
    """The bytes that an example shows: hex, or JSON with line breaks that the bytes do not have."""
    form, text = BLOCKS[name]
    if form == "hex":
        return bytes.fromhex(text)
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()


def run_of_v0() -> Run:
    return Run(example("run"), chunk_digest(example("run")))


def test_every_example_has_a_test() -> None:
    names = {"project", "digests", "reference", "pack", "run", "card", "metadata", "table", "open", "commit", "acts", "checkpoint"}
    names |= {"keys", "encrypted_project", "encrypted_pack", "encrypted_entry", "slot"}
    assert set(BLOCKS) == names and DOCUMENT.count("```") == 2 * len(names) + 2  # and the list of keys


def test_reference() -> None:
    referent = Referent("s3://my-bucket/animals/cat.png", "5d41402abc4b2a76b9719d911017c592", "3sL4kqtJlcpXroDTDmJ")
    assert Referent.decode(example("reference")) == referent and referent.encode() == example("reference")


def test_project() -> None:
    data = example("project")
    assert read_document(data).id == PROJECT
    fields = json.loads(data)
    del fields["check"]
    assert seal(fields) == data
    assert fields == {"format": 1, "id": PROJECT, "created": "2026-01-02T03:04:05Z", "encryption": None}


def test_digests() -> None:
    hi, zeros = chunk_digest(HI), chunk_digest(ZEROS)
    assert {name: bytes.fromhex(value) for name, value in json.loads(example("digests")).items()} == {
        "empty file": content_digest([]),
        "chunk hi": hi,
        "file of the chunks hi, zeros": content_digest([hi, zeros]),
        "empty directory": directory_digest(0, b"", b"", b"", b"", b""),
        "version": Table(example("table")).root,
        "run": chunk_digest(example("run")),
        "genesis": genesis(PROJECT, "animals"),
    }


def test_directory_digests_by_their_definition() -> None:
    """The version's digest, from the text: the file's row makes `a`, and `a` and `zeros` make the root."""

    def directory(modes: bytes, sizes: list[int], names: list[bytes], digests: list[bytes]) -> bytes:
        columns = (
            modes,
            b"".join(size.to_bytes(8, "little") for size in sizes),
            bytes(map(len, names)),
            b"".join(names),
            b"".join(digests),
        )
        data = len(names).to_bytes(8, "little") + b"".join(columns)
        return blake3(data, derive_key_context="artifactmount v1 directory").digest()

    a = directory(b"\5", [2], [b"x"], [blake3(HI).digest()])
    root = directory(b"\0\1", [0, 100], [b"a", b"zeros"], [a, blake3(ZEROS).digest()])
    assert root == Table(example("table")).root


def test_pack() -> None:
    pack = example("pack")
    rows = decode(pack)
    assert [(row.offset, row.stored, row.plain) for row in rows] == [(158, 17, 100), (175, 2, 2)]
    assert [open_chunk(pack[row.offset : row.offset + row.stored], row.plain, row.digest) for row in rows] == [ZEROS, HI]
    assert count_chunks(pack[:HEAD_LENGTH]) == 2 and decode_table(pack[: table_length(2)]) == rows
    builder = PackBuilder()
    for row in rows:
        builder.add(row.digest, row.plain, pack[row.offset : row.offset + row.stored])
    assert builder.finish() == pack and builder.table() == rows


def test_run() -> None:
    run, places = run_of_v0(), {row.digest: row for row in decode(example("pack"))}
    builder, starts = RunBuilder(), run.name_offsets()
    found: dict[bytes, tuple[Kind, bool, int, int]] = {}
    for key, start, stop in run.directories():
        for row in range(start, stop):
            assert run.change(row) is Change.ADDED
            chunks = run.chunks(row)
            for chunk in chunks:
                at = places[chunk.digest]
                assert chunk.place.pack == PackId(0, 0)
                assert (chunk.place.offset, chunk.place.stored, chunk.place.plain) == (at.offset, at.stored, at.plain)
            mode, name = run.mode(row), bytes(run.names[starts[row] : starts[row + 1]])
            found[path_of(key, name)] = (kind_of(mode), is_executable(mode), run.size(row), run.mtime(row))
            digests, where = b"".join(chunk.digest for chunk in chunks), [chunk.place for chunk in chunks]
            what = (run.change(row), mode, run.size(row), run.mtime(row), run.digest_of(row), run.target(row))
            builder.add(key, name, *what, digests, where)
    assert list(found.items()) == [
        (b"a", (Kind.DIRECTORY, False, 0, 0)),
        (b"zeros", (Kind.FILE, False, 100, 10**9)),
        (b"a/x", (Kind.FILE, True, 2, 1)),
    ]
    assert run.packs == [PackId(0, 0)]
    assert builder.finish() == example("run")


def test_card_and_metadata_pack() -> None:
    card = Card.decode(example("card"))
    assert card == Card("first", {"epochs": 3}) and card.encode() == example("card") == BLOCKS["card"][1].strip().encode()
    pack = example("metadata")
    rows = decode(pack)
    contents = [open_chunk(pack[row.offset : row.offset + row.stored], row.plain, row.digest) for row in rows]
    assert contents[0] == example("card") and b"".join(contents[1:]) == example("run")
    assert [(digest, plain) for _, digest, plain in pieces_of(example("run"))] == [(row.digest, row.plain) for row in rows[1:]]
    builder = PackBuilder()
    for row in rows:
        builder.add(row.digest, row.plain, pack[row.offset : row.offset + row.stored])
    assert builder.finish() == pack
    assert compress(example("card"))[1] == example("card")


def test_table() -> None:
    data = example("table")
    table = Table(data)
    assert bytes(merge(None, [run_of_v0()])) == data
    assert [(path_of(key, name), table.size(row), table.origin(row)) for key, name, row in table.walk()] == [
        (b"a", 0, (0, 0)),
        (b"zeros", 100, (0, 1)),
        (b"a/x", 2, (0, 2)),
    ]
    assert table.origins == [chunk_digest(example("run"))]


def test_the_log_folds_to_the_checkpoint() -> None:
    state = State.empty(genesis(PROJECT, "animals"))
    for seq, name in enumerate(("open", "commit")):
        data = example(name)
        entry = decode_entry(data, seq)
        assert encode_entry(entry) == data and entry.prev == state.digest
        state, refusal = fold(state, entry, entry_digest(data))
        assert refusal is None
    assert state == decode_checkpoint(example("checkpoint"))
    assert encode_checkpoint(state) == example("checkpoint")
    version = state.versions[0]
    assert version.digest == Table(example("table")).root and version.packs == PackRanges.of(run_of_v0().packs)
    assert version.metadata.run == chunk_digest(example("run")) and version.metadata.run_length == len(example("run"))
    assert version.metadata.packs == PackRanges.of([PackId(0, 1)]) and state.aliases == {"latest": 0}


def test_seals_by_their_definition() -> None:
    for name in ("project", "open", "commit", "checkpoint"):
        fields = json.loads(example(name))
        check = fields.pop("check")
        assert check == blake3(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


KEY = ProjectKey(bytes(range(32)), PROJECT)


def drawn(monkeypatch: pytest.MonkeyPatch, *salts: bytes) -> None:
    """What is random in an example is drawn again."""
    left = list(salts)
    monkeypatch.setattr("os.urandom", lambda length: left.pop(0) if len(left[0]) == length else pytest.fail("another length"))


def test_keys_and_encrypted_project() -> None:
    keys, cipher = json.loads(example("keys")), KEY.cipher("animals")
    assert keys["chunk hi"] == cipher.chunking.digest(HI).hex() == blake3(HI, key=bytes.fromhex(keys["chunk name key"])).hexdigest()
    material = bytes(range(32)) + bytes.fromhex(PROJECT)
    assert keys["chunk name key"] == blake3(material, derive_key_context="artifactmount v1 chunk name key").hexdigest()
    assert keys["artifact key"] == blake3(material + b"animals", derive_key_context="artifactmount v1 artifact key").hexdigest()
    identity, fields = read_document(example("encrypted_project")), json.loads(example("encrypted_project"))
    assert (identity.id, identity.scheme, identity.mac) == (PROJECT, "aes-256-gcm blake3 1", KEY.mac(identity.proven))
    del fields["check"]
    assert seal(fields) == example("encrypted_project")
    document_key = blake3(bytes(range(32)), derive_key_context="artifactmount v1 project document").digest()
    del fields["encryption"]["mac"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert blake3(canonical, key=document_key).digest() == identity.mac


def test_encrypted_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    pack, cipher, at = example("encrypted_pack"), KEY.cipher("animals"), PackId(0, 0)
    rows = cipher.whole(at, pack)
    assert [row.offset for row in rows] == [126, 175]
    stored = [pack[row.offset : row.offset + row.stored] for row in rows]
    assert [cipher.chunk(at, row.offset, part, row.plain, row.digest) for row, part in zip(rows, stored, strict=True)] == [ZEROS, HI]
    # By the text, with nothing of ours.
    salt = pack[12:28]
    material = bytes.fromhex(json.loads(example("keys"))["artifact key"]) + struct.pack("<QI", 0, 0) + salt
    key = AESGCM(blake3(material, derive_key_context="artifactmount v1 pack key").digest())
    bound = bytes.fromhex(PROJECT) + b"animals"
    assert stored[1][:16] == salt
    assert key.decrypt((175).to_bytes(12, "little"), stored[1][16:], struct.pack("<QIQ", 0, 0, 175) + bound) == HI
    assert len(key.decrypt(bytes(12), pack[28:126], struct.pack("<QIQ", 0, 0, 0) + pack[:12] + bound)) == 2 * 41
    builder = cipher.builder()
    copy_chunks(cipher, at, pack, rows, builder)
    drawn(monkeypatch, salt)
    assert cipher.pack(at, builder) == pack


def test_encrypted_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, artifact = example("encrypted_entry"), Artifact(PROJECT, "animals", KEY.cipher("animals"))
    assert artifact.cipher.open_record(Record.ENTRY, 0, entry) == example("open")
    assert artifact.decode_entry(entry, 0) == decode_entry(example("open"), 0)
    drawn(monkeypatch, entry[8:40])
    assert artifact.encode_entry(decode_entry(example("open"), 0)) == entry


def test_key_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    data, secret = example("slot"), bytes(range(32, 64))
    slot = Slot.decode(data, json.loads(data)["slot"])
    assert slot.encode() == data and slot.unwrap(secret) == KEY.raw
    about = {"label": "the build server", "actor": "ann@lab", "created": "2026-01-02T03:04:05Z"}
    assert slot.facts(KEY) == {"id": slot.id, "kind": "file", **about}
    drawn(monkeypatch, bytes.fromhex(slot.id), slot.salt)
    assert Slot.make(KEY, "file", {}, secret, about) == slot


def test_acts() -> None:
    values = json.loads(example("acts"))
    acts = [act_from_json(value) for value in values]
    assert [act_to_json(act) for act in acts] == values
    moves = [op for act in acts if isinstance(act, Commit) for op in act.ops if isinstance(op, Move)]
    assert moves == [Move(((PackId(0, 0), PackId(9, 1)), (PackId(0, 1), PackId(9, 2))))]
    acts += [decode_entry(example(name), seq).act for seq, name in enumerate(("open", "commit"))]
    assert isinstance(acts[-2], Open) and acts[-2].salt == bytes(range(16, 32))
    ops = [op for act in acts if isinstance(act, Commit) for op in act.ops]
    assert len({type(act) for act in acts}) == 5 and len({type(op) for op in ops}) == 9  # every act and op is shown
    assert ops[-3] == DeleteArtifact()


def test_every_word_is_explained() -> None:
    values: list[Any] = [*json.loads(example("acts")), *(json.loads(example(name))["act"] for name in ("open", "commit"))]
    for value in values:
        ((word, fields),) = value.items()
        for name, inner in [(word, fields), *((w, f) for op in fields.get("ops", []) for w, f in op.items())]:
            line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |"))
            assert all(f"`{field}`" in line for field in inner)


LIMITS = re.findall(r"^\| [^|]+ \| (\d+) \| `(\w+)\.(\w+)` \|$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize(("value", "module", "name"), LIMITS)
def test_limit(value: str, module: str, name: str) -> None:
    assert getattr(importlib.import_module(f"artifactmount.{module}"), name) == int(value)


def test_no_limit_is_missing() -> None:
    said = {(module, name) for _, module, name in LIMITS}
    for module in {module for module, _ in said}:
        names = [name for name in vars(importlib.import_module(f"artifactmount.{module}")) if name.endswith("_LIMIT")]
        source = (Path(artifactmount.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        assert [name for name in names if (module, name) not in said and re.search(rf"^{name} =", source, re.MULTILINE)] == []
