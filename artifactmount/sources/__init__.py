"""Where references lead: a source lists what can be referenced, says whether it is unchanged, and gives ranges of bytes.

One contract suite runs over all sources. What may be followed at all is decided in `access`, before one is asked. Knows no versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from artifactmount.errors import SourceChangedError
from artifactmount.reference import Referent


@dataclass(frozen=True, slots=True)
class Found:
    """Something that can be referenced. `path` is relative to what was listed, and empty when that is this one file; `size` in bytes,
    `mtime` in ns since 1970 (0 where the source does not say)."""

    path: bytes
    referent: Referent
    size: int
    mtime: int


class Source(Protocol):
    """All calls may raise SourceError, SourceDeniedError; threads may share one source."""

    def find(self, uri: str) -> Iterator[Found]:
        """The file at `uri`, or everything below it, streamed in any order. Raises NotFoundError when there is nothing;
        RefusedError naming what cannot be referenced."""
        ...

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """Exactly the bytes [start, stop) of a file of `size` bytes, `start` < `stop` <= `size`.

        Raises SourceChangedError when the source is not the one recorded, with both ETags in its message. Never other bytes, never fewer.
        """
        ...

    def check(self, referent: Referent, size: int) -> None:
        """Raises SourceChangedError as `read` does, without reading."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def changed(referent: Referent, was: object, now: object, what: str = "its ETag") -> SourceChangedError:
    """The error for a source that is not what it was."""
    shown = "".join(char if char.isprintable() else "?" for char in str(now)[:200])  # a server's word, for a log and a terminal
    return SourceChangedError(f"{referent.uri} changed since it was referenced: {what} was {was} and is {shown}")


def gone(referent: Referent) -> SourceChangedError:
    """The error for a source that is not there any more."""
    which = f", version {referent.version}" if referent.version else ""
    was = f" (its ETag was {referent.etag})" if referent.etag else ""
    return SourceChangedError(f"{referent.uri}{which} is gone{was}")
