"""A file of a version as Python's own kind of file: read where it lies, a piece at a time, seekable, nothing written anywhere."""

from __future__ import annotations

import io

from artifactmount.pieces import Pieces

_BUFFER = 128 << 10


class PieceStream(io.RawIOBase):
    """The raw bytes of one file. It holds the piece read last (a chunk of up to 2 MiB). NOT for several threads at once."""

    def __init__(self, pieces: Pieces, name: str) -> None:
        super().__init__()
        self._pieces, self.name = pieces, name
        self._at = 0
        self._held: tuple[int, bytes] | None = None

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """In bytes from the beginning."""
        self._check()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file's. Raises ValueError for a place before the beginning."""
        self._check()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._pieces.size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the beginning of the file: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as one piece goes. Raises GoneError (the version was deleted), CorruptError, StoreError, SourceError."""
        self._check()
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._at >= self._pieces.size or not view:
            return 0
        index = self._pieces.at(self._at)
        content = self._piece(index)
        start = self._at - self._pieces.start(index)
        part = memoryview(content)[start : start + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _piece(self, index: int) -> bytes:
        if self._held is None or self._held[0] != index:
            content = self._pieces.cached(index)
            self._held = index, self._pieces.fetch(index) if content is None else content
        return self._held[1]

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def buffered(pieces: Pieces, name: str) -> io.BufferedReader:
    """A file to read from, buffered. Closing it lets go of the piece it holds."""
    return io.BufferedReader(PieceStream(pieces, name), _BUFFER)
