"""The user's config file, `artifactmount/config.toml` below $XDG_CONFIG_HOME. Knows what it may say, and nothing of what it is used for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artifactmount.errors import UsageError
from artifactmount.private import read_file

_LIMIT = 1 << 20
_SSE = ("AES256", "aws:kms", "aws:kms:dsse")
_WORDS = frozenset({"project", "key-file", "s3", "references"})
_S3_WORDS = frozenset({"sse", "sse-kms-key-id"})


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
    path = config_path(environment)
    try:
        content = read_file(path, _LIMIT).decode()
        import tomllib  # here, as most users have no such file, and every command would pay 1.4 ms

        fields = tomllib.loads(content)
        _check_words(fields, _WORDS, "it")
        return Config(_text(fields, "project"), _sse(_table(fields, "s3")), _table(fields, "references"), _text(fields, "key-file"))
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def config_path(environment: Mapping[str, str]) -> str:
    """Where the config file is looked for."""
    return os.path.join(base_folder(environment, "XDG_CONFIG_HOME", ".config"), "artifactmount", "config.toml")


def _check_words(fields: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Raises ValueError. A word that is misspelled must not switch off what it was to switch on."""
    if unknown := sorted(fields.keys() - known):
        raise ValueError(f"{where} knows no {unknown[0]!r}; it knows {', '.join(sorted(known))}")


def _text(fields: Mapping[str, Any], name: str) -> str:
    """Raises ValueError."""
    found = fields.get(name, "")
    if not isinstance(found, str):
        raise ValueError(f"{name} is a text, in quotes, not {found!r}")
    return found


def _table(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table as it is; who uses it says what may stand in it. Raises ValueError."""
    found = fields.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is a table: [{name}]")
    return found


def _sse(fields: Mapping[str, Any]) -> ServerSideEncryption | None:
    """Raises ValueError."""
    _check_words(fields, _S3_WORDS, "[s3]")
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
