"""An enemy's stores, made from a number: projects that are well formed, sealed, self-consistent and malicious.

A forged project says what it was made with (`twists`); what lies is in liars.py. Shared by tests/unit/test_hostile.py and
scripts/check_hostile.py.
"""

from __future__ import annotations

import random
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import zstandard
from blake3 import blake3

from artifactmount.acts import Act, Commit, Counts, Metadata, Open, PutVersion, SetAlias, act_to_json
from artifactmount.artifact import Artifact
from artifactmount.card import Card
from artifactmount.catalog import pieces_of
from artifactmount.crypto import PLAIN, ProjectKey, Record
from artifactmount.digest import content_digest
from artifactmount.document import make_document
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
)
from artifactmount.keys import Slot
from artifactmount.log import CHECKPOINT_EVERY, encode_checkpoint, entry_digest
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import PackBuilder, Place, compress
from artifactmount.ranges import PackId, PackRanges
from artifactmount.reference import Referent
from artifactmount.rows import SIZE_LIMIT, Change, Kind, mode_of
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.state import State
from artifactmount.store.memory import MemoryStore
from tests.unit.encrypted_formats import KEY, PROJECT, SECRET, drawn
from tests.unit.mutations import KEYS, NAMES, NUMBERS, TEXTS, canonical, chew, other_json, seal

ARTIFACT = "evil"
_ENDLESS = 10**8 - 1


@dataclass(slots=True)
class Row:
    """A row of a run that is being made up. Without a digest it gets that of its target."""

    kind: Kind
    size: int = 0
    mtime: int = 0
    digest: bytes = bytes(32)
    target: bytes = b""
    chunks: bytes = b""
    places: list[Place] = field(default_factory=list)
    executable: bool = False


def link(target: bytes) -> Row:
    """A symlink."""
    return Row(Kind.SYMLINK, len(target), 0, b"", target)


#: Where references lead: nowhere that a command would follow without being told to.
RECORDS = (
    Referent("http://evil.example/x", '"abc"'),
    Referent("https://evil.example/x?y=1"),
    Referent("file:///evil/x", modified=5, inode=7),
    Referent("file:///evil/y"),
)


@cache
def bomb(key: ProjectKey | None = None) -> tuple[PackBuilder, list[tuple[bytes, int, int]]]:
    """A pack of some kB that unpacks to a gigabyte; (digest, offset, stored length) of its chunks of 2 MiB each."""
    cipher = PLAIN if key is None else key.cipher(ARTIFACT)
    builder = cipher.builder()
    for n in range(512):
        content = struct.pack("<I", n + 1) + bytes((2 << 20) - 4)
        stored = zstandard.ZstdCompressor().compress(content)
        builder.add(cipher.chunking.digest(content), len(content), bytes(memoryview(stored)))  # a copy: `stored` keeps room for 2 MiB
    return builder, [(row.digest, row.offset, row.stored) for row in builder.table()]


class Forge:
    """Makes one project. `store` holds it when `make` has run."""

    def __init__(self, seed: int, *, encrypted: bool = False) -> None:
        self.chance, self.seed = random.Random(seed), seed
        self.store = MemoryStore(f"memory:{seed}")
        self.twists: list[str] = ["encrypted"] if encrypted else []
        self.key = KEY if encrypted else None
        with self._drawn():
            self.store.create("project.json", make_document(PROJECT, self.key))
            if self.key is not None:
                slot = Slot.make(self.key, "file", {}, SECRET, {"label": "mine", "actor": "me", "created": "2026-01-01T00:00:00Z"})
                self.store.create(f"keys/{slot.id}", slot.encode())
        self.artifact = Artifact(PROJECT, ARTIFACT, PLAIN if self.key is None else self.key.cipher(ARTIFACT))
        self._name = self.artifact.cipher.chunking.digest
        self._tree: dict[tuple[bytes, bytes], Row] = {}
        self._table: Table | None = None
        self._digest, self._seq = self.artifact.empty().digest, 0
        self._versions = 0

    def _drawn(self) -> AbstractContextManager[None]:
        return drawn(self.chance.randbytes)

    def _put_pack(self, pack: PackId, builder: PackBuilder, *, chewed: bool = False) -> None:
        with self._drawn():
            whole = self.artifact.cipher.pack(pack, builder)
        self.store.create(self.artifact.pack_key(pack), chew(self.chance, whole) if chewed else whole)

    def make(self) -> Forge:
        """The whole project."""
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            self._version()
        if self.chance.random() < 0.2:
            self._lie_in_a_checkpoint()
        if self.chance.random() < 0.15:
            self._damage()
        return self

    def _twist(self, name: str, likely: float) -> bool:
        if self.chance.random() >= likely:
            return False
        self.twists.append(name)
        return True

    # -- the log -------------------------------------------------------------------------------------------------------------------
    def _append(self, act: Act, checkpoint: bytes | None = None) -> None:
        actor = self.chance.choice(TEXTS)[:1024] if self._twist("actor", 0.1) else "me"
        time = self.chance.choice((*TEXTS, "0001-01-01", "9999-12-31T23:59:59+00:00"))[:40] if self._twist("time", 0.1) else "2026-01-01"
        fields: dict[str, Any] = {"format": 1, "needs": [], "seq": self._seq, "prev": self._digest.hex(), "nonce": bytes(16).hex()}
        fields |= {"time": time, "actor": actor, "tool": "t", "act": act_to_json(act)}
        fields["checkpoint"] = checkpoint.hex() if checkpoint is not None else None
        if self._twist("entry", 0.03):
            fields["act"] = other_json(self.chance, fields["act"])
        with self._drawn():
            data = self.artifact.cipher.record(Record.ENTRY, self._seq, seal(fields))
        self.store.create(self.artifact.log_key(self._seq), data)
        self._digest, self._seq = entry_digest(data), self._seq + 1

    def _lie_in_a_checkpoint(self) -> None:
        """What no log folds to, in a checkpoint that its entry proves."""
        self.twists.append("checkpoint")
        state, chance = self._state(), self.chance
        while self._seq < CHECKPOINT_EVERY:
            self._append(Open(bytes(16)))
        state = replace(state, seq=self._seq - 1, digest=self._digest)
        wide = PackRanges(((0, 0, _ENDLESS),))
        match chance.randrange(8):
            case 0:
                state = replace(state, aliases={**state.aliases, chance.choice(TEXTS)[:128]: chance.choice((0, 99))})
            case 1:
                state = replace(state, aliases={})
            case 2:
                state = replace(state, moved={PackId(0, n): PackId(chance.choice((0, 3)), 5) for n in range(4)})
            case 3:
                state = replace(state, packs=wide, trash=PackRanges(((9, 0, _ENDLESS),)))
            case 4:
                state = replace(state, open=frozenset(range(chance.choice((3, 60)))), next=(1 << 53) - 1)
            case 5:
                state = replace(state, versions={n: replace(v, packs=wide, base=None) for n, v in state.versions.items()})
            case 6:
                state = replace(state, type=chance.choice((None, *TEXTS))) if chance.random() < 0.5 else replace(state, next=0)
            case _:
                twin = next(iter(state.versions.values()), None)
                state = replace(state, versions={n: replace(twin, n=n) for n in range(500)} if twin else {}, next=500)
        state = replace(state, type=state.type[:128] if state.type else state.type)
        checkpoint = encode_checkpoint(state)
        with self._drawn():
            stored = self.artifact.cipher.record(Record.CHECKPOINT, self._seq - 1, checkpoint)
        self.store.create(self.artifact.checkpoint_key(self._seq - 1), stored)
        self._append(Open(bytes(16)), blake3(checkpoint).digest())

    def _state(self) -> State:
        state = self.artifact.empty()
        try:
            while state.seq + 1 < self._seq:
                state, _ = self.artifact.apply(state, self.store.get(self.artifact.log_key(state.seq + 1)))
        except ArtifactError:
            pass
        return state

    # -- a version -----------------------------------------------------------------------------------------------------------------
    def _version(self) -> None:
        session, n, chance = self._seq, self._versions, self.chance
        self._append(Open(bytes(16)))
        rows = self._rows(session)
        run = self._run(rows)
        root = self._root(run)
        card = self._card()
        content = [*pieces_of(run, self.artifact.cipher.chunking)]
        if self._twist("run length", 0.04):
            content = content[:-1] if chance.random() < 0.5 else content * 2
        builder = self.artifact.cipher.builder()
        for stored, digest, plain in [(card, self._name(card), len(card)), *content]:
            builder.add(digest, plain, stored)
        metadata_packs = PackRanges(((session, 50, 50),))
        if self._twist("many metadata packs", 0.04):
            metadata_packs = PackRanges(((session, 50, _ENDLESS),))
        self._put_pack(PackId(session, 50), builder)
        length = chance.choice(NUMBERS) % (1 << 53) if self._twist("lengths", 0.03) else len(run)
        metadata = Metadata(metadata_packs, blake3(run).digest(), length)
        counts = Counts(*(chance.choice(NUMBERS) for _ in range(9))) if self._twist("counts", 0.1) else Counts(files=len(rows))
        packs = PackRanges(((session, 0, _ENDLESS if self._twist("wide packs", 0.1) else 49),))
        put = PutVersion(n, n - 1 if n else None, root, counts, metadata, packs, "dataset")
        keep = PackRanges(((session, 0, _ENDLESS),))
        aliases = [SetAlias("latest", n), SetAlias("best", 0)]
        self._append(Commit(session, keep, (put, *aliases)))
        self._versions += 1

    def _card(self) -> bytes:
        if not self._twist("card", 0.15):
            return Card("a note").encode()
        deep: Any = "x"
        for _ in range(self.chance.choice((1, 60, 70, 900))):
            deep = [deep]
        fields: Any = {"note": self.chance.choice(TEXTS), "metadata": {self.chance.choice(TEXTS): deep}}
        return canonical(self.chance.choice((fields, fields, [1], {"note": 1, "metadata": {}}, {"note": "x", "metadata": [], "check": 1})))

    def _root(self, run: bytes) -> bytes:
        """What the log has to say is the version's digest, for readers to believe the run."""
        try:
            table = Table(memoryview(merge(self._table, [Run(run, blake3(run).digest(), name=self._name)])), check=False)
        except CorruptError:
            return self.chance.randbytes(32)
        self._table = table
        return table.root

    def _run(self, rows: dict[tuple[bytes, bytes], Row]) -> bytes:
        builder = RunBuilder()
        order = list(rows) if self._twist("order", 0.03) else sorted(rows)
        for key, name in order:
            row = rows[key, name]
            change = Change.ADDED if (key, name) not in self._tree else Change.CHANGED
            mode, digest = mode_of(row.kind, row.executable), row.digest or self._name(row.target)
            builder.add(key, name[:255], change, mode, row.size, row.mtime, digest, row.target, row.chunks, row.places)
        self._tree |= rows
        run = builder.finish()
        return chew(self.chance, run) if self._twist("run", 0.05) else run

    def _rows(self, session: int) -> dict[tuple[bytes, bytes], Row]:
        chance, rows = self.chance, dict[tuple[bytes, bytes], Row]()
        name = b"d%d" % session
        rows[b"", name] = Row(Kind.DIRECTORY)
        for number in range(chance.choice((1, 2, 5))):
            content = chance.choice((b"", b"hello", chance.randbytes(100), bytes(5000), chance.randbytes(3000)))
            rows[name if number % 2 else b"", b"f%d-%d" % (session, number)] = self._file(session, number, [content] if content else [])
        rows[b"", b"link%d" % session] = link(chance.choice((b"/etc/passwd", b"..", b"../../outside", b"link%d" % session, b"x" * 4095)))
        for twist, likely in ((self._odd_names, 0.15), (self._odd_trees, 0.15), (self._odd_files, 0.3), (self._big_files, 0.02)):
            if chance.random() < likely:
                twist(rows, session)
        return rows

    def _file(self, session: int, number: int, contents: list[bytes]) -> Row:
        """A file in a pack of its own, which may not hold what it must."""
        chance, pack = self.chance, PackId(session, number)
        builder = self.artifact.cipher.builder()
        for content in contents:
            other = bytes(len(content)) if self._twist("other content", 0.04) else content
            builder.add(self._name(content), len(content), compress(other)[1])
        digests = b"".join(map(self._name, contents))
        places = [Place(pack, row.offset, row.stored, row.plain) for row in builder.table()]
        if contents:
            chewed = self._twist("pack", 0.05)
            if not self._twist("no pack", 0.03):
                self._put_pack(pack, builder, chewed=chewed)
        if places and self._twist("place", 0.05):
            offset, stored = chance.choice(NUMBERS) % (1 << 26), chance.choice((1, 2 << 20, places[0].stored))
            places[0] = places[0]._replace(
                offset=offset, stored=stored, pack=chance.choice((pack, PackId(session, 50), PackId(0, _ENDLESS)))
            )
        mtime = chance.choice((1, -(1 << 63), (1 << 63) - 1, 1 << 62))
        digest = content_digest(list(map(self._name, contents)))
        return Row(Kind.FILE, sum(map(len, contents)), mtime, digest, b"", digests, places, chance.random() < 0.2)

    def _odd_names(self, rows: dict[tuple[bytes, bytes], Row], session: int) -> None:
        self.twists.append("names")
        for _ in range(3):
            row = self.chance.choice((Row(Kind.DIRECTORY), link(b"..")))
            rows[self.chance.choice((b"", b"", *KEYS[:3])), self.chance.choice(NAMES)] = row

    def _odd_trees(self, rows: dict[tuple[bytes, bytes], Row], session: int) -> None:
        self.twists.append("tree")
        below = Row(Kind.FILE, 0, 0, content_digest([]))
        match self.chance.randrange(5):
            case 0:  # below a link that leads out
                rows[b"", b"way"] = link(b"../outside")
                rows[b"way", b"stolen"] = below
            case 1:
                rows[b"nowhere\0deep", b"x"] = below
            case 2:  # deep, and consistent
                for depth in range(self.chance.choice((40, 600))):
                    rows[b"\0".join([b"d"] * depth), b"d"] = Row(Kind.DIRECTORY)
            case 3:
                rows.update({(b"\0".join([b"%d" % n, *[b"d"] * 2000]), b"x"): below for n in range(20)})
            case _:
                rows.update({(b"", b"%06d" % n): below for n in range(3000)})

    def _odd_files(self, rows: dict[tuple[bytes, bytes], Row], session: int) -> None:
        self.twists.append("file")
        chance = self.chance
        match chance.randrange(7):
            case 0:
                rows[b"", b"size"] = replace(self._file(session, 20, [b"x"]), size=chance.choice(NUMBERS))
            case 1:
                rows[b"", b"target"] = link(chance.choice((b"a\0b", b"", b"\x1b[2J", b"x" * 5000)))
            case 2:
                rows[b"", b"reference"] = Row(Kind.REFERENCE, chance.choice(NUMBERS), 1, b"", b"s3")
            case 4 | 5:
                self.twists.append("references")
                for number in range(3):
                    size = chance.choice((0, 1, 5000, (1 << 20) + 1, 3 << 20, 1 << 53, SIZE_LIMIT - 1))  # none that would be written
                    record = chance.choice(RECORDS).encode()
                    record = chew(chance, record) if self._twist("record", 0.1) else record
                    rows[b"", b"reference%d" % number] = Row(Kind.REFERENCE, size, 1, b"", record)
            case 3:
                rows[b"", b"two"] = self._file(session, 21, [b"one", b"two", chance.randbytes(2000)])
            case _:
                rows[b"", b"liar"] = replace(self._file(session, 22, [b"one", b"two"]), digest=chance.randbytes(32))

    def _big_files(self, rows: dict[tuple[bytes, bytes], Row], session: int) -> None:
        """Claims of much with little."""
        chance = self.chance
        builder, found = bomb(self.key)
        self._put_pack(PackId(session, 30), builder)
        if chance.random() < 0.5:
            self.twists.append("bomb")
            chosen = found[:: chance.choice((40, 200))]
        else:
            self.twists.append("petabytes")
            chosen = [found[0]] * 65536
        places = [Place(PackId(session, 30), offset, stored, 2 << 20) for _, offset, stored in chosen]
        digests = [digest for digest, _, _ in chosen]
        rows[b"", b"big"] = Row(Kind.FILE, len(chosen) << 21, 1, content_digest(digests), b"", b"".join(digests), places)

    def _damage(self) -> None:
        """A stored value that is another."""
        self.twists.append("damage")
        keys = [item.key for item in self.store.list_keys("") if item.key != "project.json"]
        key = self.chance.choice(keys)
        value = self.store.get(key)
        self.store.delete([key])
        if self.chance.random() < 0.8:
            self.store.create(key, chew(self.chance, value))


def forged(seed: int) -> Forge:
    """The enemy of a number; many have a key that the victim has, too."""
    return Forge(seed, encrypted=seed % 7 < 3).make()
