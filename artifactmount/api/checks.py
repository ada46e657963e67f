"""What arguments of the Python API must look like, and errors of the layers below as the built-in ones that scripts expect."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from artifactmount.card import Card, check_labels, check_metadata
from artifactmount.errors import ArgumentError, ArgumentTypeError, NotFoundError, RefusedError, UsageError
from artifactmount.names import check_alias, check_artifact
from artifactmount.state import LATEST

METADATA_KEYS = 100
_TYPE_LIMIT = 128  # characters


@contextmanager
def argument() -> Iterator[None]:
    """What is refused within is the fault of an argument: ArgumentError, which is a ValueError."""
    try:
        yield
    except ArgumentError:
        raise
    except (UsageError, RefusedError, NotFoundError) as error:
        raise ArgumentError(str(error)) from error


def checked_name(name: str) -> str:
    """An artifact's name. Raises ArgumentError."""
    with argument():
        return check_artifact(name)


def checked_type(type_: str) -> str:
    """An artifact's type. Raises ArgumentError."""
    if not 0 < len(type_) <= _TYPE_LIMIT or not type_.isprintable():
        raise ArgumentError(f"not a type: {type_!r:.200} (a text of at most {_TYPE_LIMIT} characters)")
    return type_


def checked_path(path: str | os.PathLike[str]) -> bytes:
    """A path in an artifact: relative, POSIX, without `.` and `..`. Raises ArgumentError."""
    text = os.fspath(path)
    parts = text.split("/")
    if not text or text.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ArgumentError(f"not a path in an artifact: {text!r} (relative, without . and ..)")
    return os.fsencode(text)


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as JSON would give it back; NaN becomes None.

    Raises ArgumentTypeError for what is no dict, ArgumentError for more than 100 keys, ±Infinity, and what JSON cannot hold.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ArgumentTypeError(f"metadata is a dict, not {type(metadata).__name__}")
    if len(metadata) > METADATA_KEYS:
        raise ArgumentError(f"metadata has {len(metadata)} keys (limit {METADATA_KEYS})")
    try:
        cleaned: dict[str, Any] = json.loads(json.dumps(_without_nan(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"metadata cannot be written as JSON: {str(error)[:100]}") from error
    with argument():
        check_metadata(cleaned)
        Card("", cleaned).encode()
    return cleaned


def _without_nan(value: Any, depth: int = 0) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if depth < METADATA_KEYS:  # what is nested deeper is refused where it is written
        if isinstance(value, Mapping):
            return {key: _without_nan(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_without_nan(item, depth + 1) for item in value]
    return value


def checked_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Tags in the order in which they came, each once. Raises ArgumentError."""
    found = tuple(dict.fromkeys(_texts(tags, "tags")))
    with argument():
        check_labels(found, 0)
    return found


def checked_aliases(aliases: Iterable[str] | None) -> tuple[str, ...]:
    """Aliases, each once; `latest` is left out, as it follows by itself. Raises ArgumentError."""
    found = dict.fromkeys(alias for alias in _texts(aliases, "aliases") if alias != LATEST)
    with argument():
        return tuple(check_alias(alias) for alias in found)


def _texts(texts: Iterable[str] | None, what: str) -> list[str]:
    if isinstance(texts, str):
        texts = [texts]
    found = list(texts or ())
    if not all(isinstance(text, str) for text in found):
        raise ArgumentTypeError(f"{what} are texts")
    return found


def checked_ttl(ttl: timedelta | None) -> int | None:
    """A time to live in whole seconds, rounded up; None: for ever. Raises ArgumentError for one that is not positive."""
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta):
        raise ArgumentTypeError(f"a time to live is a timedelta or None, not {type(ttl).__name__}")
    seconds = math.ceil(ttl.total_seconds())
    if seconds <= 0:
        raise ArgumentError(f"a time to live is positive, not {ttl}")
    with argument():
        check_labels((), seconds)
    return seconds
