"""The digests that W&B gives files and versions, so that scripts which compare them go on to work."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable
from typing import BinaryIO

from artifactmount.assembly import Local
from artifactmount.errors import StagingError
from artifactmount.listing import stat_record

_PART = 1 << 20


def file_md5(file: BinaryIO | io.BufferedIOBase) -> str:
    """Base64 of the MD5 of what is left to read."""
    digest = hashlib.md5(usedforsecurity=False)
    while part := file.read(_PART):
        digest.update(part)
    return _encoded(digest.digest())


def local_md5(row: Local) -> str:
    """Of a file of a draft. Raises StagingError when it is not what it was when it was added."""
    with open(row.path, "rb") as file:
        digest = file_md5(file)
        if stat_record(os.fstat(file.fileno())) != row.record:
            raise StagingError(f"{os.fsdecode(row.path)} changed since it was added; add it again")
    return digest


def text_md5(content: bytes) -> str:
    """Base64 of an MD5."""
    return _encoded(hashlib.md5(content, usedforsecurity=False).digest())


def _encoded(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def manifest_md5(entries: Iterable[tuple[str, str]]) -> str:
    """Of (path, digest) of all entries, in any order: 32 hex digits."""
    digest = hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
    for path, entry in sorted(entries):
        digest.update(f"{path}:{entry}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
