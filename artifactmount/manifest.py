"""A manifest: all rows of one version as a table that is read in place. Knows no store, cache or log.

A table exists only locally (as a memory-mapped file of the cache), is derived (see `merge`), and is used only when its root digest is the
version's. The bytes are specified in docs/format.md, "Manifest table".

Each row remembers its *origin*: which run wrote it last, and which row of that run it is. Chunks, places and targets stay in the run.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from blake3 import blake3

from artifactmount.digest import DIGEST_LENGTH
from artifactmount.errors import CorruptError
from artifactmount.rows import ROOT_KEY, Kind, child_key, kind_of, split_path

MAGIC = b"AMTB"
VERSION = 1
ROOT_ROW = -2
MISSING = -1
#: magic, version, 3 zero bytes, rows, directories, origins, bytes of the name heap and of the directory heap, root digest
HEADER = struct.Struct("<4sB3x5Q32s")
#: the fixed-width columns, in the order of the bytes: name -> bytes a row
WIDTHS = {"modes": 1, "sizes": 8, "mtimes": 8, "name_lengths": 1, "digests": DIGEST_LENGTH, "origin_runs": 4, "origin_rows": 4}


class Table:
    """The rows of one version, in order, read in place from `buffer`. Raises CorruptError unless the checksum holds."""

    __slots__ = (
        "_dir_first",
        "_dir_heap",
        "_dir_offsets",
        "_name_offsets",
        "_names",
        "_origin_rows",
        "_origin_runs",
        "buffer",
        "count",
        "digests",
        "dirs",
        "modes",
        "mtimes",
        "name_lengths",
        "origins",
        "root",
        "sizes",
    )

    def __init__(self, buffer: bytes | bytearray | memoryview, *, check: bool = True) -> None:
        view = memoryview(buffer)
        if len(view) < HEADER.size + DIGEST_LENGTH:
            raise CorruptError("a manifest table cut short")
        magic, version, n, d, k, name_bytes, dir_bytes, root = HEADER.unpack_from(view)
        size = HEADER.size + 59 * n + 8 * (n + 1) + name_bytes - n + 16 * (d + 1) + dir_bytes + DIGEST_LENGTH * (k + 1)
        if magic != MAGIC or version != VERSION or size != len(view):
            raise CorruptError("not a manifest table, or cut short")
        if check and blake3(view[:-DIGEST_LENGTH]).digest() != view[-DIGEST_LENGTH:]:
            raise CorruptError("a manifest table with a wrong checksum")
        at = HEADER.size

        def column(width: int, items: int) -> memoryview:
            nonlocal at
            start, at = at, at + width * items
            return view[start:at]

        self.buffer, self.count, self.dirs, self.root = view, n, d, bytes(root)
        self.modes = column(1, n)
        self.sizes = column(8, n).cast("Q")
        self.mtimes = column(8, n).cast("q")
        self.name_lengths = column(1, n)
        self.digests = column(DIGEST_LENGTH, n)
        self._origin_runs = column(4, n).cast("I")
        self._origin_rows = column(4, n).cast("I")
        self._name_offsets = column(8, n + 1).cast("Q")
        self._names = column(1, name_bytes)
        self._dir_offsets = column(8, d + 1).cast("Q")
        self._dir_first = column(8, d + 1).cast("Q")
        self._dir_heap = column(1, dir_bytes)
        self.origins = [bytes(column(DIGEST_LENGTH, 1)) for _ in range(k)]

    # -- one row -------------------------------------------------------------------------------------------------------------------
    def mode(self, row: int) -> int:
        """The mode byte."""
        return int(self.modes[row])

    def kind(self, row: int) -> Kind:
        """What the row stands for; the root (ROOT_ROW) is a directory."""
        return Kind.DIRECTORY if row == ROOT_ROW else kind_of(self.modes[row])

    def size(self, row: int) -> int:
        """Size in bytes."""
        return int(self.sizes[row])

    def mtime(self, row: int) -> int:
        """Modification time in ns; zero for what shows its version's time."""
        return int(self.mtimes[row])

    def name(self, row: int) -> bytes:
        """The name within its directory."""
        return bytes(self._names[self._name_offsets[row] : self._name_offsets[row + 1]])

    def digest(self, row: int) -> bytes:
        """The content digest; for a directory the digest of the tree below it."""
        return self.root if row == ROOT_ROW else bytes(self.digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH])

    def origin(self, row: int) -> tuple[int, int]:
        """(index in `origins`, row) of the run that wrote this row last."""
        return self._origin_runs[row], self._origin_rows[row]

    # -- directories ---------------------------------------------------------------------------------------------------------------
    def dir_key(self, index: int) -> bytes:
        """The key of the index-th directory that has rows."""
        return bytes(self._dir_heap[self._dir_offsets[index] : self._dir_offsets[index + 1]])

    def dir_rows(self, index: int) -> tuple[int, int]:
        """(first row, row after the last) of the index-th directory."""
        return self._dir_first[index], self._dir_first[index + 1]

    def dir_position(self, key: bytes) -> tuple[int, bool]:
        """Where `key` stands among the directories that have rows, or would stand; and whether it does."""
        low, high, heap, offsets = 0, self.dirs, self._dir_heap, self._dir_offsets
        while low < high:
            middle = (low + high) // 2
            if bytes(heap[offsets[middle] : offsets[middle + 1]]) < key:
                low = middle + 1
            else:
                high = middle
        return low, low < self.dirs and self.dir_key(low) == key

    def span(self, key: bytes) -> tuple[int, int]:
        """The rows of one directory: (first, after the last); an empty span for an empty or missing one."""
        index, found = self.dir_position(key)
        if found:
            return self.dir_rows(index)
        first = self._dir_first[index]
        return first, first

    def under(self, key: bytes) -> tuple[int, int]:
        """The rows of the whole subtree below a directory, itself not included: one slice."""
        low, _ = self.dir_position(key)
        # No name byte is below 0x01, so key + 0x01 stands behind everything that begins with key + NUL.
        high = self.dirs if key == ROOT_KEY else self.dir_position(key + b"\1")[0]
        return self._dir_first[low], self._dir_first[high]

    def directory_of(self, row: int) -> bytes:
        """The key of the directory in which the row stands."""
        return self.dir_key(bisect_right(self._dir_first, row, 0, self.dirs) - 1)

    def key_of(self, row: int) -> bytes:
        """The directory key of a row that is itself a directory."""
        return ROOT_KEY if row == ROOT_ROW else child_key(self.directory_of(row), self.name(row))

    # -- looking up ----------------------------------------------------------------------------------------------------------------
    def position(self, key: bytes, name: bytes, low: int | None = None) -> tuple[int, bool]:
        """Where the row (key, name) stands or would stand, and whether it does. `low`: not before this row."""
        start, stop = self.span(key)
        return self.position_in(start if low is None or low < start else low, stop, name)

    def position_in(self, low: int, stop: int, name: bytes) -> tuple[int, bool]:
        """`position`, for who knows that the rows [low, stop) are of the directory, from where on the row may stand to its end."""
        high, names, offsets = stop, self._names, self._name_offsets
        while low < high:
            middle = (low + high) // 2
            if bytes(names[offsets[middle] : offsets[middle + 1]]) < name:
                low = middle + 1
            else:
                high = middle
        return low, low < stop and self.name(low) == name

    def find(self, key: bytes, name: bytes) -> int:
        """The row of `name` in the directory `key`, or MISSING."""
        row, found = self.position(key, name)
        return row if found else MISSING

    def lookup(self, path: bytes) -> int:
        """The row of a path; ROOT_ROW for the root, MISSING if there is none."""
        key, name = split_path(path)
        return self.find(key, name) if name else ROOT_ROW

    def walk(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, bytes, int]]:
        """(directory key, name, row) of every row in [start, stop), in order."""
        stop = self.count if stop is None else stop
        for index in range(max(bisect_right(self._dir_first, start, 0, self.dirs) - 1, 0), self.dirs):
            first, last = self.dir_rows(index)
            if first >= stop:
                return
            key = self.dir_key(index)
            for row in range(max(first, start), min(last, stop)):
                yield key, self.name(row), row

    def directories(self, start: int, stop: int) -> list[tuple[bytes, int]]:
        """(key, rows) of the directories [start, stop) that have rows, in order."""
        first = self._dir_first
        return [(self.dir_key(index), first[index + 1] - first[index]) for index in range(start, stop)]

    def slice_of(self, column: str, start: int, stop: int) -> bytes:
        """The bytes of rows [start, stop) of a column, heap of names included ("names")."""
        if column == "names":
            return bytes(self._names[self._name_offsets[start] : self._name_offsets[stop]])
        width = WIDTHS[column]
        view: memoryview = getattr(self, _SLOTS[column])
        return bytes(view.cast("B")[start * width : stop * width])


_SLOTS = {name: "_" + name if name.startswith("origin") else name for name in WIDTHS}
