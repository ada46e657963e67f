"""What long work tells of itself: a protocol, silence, and a bar on a terminal. Knows nothing of what the work is."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

#: Seconds between two updates of the bar: nobody reads one for each of 10,000 files a second.
_EVERY = 0.1


class Progress(Protocol):
    """Told by long work how far it is."""

    def begin(self, what: str, total_bytes: int, total_files: int) -> None:
        """A stage begins; totals may be 0 when nobody knows."""
        ...

    def advance(self, done_bytes: int, done_files: int) -> None:
        """So much more is done."""
        ...

    def end(self) -> None:
        """The stage is over."""
        ...


class Silent:
    """Says nothing."""

    def begin(self, what: str, total_bytes: int, total_files: int) -> None:
        """See Progress."""

    def advance(self, done_bytes: int, done_files: int) -> None:
        """See Progress."""

    def end(self) -> None:
        """See Progress."""


class Bar:
    """A bar on stderr for a stage that takes over two seconds: bytes, files, rate, time left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._files = self._total_files = self._bytes = 0
        self._next = 0.0

    def begin(self, what: str, total_bytes: int, total_files: int) -> None:
        """See Progress."""
        from tqdm import tqdm  # 40 ms that only work with a bar pays

        self.end()
        self._files, self._total_files, self._bytes = 0, total_files, 0
        self._bar = tqdm(total=total_bytes or None, desc=what, unit="B", unit_scale=True, delay=2, file=sys.stderr, leave=False)

    def advance(self, done_bytes: int, done_files: int) -> None:
        """See Progress."""
        self._files += done_files
        self._bytes += done_bytes
        if self._bar is not None and (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY
            self._bar.set_postfix_str(f"{self._files}/{self._total_files} files", refresh=False)
            self._bar.update(self._bytes)
            self._bytes = 0

    def end(self) -> None:
        """See Progress."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
