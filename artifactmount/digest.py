"""Digests of content, and where a large file is cut: what two snapshots of equal bytes must agree on for ever.

Everything here is part of the format: other contexts or cut points would make a new version of every file already stored, so the tests
pin both. This module knows bytes only; it must not know packs, rows, files or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

Digest = bytes
"""32 bytes of BLAKE3."""

Buffer = bytes | bytearray | memoryview

DIGEST_LENGTH = 32
SINGLE_LIMIT = 1 << 20
"""A file of up to this many bytes is one chunk and is never cut."""
CHUNK_LIMIT = 2 << 20
"""No chunk of a file is larger."""

_CONTENT_CONTEXT = "artifactmount v1 file content"
_DIRECTORY_CONTEXT = "artifactmount v1 directory"
_EMPTY = blake3(b"").digest()


def chunk_digest(data: Buffer) -> Digest:
    """The name of a chunk: BLAKE3 of its plain bytes."""
    return blake3(data).digest()


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a project's chunks are named and its large files cut. `key`: an encrypted project's 32 bytes, None elsewhere.

    With a key, names are keyed BLAKE3, so that nobody without it can ask whether a file he guesses is there; and files are cut at fixed
    offsets, because lengths that depend on the content give the content away (eprint 2025/558).
    """

    key: bytes | None = field(default=None, repr=False)

    def digest(self, data: Buffer) -> Digest:
        """The name of a chunk."""
        return chunk_digest(data) if self.key is None else blake3(data, key=self.key).digest()

    def own(self, key: bytes) -> bytes:
        """A key to remember digests under that these names do not share with others."""
        return key if self.key is None else self.digest(key)[: len(key)]

    def cut(self, buffer: Buffer) -> int:
        """See the function `cut`."""
        return cut(buffer) if self.key is None else min(len(buffer), SINGLE_LIMIT)


PLAIN_CHUNKING = Chunking()


def content_digest(chunk_digests: Sequence[Digest]) -> Digest:
    """The digest of a file made of these chunks, in order."""
    if not chunk_digests:
        return _EMPTY
    if len(chunk_digests) == 1:
        return chunk_digests[0]
    return blake3(b"".join(chunk_digests), derive_key_context=_CONTENT_CONTEXT).digest()


def directory_digest(count: int, modes: Buffer, sizes: Buffer, name_lengths: Buffer, names: Buffer, digests: Buffer) -> Digest:
    """The digest of a directory from the column slices of its `count` children, in row order."""
    hasher = blake3(count.to_bytes(8, "little"), derive_key_context=_DIRECTORY_CONTEXT)
    for column in (modes, sizes, name_lengths, names, digests):
        hasher.update(column)
    return hasher.digest()


def cut(buffer: Buffer) -> int:
    """The length of the first chunk of `buffer`; 0 when it is empty.

    The caller passes what is left of the file, or at least CHUNK_LIMIT bytes of it: the cut depends on no byte further on.
    """
    if not buffer:
        return 0
    chunk = next(iter(_cutter().cut_buf(memoryview(buffer)[:CHUNK_LIMIT])))
    length: int = chunk.length
    return length


@cache
def _cutter() -> FastCDC:
    from pyfastcdc import FastCDC  # 25 ms, a tenth of what most commands take, and none of them cuts a file

    return FastCDC(1 << 20, min_size=256 << 10, max_size=CHUNK_LIMIT)
