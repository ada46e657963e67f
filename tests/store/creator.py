"""A process that creates keys in a folder store, for tests that race several of them or kill one.

    python creator.py FOLDER WRITER COUNT SIZE [SESSION]

Waits for a line on stdin, creates COUNT keys of SIZE bytes, and prints those it made, each when `create` has returned.
"""

from __future__ import annotations

import sys
from hashlib import shake_128

from artifactmount.store.folder import FolderStore


def content(writer: str, key: str, size: int) -> bytes:
    """The bytes that this writer gives this key: a torn file has others."""
    return shake_128(f"{writer} {key}".encode()).digest(size)


def main() -> None:
    """Run."""
    folder, writer, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    below = sys.argv[5] if len(sys.argv) > 5 else "raced"
    store = FolderStore(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(count):
        key = f"{below}/{i:04d}"
        if store.create(key, content(writer, key, size)):
            print(key, flush=True)


if __name__ == "__main__":
    main()
