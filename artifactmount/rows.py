"""One row is one path of a run or a manifest: its kinds, its limits and its order. Knows nothing of bytes on disk.

Order. Rows stand in the order of the tuple (directory, name), where a directory is written as its *directory key*: the path from the
root without a leading or trailing slash, with NUL for every slash (the root is empty). Keys then compare as plain bytes, a directory's
rows are contiguous, its whole subtree is one slice, and parents come before children. Sorting joined paths would give another order
("a-b" between "a" and "a/b"), and a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from artifactmount.errors import CorruptError

NAME_LIMIT = 255
PATH_LIMIT = 4095
DEPTH_LIMIT = 2048
SIZE_LIMIT = 1 << 62
RECORD_LIMIT = 1 << 15  # a reference's record
ROW_LIMIT = (1 << 32) - 2  # an inode is slot << 32 | row + 1
ROOT_KEY = b""

KIND_MASK = 3
EXECUTABLE = 4


class Kind(IntEnum):
    """What a row stands for."""

    DIRECTORY = 0
    FILE = 1
    SYMLINK = 2
    REFERENCE = 3


_KINDS = tuple(Kind)  # 0.1 µs where calling the enum is 0.9: every row asks


class Change(IntEnum):
    """What a run says of a row, against the live version before it."""

    ADDED = 0
    CHANGED = 1
    REMOVED = 2


MODES = frozenset({Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.REFERENCE, Kind.FILE | EXECUTABLE, Kind.REFERENCE | EXECUTABLE})


def mode_of(kind: Kind, executable: bool = False) -> int:
    """The mode byte of a row: kind, and whether it may be executed (files and references only)."""
    return kind | (EXECUTABLE if executable else 0)


def kind_of(mode: int) -> Kind:
    """The kind in a mode byte."""
    return _KINDS[mode & KIND_MASK]


def rows_of(modes: bytes | bytearray, mode: int) -> Iterator[int]:
    """The rows of exactly this mode byte. They are few mostly, and a look at each row by itself is not free."""
    row = modes.find(mode)
    while row >= 0:
        yield row
        row = modes.find(mode, row + 1)


def is_executable(mode: int) -> bool:
    """Whether a mode byte carries the executable bit."""
    return bool(mode & EXECUTABLE)


def key_of(path: bytes) -> bytes:
    """The directory key of a path ("a/b" without outer slashes)."""
    return path.replace(b"/", b"\0")


def path_of(key: bytes, name: bytes = b"") -> bytes:
    """The path of a row in a directory, or of the directory itself when `name` is empty."""
    directory = key.replace(b"\0", b"/")
    if not name:
        return directory
    return directory + b"/" + name if directory else name


def show_path(path: bytes) -> str:
    """A path for a message: one line, whatever bytes are in it."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def child_key(key: bytes, name: bytes) -> bytes:
    """The key of the directory `name` in the directory `key`."""
    return key + b"\0" + name if key else name


def split_key(key: bytes) -> tuple[bytes, bytes]:
    """The key of the parent and the name in it. The root has neither: (b"", b"")."""
    parent, _, name = key.rpartition(b"\0")
    return parent, name


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """(directory key, name) of a path; leading, trailing and doubled slashes are forgiven, as on a command line."""
    parts = [part for part in path.split(b"/") if part]
    if not parts:
        return ROOT_KEY, b""
    return b"\0".join(parts[:-1]), parts[-1]


def check_names(names: Iterable[bytes]) -> None:
    """Names of one directory, in order: strictly ascending, so without duplicates, and none that could lead elsewhere.

    Raises CorruptError. NUL and slash are looked for in the whole heap at once by the caller.
    """
    before = b""
    for name in names:
        if name <= before:
            raise CorruptError(f"names out of order or duplicate: {before!r}, {name!r}")
        if name in (b".", b".."):
            raise CorruptError(f"a name that may not be: {name!r}")
        before = name


def check_key(key: bytes) -> None:
    """A directory key from the store: bounded, and made of names that could not lead elsewhere. Raises CorruptError."""
    if not key:
        return
    if len(key) > PATH_LIMIT:
        raise CorruptError(f"a directory path of {len(key)} bytes (limit {PATH_LIMIT})")
    parts = key.split(b"\0")
    if len(parts) > DEPTH_LIMIT:
        raise CorruptError(f"a directory {len(parts)} deep (limit {DEPTH_LIMIT})")
    for part in parts:
        if not part or part in (b".", b"..") or len(part) > NAME_LIMIT or b"/" in part:
            raise CorruptError(f"a directory name that may not be: {part!r}")
