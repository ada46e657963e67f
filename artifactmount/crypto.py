"""Ciphers: what becomes of bytes on their way to the store and back. Pure: keys in, bytes out; must not know stores, or whose keys.

One interface and two implementations, carried by `Artifact`: `PlainCipher` leaves packs and records (log entries, checkpoints) as they are,
`ArtifactCipher` encrypts them with AES-256-GCM (docs/format.md, "Encryption"). No (key, nonce) pair is used twice, by construction: every
pack and every record gets a key of its own, derived with 16 or 32 new random bytes; in a pack the nonce is the offset of what is encrypted,
and a record has one nonce. Only the functions that write that salt encrypt anything.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from artifactmount.digest import PLAIN_CHUNKING, Buffer, Chunking
from artifactmount.errors import CorruptError
from artifactmount.pack import HEAD_LENGTH, PackBuilder, TableRow, count_chunks, decode, decode_rows, decode_table, open_chunk, table_length
from artifactmount.ranges import PackId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_LENGTH = 32
TAG_LENGTH = 16
NONCE_LENGTH = 12
FLAG = 1
"""In the header of an encrypted pack."""
SALT_LENGTH = 16
AROUND = SALT_LENGTH + TAG_LENGTH
"""Bytes that a chunk, and the table of contents, takes more than without encryption."""
RECORD_SALT_LENGTH = 32

_ARTIFACT_CONTEXT = "artifactmount v1 artifact key"
_PACK_CONTEXT = "artifactmount v1 pack key"
_RECORD_CONTEXT = "artifactmount v1 record key"
_CHUNK_CONTEXT = "artifactmount v1 chunk name key"
_DOCUMENT_CONTEXT = "artifactmount v1 project document"
_PACK = struct.Struct("<QI")
_OFFSET = struct.Struct("<Q")
_RECORD = struct.Struct("<4sBB2x")
_RECORD_MAGIC = b"AMER"
_RECORD_VERSION = 1
RECORD_AROUND = _RECORD.size + RECORD_SALT_LENGTH + TAG_LENGTH
"""Bytes that a record takes more than without encryption."""
_KEYS_HELD = 256


class Record(IntEnum):
    """What is encrypted whole."""

    ENTRY = 1
    CHECKPOINT = 2


class Cipher(Protocol):
    """How the bytes of one artifact are stored. Everything that opens raises CorruptError for bytes that are not what lies there."""

    chunking: Chunking

    def record(self, kind: Record, seq: int, plain: bytes) -> bytes:
        """The stored bytes of a log entry or checkpoint."""
        ...

    def open_record(self, kind: Record, seq: int, stored: bytes) -> bytes:
        """What `record` was given."""
        ...

    def builder(self) -> PackBuilder:
        """An empty pack, which counts what encryption adds."""
        ...

    def pack(self, pack: PackId, builder: PackBuilder) -> bytes:
        """The stored bytes of a pack. For each number anew: they are right under no other."""
        ...

    def count(self, head: Buffer) -> int:
        """How many chunks a pack says it has, from its first HEAD_LENGTH bytes."""
        ...

    def front_length(self, count: int) -> int:
        """Bytes in front of the first chunk of a pack of so many."""
        ...

    def table(self, pack: PackId, front: Buffer) -> list[TableRow]:
        """The table of contents, from at least the first `front_length` bytes."""
        ...

    def whole(self, pack: PackId, stored: Buffer) -> list[TableRow]:
        """The table of contents of a whole pack; it accounts for every byte. With `bare` of every row nothing is left unproven."""
        ...

    def bare(self, pack: PackId, offset: int, stored: Buffer) -> bytes:
        """A stored chunk as the builder was given it."""
        ...

    def chunk(self, pack: PackId, offset: int, stored: Buffer, plain: int, digest: bytes) -> bytes:
        """The plain bytes of a stored chunk, which have this length and digest."""
        ...

    def stores_plain(self, stored: Buffer, plain: int, digest: bytes) -> bool:
        """Whether these stored bytes are themselves the plain ones of this length and digest: then `chunk` need not copy them."""
        ...


class PlainCipher:
    """Stores everything as it is."""

    chunking = PLAIN_CHUNKING

    def record(self, kind: Record, seq: int, plain: bytes) -> bytes:
        """See Cipher."""
        return plain

    def open_record(self, kind: Record, seq: int, stored: bytes) -> bytes:
        """See Cipher."""
        return stored

    def builder(self) -> PackBuilder:
        """See Cipher."""
        return PackBuilder()

    def pack(self, pack: PackId, builder: PackBuilder) -> bytes:
        """See Cipher."""
        return builder.finish()

    def count(self, head: Buffer) -> int:
        """See Cipher."""
        return count_chunks(head)

    def front_length(self, count: int) -> int:
        """See Cipher."""
        return table_length(count)

    def table(self, pack: PackId, front: Buffer) -> list[TableRow]:
        """See Cipher."""
        return decode_table(front)

    def whole(self, pack: PackId, stored: Buffer) -> list[TableRow]:
        """See Cipher."""
        return decode(stored)

    def bare(self, pack: PackId, offset: int, stored: Buffer) -> bytes:
        """See Cipher."""
        return bytes(stored)

    def chunk(self, pack: PackId, offset: int, stored: Buffer, plain: int, digest: bytes) -> bytes:
        """See Cipher."""
        return open_chunk(stored, plain, digest)

    def stores_plain(self, stored: Buffer, plain: int, digest: bytes) -> bool:
        """See Cipher."""
        return len(stored) == plain and self.chunking.digest(stored) == digest


PLAIN = PlainCipher()


class ArtifactCipher:
    """Encrypts everything of one artifact with keys derived from `key`, which is its own. Threads may share one."""

    def __init__(self, key: bytes, chunking: Chunking, project_id: str, name: str) -> None:
        self.chunking = chunking
        self._key, self._bound = key, bytes.fromhex(project_id) + name.encode()
        self._held: dict[tuple[PackId, bytes], AESGCM] = {}
        self._made_of = key, chunking, project_id, name

    def __reduce__(self) -> tuple[type[ArtifactCipher], tuple[bytes, Chunking, str, str]]:
        """For a worker process: the keys derived so far stay here."""
        return ArtifactCipher, self._made_of

    # -- records -------------------------------------------------------------------------------------------------------------------
    def record(self, kind: Record, seq: int, plain: bytes) -> bytes:
        """See Cipher."""
        front, salt = _RECORD.pack(_RECORD_MAGIC, _RECORD_VERSION, kind), os.urandom(RECORD_SALT_LENGTH)
        sealed = encrypt_once(self._record_key(kind, seq, salt), plain, front + _OFFSET.pack(seq) + self._bound)
        return b"".join((front, salt, sealed))

    def open_record(self, kind: Record, seq: int, stored: bytes) -> bytes:
        """See Cipher."""
        what = f"log entry {seq}" if kind is Record.ENTRY else f"the checkpoint of entry {seq}"
        front = _RECORD.pack(_RECORD_MAGIC, _RECORD_VERSION, kind)
        if stored[: len(front)] != front:
            raise CorruptError(f"{what} is not encrypted, or not what must lie in its place")
        salt, sealed = stored[len(front) : len(front) + RECORD_SALT_LENGTH], stored[len(front) + RECORD_SALT_LENGTH :]
        return decrypt_once(self._record_key(kind, seq, salt), sealed, front + _OFFSET.pack(seq) + self._bound, what)

    def _record_key(self, kind: Record, seq: int, salt: bytes) -> bytes:
        return derive(_RECORD_CONTEXT, self._key, bytes([kind]), _OFFSET.pack(seq), salt)

    # -- packs ---------------------------------------------------------------------------------------------------------------------
    def builder(self) -> PackBuilder:
        """See Cipher."""
        return PackBuilder(checks=AROUND, around=AROUND)

    def pack(self, pack: PackId, builder: PackBuilder) -> bytes:
        """See Cipher."""
        salt, header = os.urandom(SALT_LENGTH), builder.header(FLAG)
        key = self._pack_key(pack, salt)
        # The table's nonce is 0, where the header lies: no chunk has that offset, and no two chunks have the same.
        parts = [header, salt, key.encrypt(_nonce(0), builder.rows(), self._aad(pack, 0, header))]
        for offset, chunk in builder.chunks():
            parts += (salt, key.encrypt(_nonce(offset), chunk, self._aad(pack, offset)))
        return b"".join(parts)

    def count(self, head: Buffer) -> int:
        """See Cipher."""
        return count_chunks(head, FLAG)

    def front_length(self, count: int) -> int:
        """See Cipher."""
        return table_length(count, AROUND)

    def table(self, pack: PackId, front: Buffer) -> list[TableRow]:
        """See Cipher."""
        end = self.front_length(self.count(front))
        view = memoryview(front)
        header, salt = bytes(view[:HEAD_LENGTH]), bytes(view[HEAD_LENGTH : HEAD_LENGTH + SALT_LENGTH])
        aad = self._aad(pack, 0, header)
        rows = _decrypt(self._pack_key(pack, salt), 0, view[HEAD_LENGTH + SALT_LENGTH : end], aad, "a pack's table of contents")
        return decode_rows(rows, end, AROUND)

    def whole(self, pack: PackId, stored: Buffer) -> list[TableRow]:
        """See Cipher."""
        rows = self.table(pack, stored)
        if rows[-1].offset + rows[-1].stored != len(stored):
            raise CorruptError(f"a pack of {len(stored)} bytes whose table says {rows[-1].offset + rows[-1].stored}")
        return rows

    def bare(self, pack: PackId, offset: int, stored: Buffer) -> bytes:
        """See Cipher."""
        view = memoryview(stored)
        key = self._pack_key(pack, bytes(view[:SALT_LENGTH]))
        return _decrypt(key, offset, view[SALT_LENGTH:], self._aad(pack, offset), "a chunk")

    def chunk(self, pack: PackId, offset: int, stored: Buffer, plain: int, digest: bytes) -> bytes:
        """See Cipher."""
        return open_chunk(self.bare(pack, offset, stored), plain, digest, self.chunking.digest)

    def stores_plain(self, stored: Buffer, plain: int, digest: bytes) -> bool:
        """See Cipher. Nothing is."""
        return False

    def _aad(self, pack: PackId, offset: int, header: bytes = b"") -> bytes:
        return b"".join((_PACK.pack(pack.session, pack.number), _OFFSET.pack(offset), header, self._bound))

    def _pack_key(self, pack: PackId, salt: bytes) -> AESGCM:
        key = self._held.get((pack, salt))
        if key is None:
            key = aes(derive(_PACK_CONTEXT, self._key, _PACK.pack(pack.session, pack.number), salt))
            if len(self._held) >= _KEYS_HELD:
                self._held.clear()
            self._held[pack, salt] = key
        return key


def copy_chunks(cipher: Cipher, pack: PackId, stored: Buffer, rows: Iterable[TableRow], builder: PackBuilder) -> None:
    """Add these chunks of a whole pack to another pack, compressed as they are. Raises CorruptError."""
    view = memoryview(stored)
    for row in rows:
        builder.add(row.digest, row.plain, cipher.bare(pack, row.offset, view[row.offset : row.offset + row.stored]))


class ProjectKey:
    """The key of a project, and what is derived from it."""

    def __init__(self, key: bytes, project_id: str) -> None:
        self._key, self.project_id = key, project_id
        self._chunking = Chunking(derive(_CHUNK_CONTEXT, key, bytes.fromhex(project_id)))

    @property
    def raw(self) -> bytes:
        """The key itself, to be wrapped."""
        return self._key

    def cipher(self, name: str) -> Cipher:
        """The cipher of one artifact."""
        key = derive(_ARTIFACT_CONTEXT, self._key, bytes.fromhex(self.project_id), name.encode())
        return ArtifactCipher(key, self._chunking, self.project_id, name)

    def mac(self, document: bytes) -> bytes:
        """The proof, 32 bytes, that who wrote a document had the key."""
        return blake3(document, key=derive(_DOCUMENT_CONTEXT, self._key)).digest()


def derive(context: str, key: bytes, *about: bytes) -> bytes:
    """Another key, for one purpose (`context`) and one thing. All parts but the last have fixed lengths."""
    return blake3(b"".join((key, *about)), derive_key_context=context).digest()


def aes(key: bytes) -> AESGCM:
    """AES-256-GCM. Loaded when first used: 20 to 80 ms, which no command over a plain project should pay."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def encrypt_once(key: bytes, plain: bytes, aad: bytes) -> bytes:
    """Encrypt with a key that MUST be new: derived with a salt that was drawn for this call."""
    return aes(key).encrypt(_nonce(0), plain, aad)


def decrypt_once(key: bytes, sealed: bytes, aad: bytes, what: str) -> bytes:
    """What `encrypt_once` was given. Raises CorruptError naming `what`."""
    return _decrypt(aes(key), 0, sealed, aad, what)


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_LENGTH, "little")


def _decrypt(key: AESGCM, nonce: int, sealed: Buffer, aad: bytes, what: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return key.decrypt(_nonce(nonce), sealed, aad)
    except InvalidTag:
        raise CorruptError(f"{what} is damaged, or was put where it does not belong") from None
