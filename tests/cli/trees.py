"""Real folders as values: written from a dict, read back into one. Paths are bytes, and nothing is followed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class File:
    content: bytes = b""
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    target: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    pass


Leaf = File | Link | Folder
Tree = dict[bytes, Leaf]


def write(folder: Path, tree: Tree) -> Path:
    """Make the folder hold exactly this: what is there and right is not touched, as a user's editor would not."""
    folder.mkdir(parents=True, exist_ok=True)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        present = _read(root)
        for path in sorted(present.keys() - {p for p, leaf in tree.items() if present.get(p) == leaf}, reverse=True):
            if isinstance(present[path], Folder):
                os.rmdir(path, dir_fd=root)
            else:
                os.unlink(path, dir_fd=root)
        for path in sorted(tree.keys() - _read(root).keys()):
            _make(root, path, tree[path])
    finally:
        os.close(root)
    return folder


def _make(root: int, path: bytes, leaf: Leaf) -> None:
    match leaf:
        case Folder():
            os.mkdir(path, dir_fd=root)
        case Link(target):
            os.symlink(target, path, dir_fd=root)
        case File(content, executable):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if executable else 0o644, dir_fd=root)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)


def read(folder: Path) -> Tree:
    """What a folder holds."""
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _read(root)
    finally:
        os.close(root)


def _read(root: int) -> Tree:
    found: Tree = {}
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        descriptor = os.open(above or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        try:
            names = [os.fsencode(name) for name in os.listdir(descriptor)]
        finally:
            os.close(descriptor)
        for name in names:
            path = above + b"/" + name if above else name
            status = os.lstat(path, dir_fd=root)
            if stat.S_ISDIR(status.st_mode):
                found[path] = Folder()
                waiting.append(path)
            elif stat.S_ISLNK(status.st_mode):
                found[path] = Link(os.readlink(path, dir_fd=root))
            else:
                assert stat.S_ISREG(status.st_mode), path
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root), "rb") as file:
                    found[path] = File(file.read(), bool(status.st_mode & stat.S_IXUSR))
    return found


def files_below(folder: Path) -> list[Path]:
    """Every regular file, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def stored_bytes(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in files_below(folder))
