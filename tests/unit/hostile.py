"""Where hostile bytes come from: valid values of every format, how each is read and written again, and mutations that are sealed again.

Shared by the tests of the decoders and by scripts/check_hostile.py. A number makes an input, so a number replays it.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import zstandard
from blake3 import blake3

from artifactmount.acts import (
    Act,
    Close,
    Commit,
    Counts,
    DeleteArtifact,
    DeleteVersion,
    Describe,
    EndParts,
    Metadata,
    Move,
    Open,
    Part,
    Purge,
    PutVersion,
    RemoveAlias,
    ReplaceRun,
    SetAlias,
    needs_of,
)
from artifactmount.card import Card
from artifactmount.digest import chunk_digest, content_digest
from artifactmount.document import make_document, read_document
from artifactmount.errors import CorruptError, NeedsNewerError
from artifactmount.fold import fold
from artifactmount.log import Entry, decode_checkpoint, decode_entry, encode_checkpoint, encode_entry
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import PackBuilder, Place, compress, decode, open_chunk
from artifactmount.ranges import PackId, PackRanges
from artifactmount.reference import Referent
from artifactmount.rows import Change, Kind, mode_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.state import State, StatePart, Version
from tests.unit import encrypted_formats
from tests.unit.encrypted_formats import by_who_has_the_key
from tests.unit.mutations import KEYS, NAMES, NUMBERS, TEXTS, canonical, chew, other_json, seal

REFUSALS = (CorruptError, NeedsNewerError)


# -- valid values to start from --------------------------------------------------------------------------------------------------------
def a_pack() -> bytes:
    builder = PackBuilder()
    for content in (b"hello", bytes(300), bytes(range(200))):
        builder.add(chunk_digest(content), len(content), compress(content)[1])
    return builder.finish()


def a_run() -> bytes:
    """Every kind and change, a file of two chunks, directories in directories."""
    content = chunk_digest(b"x")
    place = Place(PackId(3, 1), 90, 1, 1)
    two = content + chunk_digest(b"y")
    builder = RunBuilder()
    builder.add(b"", b"a", Change.ADDED, mode_of(Kind.DIRECTORY), 0)
    builder.add(b"", b"gone", Change.REMOVED, mode_of(Kind.FILE), 7)
    builder.add(b"", b"link", Change.CHANGED, mode_of(Kind.SYMLINK), 3, 0, chunk_digest(b"a/x"), b"a/x")
    builder.add(b"", b"ref", Change.ADDED, mode_of(Kind.REFERENCE, True), 1 << 40, 5, chunk_digest(b"s3"), b"s3")
    builder.add(b"a", b"b", Change.ADDED, mode_of(Kind.DIRECTORY), 0)
    builder.add(b"a", b"empty", Change.ADDED, mode_of(Kind.FILE), 0, 1, chunk_digest(b""))
    builder.add(b"a", b"x", Change.ADDED, mode_of(Kind.FILE, True), 1, -1, content, b"", content, [place])
    digest = blake3(two, derive_key_context="artifactmount v1 file content").digest()
    builder.add(b"a\0b", b"two", Change.ADDED, mode_of(Kind.FILE), 2, 1, digest, b"", two, [place, place._replace(pack=PackId(0, 0))])
    return builder.finish()


def digest(text: str) -> bytes:
    return blake3(text.encode()).digest()


def packs(*ids: tuple[int, int]) -> PackRanges:
    return PackRanges.of(PackId(*one) for one in ids)


META = Metadata(packs((4, 0), (4, 1)), digest("run"), 10, digest("full"), 20)
ACTS = (
    Open(bytes(range(16))),
    Close(3),
    Purge(packs((0, 0), (0, 1), (2, 5))),
    Commit(
        4,
        packs((4, 0), (4, 1), (4, 7)),
        (
            PutVersion(2, 1, digest("c"), Counts(1, 2, 3, 4, 1 << 63, 5, 6, 7, 8), META, packs((0, 0), (4, 7)), "dataset"),
            ReplaceRun(1, None, Counts(), replace(META, full=None, full_length=0), packs()),
            DeleteVersion(0),
            Move(((PackId(0, 0), PackId(4, 0)), (PackId(0, 1), PackId(4, 1)), (PackId(1, 7), PackId(4, 0)))),
            SetAlias("latest", 2),
            RemoveAlias("best"),
            Describe(1, META),
            EndParts("run-1", (4, 9), 2),
            DeleteArtifact(),
        ),
    ),
    Part("run-1", 4, digest("tree"), Counts(1, 2, 3, 4, 5, 6, 7, 8, 9), replace(META, full=None, full_length=0)),
)
ENTRIES = [encode_entry(Entry(7, digest("prev"), bytes(16), "2026-01-01T00:00:00Z", "me", "t/1", act, needs_of(act))) for act in ACTS]
V0 = Version(0, None, digest("a"), Counts(), META, packs((0, 0)), "2026-01-01T00:00:00Z", "me", 1)
STATE = State(
    127,
    digest("entry"),
    {0: V0, 4: replace(V0, n=4, base=0, digest=digest("b"), seq=9)},
    {"latest": 4, "best": 0},
    5,
    frozenset({12, 99}),
    packs((0, 0), (4, 0), (4, 1)),
    {PackId(0, 3): PackId(4, 0), PackId(0, 4): PackId(4, 1)},
    packs((1, 0)),
    frozenset({"parts"}),
    "dataset",
    {"run-1": (StatePart(12, digest("p"), Counts(1), Metadata(packs((12, 1)), digest("run"), 10), "2026-01-01T00:00:00Z", "me", 13),)},
)


def pack_again(data: bytes) -> bytes:
    builder = PackBuilder()
    for row in decode(data):
        stored = data[row.offset : row.offset + row.stored]
        open_chunk(stored, row.plain, row.digest)
        builder.add(row.digest, row.plain, stored)
    return builder.finish()


def run_again(data: bytes) -> bytes:
    """The run written again from what it says; and whatever says it, the merge of it is a tree or an error."""
    run = Run(data, chunk_digest(data))
    builder, at = RunBuilder(), run.name_offsets()
    for key, start, stop in run.directories():
        for row in range(start, stop):
            chunks = run.chunks(row)
            digests, places = b"".join(chunk.digest for chunk in chunks), [chunk.place for chunk in chunks]
            what = (run.change(row), run.mode(row), run.size(row), run.mtime(row), run.digest_of(row), run.target(row))
            builder.add(key, bytes(run.names[at[row] : at[row + 1]]), *what, digests, places)
    assert len(list(run.all_chunks())) == sum(run.chunk_counts)
    try:
        table_again(bytes(merge(None, [run])))
        table_again(bytes(merge(Table(TABLE), [run])))
    except CorruptError:
        pass  # a run against another base than these
    return builder.finish()


def table_again(data: bytes) -> bytes:
    table = Table(data)
    for key, name, row in table.walk():
        assert table.find(key, name) == row
        table.digest(row)
    return data


def entry_again(data: bytes) -> bytes:
    return encode_entry(decode_entry(data, 7))


def checkpoint_again(data: bytes) -> bytes:
    return encode_checkpoint(decode_checkpoint(data))


def card_again(data: bytes) -> bytes:
    return Card.decode(data).encode()


def project_again(data: bytes) -> bytes:
    read_document(data)
    return data


def reference_again(data: bytes) -> bytes:
    return Referent.decode(data).encode()


RUN = a_run()
TABLE = bytes(merge(None, [Run(RUN, chunk_digest(RUN))]))
REFERENTS = (
    Referent("s3://bucket/some/key ü", "5d41402abc4b2a76b9719d911017c592", "3sL4kqtJlcpXroDTDmJ"),
    Referent("file:///data/x%20y", modified=10**18, inode=7),
    Referent("https://example.org/a/b?x=1", '"abc"'),
    Referent("http://[::1]:8080/x", modified=-1),
)
CARD = Card("a note – ☃", {"a": [1, 2.5, None, True], "b": {"c": "d"}}).encode()
#: name -> (a valid value, decode and write again, whether every change of it must be noticed)
FORMATS: dict[str, tuple[bytes, Callable[[bytes], bytes], bool]] = {
    "pack": (a_pack(), pack_again, True),
    "run": (RUN, run_again, False),  # its digest stands in the log entry
    "table": (TABLE, table_again, True),
    **{f"entry {n}": (entry, entry_again, True) for n, entry in enumerate(ENTRIES)},
    "checkpoint": (encode_checkpoint(STATE), checkpoint_again, True),
    "card": (CARD, card_again, False),  # a chunk of a pack, which has its digest
    "project.json": (make_document("11" * 16, None), project_again, True),
    **{f"reference {n}": (referent.encode(), reference_again, False) for n, referent in enumerate(REFERENTS)},
    **encrypted_formats.FORMATS,
}


def accept(name: str, data: bytes) -> None:
    """Decode: only the two errors, and only the bytes that the value has."""
    valid, again, sealed = FORMATS[name]
    try:
        written = again(data)
    except REFUSALS:
        assert data != valid
        return
    assert written == data
    assert data == valid or not sealed


JSON_FORMATS = [name for name in FORMATS if name not in ("pack", "run", "table", *encrypted_formats.BINARY)]


def finished(name: str, fields: Any) -> bytes:
    """The fields as that format writes them: sealed, unless other bytes prove them."""
    return canonical(fields) if name == "card" or name.startswith("reference") else seal(fields)


# -- mutations of one format -------------------------------------------------------------------------------------------------------
def other_pack(chance: random.Random) -> bytes:
    """A pack with right digests over whatever stands in it."""
    rows, body = [], b""
    odd = chance.random() < 0.6
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        content = chance.choice((b"x", bytes(300), bytes(chance.choice((1 << 20, 4 << 20))), chance.randbytes(40)))
        codec: int
        codec, stored = compress(content)
        plain, length, digest_of = len(content), len(stored), chunk_digest(content)
        if odd:
            stored = chance.choice((stored, content[:100], zstandard.ZstdCompressor().compress(content), b""))
            plain = chance.choice((plain, plain, len(stored), (4 << 20) + 1, *NUMBERS)) % (1 << 32)
            length = chance.choice((len(stored), len(stored), len(stored), *NUMBERS)) % (1 << 32)
            codec, digest_of = chance.choice((codec, codec, 2)), chance.choice((digest_of, bytes(32)))
        rows.append(struct.pack("<32sIIB", digest_of, length, plain, codec))
        body += stored
    count = chance.choice((len(rows), len(rows), len(rows), *NUMBERS)) % (1 << 32) if odd else len(rows)
    table = struct.pack("<4sBBHI", b"AMPK", 1, 0, 0, count) + b"".join(rows) + blake3(body).digest()
    return table + blake3(table).digest() + body


def other_run(chance: random.Random) -> bytes:
    """A run of rows that somebody made up, in columns that add up."""
    builder = RunBuilder()
    rows = [(chance.choice(KEYS), chance.choice(NAMES)) for _ in range(chance.choice((0, 1, 3, 8)))]
    for key, name in sorted(set(rows)) if chance.random() < 0.8 else rows:
        kind, size = chance.choice(list(Kind)), chance.choice(NUMBERS)
        chunks, places = b"", []
        if kind is Kind.FILE and chance.random() < 0.9:
            count = chance.choice((0, 1, 2, 3))
            plains = [chance.choice((1, 1, 5, 2 << 20, (2 << 20) + 1)) for _ in range(count)]
            chunks = b"".join(chunk_digest(b"%d" % chance.randrange(3)) for _ in range(count))
            pack = PackId(chance.choice((0, 1, 10**16 - 1, 10**16)), chance.choice((0, 10**8 - 1, 10**8)))
            places = [
                Place(pack, chance.choice((0, 90, 1 << 26, (1 << 32) - 1)), chance.choice((0, 1, 2 << 20)), plain) for plain in plains
            ]
            size = sum(plains) if chance.random() < 0.9 else size
        target = chance.choice((b"../../..", b"/etc", b"a\0b", b"x" * 4096, b"")) if kind in (Kind.SYMLINK, Kind.REFERENCE) else b""
        size = len(target) if kind is Kind.SYMLINK else size if kind is not Kind.DIRECTORY else chance.choice((0, 0, 0, 1))
        digest_of = content_of(kind, chunks, target)
        mtime = chance.choice((0, 1, -(1 << 63), (1 << 63) - 1)) if kind in (Kind.FILE, Kind.REFERENCE) else 0
        change = chance.choice((Change.ADDED, Change.ADDED, Change.CHANGED, Change.REMOVED))
        if change is Change.REMOVED and chance.random() < 0.8:
            digest_of, target, chunks, places, mtime = bytes(32), b"", b"", [], 0
        builder.add(key, name[:255], change, mode_of(kind), size, mtime, digest_of, target, chunks, places)
    return builder.finish()


def content_of(kind: Kind, chunks: bytes, target: bytes) -> bytes:
    """The digest that a row of this content must have."""
    match kind:
        case Kind.DIRECTORY:
            return bytes(32)
        case Kind.FILE:
            return content_digest([chunks[at : at + 32] for at in range(0, len(chunks), 32)])
        case _:
            return chunk_digest(target)


def hostile_input(seed: int) -> tuple[str, bytes]:
    """The format that an input is meant for, and the input."""
    chance = random.Random(seed)
    name = chance.choice(("pack", "run", *FORMATS))
    valid = FORMATS[name][0]
    if name in JSON_FORMATS and chance.random() < 0.8:
        fields = json.loads(valid)
        fields.pop("check", None)
        return name, finished(name, other_json(chance, fields))
    if name in encrypted_formats.BINARY and chance.random() < 0.7:
        return name, by_who_has_the_key(chance, name)
    if name == "pack" and chance.random() < 0.6:
        return name, other_pack(chance)
    if name == "run" and chance.random() < 0.6:
        made = other_run(chance)
        return name, made if chance.random() < 0.8 else chew(chance, made)
    return name, chew(chance, valid)


def take_in(name: str, data: bytes) -> bool:
    """Decode it: the bytes that the value has, or one of the two errors. Whether it was a value."""
    try:
        written = FORMATS[name][1](data)
    except REFUSALS:
        return False
    assert written == data
    return True


def fold_any(seed: int) -> int:
    """Fold made-up acts: each state is one that a checkpoint may hold, whatever was asked. How many acts had an effect."""
    chance = random.Random(seed)
    state, done = State.empty(bytes(32)), 0
    for _ in range(chance.choice((3, 8, 20))):
        act = any_act(chance, state)
        entry = Entry(state.seq + 1, state.digest, bytes(16), "2026-01-01T00:00:00Z", "me", "t/1", act, needs_of(act))
        state, refusal = fold(state, entry, chance.randbytes(32))
        done += refusal is None
        assert state.contradiction() is None, refusal
        assert decode_checkpoint(encode_checkpoint(state)) == state
    return done


def any_act(chance: random.Random, state: State) -> Act:
    """An act that may fit a state, or not."""
    session = chance.choice((*state.open, None, 5)) if chance.random() < 0.9 else 3
    if chance.random() < 0.25 or (not state.open and chance.random() < 0.5):
        return chance.choice(
            (Open(bytes(16)), Open(bytes(16)), Close(chance.choice((*state.open, 7))), Purge(PackRanges(((0, 0, 10**8 - 1),))))
        )
    id_ = chance.choice((*state.parts, "new", "no id"))
    if chance.random() < 0.2 and session is not None:
        metadata = Metadata(PackRanges(((chance.choice((session, session, 0)), 7, 7),)), chance.randbytes(32), 10)
        return Part(id_, session, chance.choice((bytes(32), chance.randbytes(32))), Counts(), metadata)
    keep = PackRanges(((session, 0, chance.choice((0, 3, 10**8 - 1))),)) if session is not None else PackRanges()
    mine = PackRanges(((session or 0, 0, 0),))
    known = [*state.versions, state.next, state.next + 1]
    ops: list[Any] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        n, base = chance.choice(known), chance.choice((state.highest, None, 0))
        named = chance.choice((mine, state.packs, PackRanges(((session or 0, 0, 2),)), PackRanges(((8, 0, 10**8 - 1),))))
        metadata = Metadata(mine, chance.randbytes(32), 10)
        match chance.randrange(9):
            case 0 | 1 | 2:
                ops.append(PutVersion(state.next, state.highest, chance.randbytes(32), Counts(), metadata, named, "t"))
                ops.append(SetAlias("latest", state.next))
            case 3:
                ops.append(ReplaceRun(n, base, Counts(), metadata, named))
            case 4:
                ops += [DeleteVersion(n), chance.choice((RemoveAlias("latest"), SetAlias("latest", base or 0)))]
            case 5:
                old = [PackId(s, first) for s, first, _ in state.packs.ranges] or [PackId(0, 0)]
                ops.append(Move(((chance.choice(old), PackId(session or 0, 3)),)))
            case 6:
                ops.append(chance.choice((SetAlias(chance.choice(TEXTS)[:128], n), SetAlias("best", n), RemoveAlias("best"))))
            case 7:
                there = [part.session for part in state.parts.get(id_, ())]
                ops.append(EndParts(id_, tuple(there[chance.choice((0, 0, 1)) :] or [5]), chance.choice((None, n))))
            case _:
                ops.append(chance.choice((Describe(n, metadata), DeleteArtifact())))
    return Commit(session, keep, tuple(ops))
