"""The user's config file, `artifactmount/config.toml` below $XDG_CONFIG_HOME. Knows what it may say, and nothing of what it is used for."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artifactmount.errors import UsageError
from artifactmount.private import read_file

_LIMIT = 1 << 20
_SSE = ("AES256", "aws:kms", "aws:kms:dsse")
_S3_KEYS = frozenset({"sse", "sse-kms-key-id"})


@dataclass(frozen=True, slots=True)
class ServerSideEncryption:
    """What is asked of a bucket with every write: the algorithm as S3 names it, and the KMS key, where one is named."""

    algorithm: str
    kms_key: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """What the config file says."""

    project: str = ""
    sse: ServerSideEncryption | None = None
    references: Mapping[str, Any] = field(default_factory=dict)
    key_file: str = ""


def read_config(environment: Mapping[str, str]) -> Config:
    """The user's config; an empty one where there is no file.

    Raises UsageError for a file that cannot be understood, RefusedError for one that other users may read or write.
    """
    path = os.path.join(base_folder(environment, "XDG_CONFIG_HOME", ".config"), "artifactmount", "config.toml")
    try:
        fields = tomllib.loads(read_file(path, _LIMIT).decode())
        project, key_file = (str(fields.get(name, "")) for name in ("project", "key-file"))
        return Config(project, _sse(fields.get("s3", {})), _table(fields, "references"), key_file)
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _table(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table as it is; who uses it says what may stand in it. Raises ValueError."""
    found = fields.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is a table: [{name}]")
    return found


def _sse(fields: Any) -> ServerSideEncryption | None:
    """Raises ValueError. A word that is not known is refused: one that is misspelled must not switch the encryption off."""
    if not isinstance(fields, dict):
        raise ValueError("s3 is a table: [s3]")
    if unknown := sorted(fields.keys() - _S3_KEYS):
        raise ValueError(f"[s3] knows no {unknown[0]!r}; it knows {' and '.join(sorted(_S3_KEYS))}")
    algorithm, key = fields.get("sse"), fields.get("sse-kms-key-id")
    if algorithm is None and key is None:
        return None
    if algorithm not in _SSE:
        raise ValueError(f"sse in [s3] is one of {', '.join(_SSE)}, not {algorithm!r}")
    if key is not None and (not isinstance(key, str) or not key or not algorithm.startswith("aws:kms")):
        raise ValueError('sse-kms-key-id in [s3] is the id or ARN of a key, and goes with sse = "aws:kms"')
    return ServerSideEncryption(algorithm, key)


def base_folder(environment: Mapping[str, str], variable: str, fallback: str) -> str:
    """One of the XDG base directories."""
    return environment.get(variable) or os.path.join(os.path.expanduser("~"), fallback)
