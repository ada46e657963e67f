"""What this machine has seen of a place, kept outside the cache: a store that shows another project, or an older history, is noticed.

One small file per artifact under $XDG_STATE_HOME/artifactmount/pins/<place>/: the highest (seq, digest) seen. Knows no log and no store.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from blake3 import blake3

from artifactmount.errors import ProjectMismatchError
from artifactmount.private import make_folder


class Pins:
    """The pins of one place (a store's URL)."""

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self.path = os.path.join(root, "pins", blake3(url.encode()).hexdigest()[:32])

    def known(self) -> bool:
        """Whether anything was seen at this place before."""
        return self._read("project") is not None

    def check_project(self, identity: str) -> None:
        """Pin what must never change of a project (its id and encryption), or compare it. Raises ProjectMismatchError."""
        if not self.known():
            self._write("project", f"{identity} {self.url}\n")
        self.compare_project(identity)

    def compare_project(self, identity: str) -> None:
        """Compare it with what is pinned, if anything is: before a key is used on it. Raises ProjectMismatchError."""
        seen = self._read("project")
        if seen is not None and seen.split(" ", 1)[0] != identity:
            raise ProjectMismatchError(
                f"{self.url} holds another project than before, or is encrypted otherwise: refused. If it was made anew on purpose, "
                f"remove {self.path}"
            )

    def artifacts(self) -> set[str]:
        """The artifacts of which a head was seen."""
        try:
            return {name.removeprefix("a-") for name in os.listdir(self.path) if name.startswith("a-")}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def get(self, artifact: str) -> tuple[int, bytes] | None:
        """(seq, digest) of the highest head seen of an artifact."""
        text = self._read("a-" + artifact)
        if text is None:
            return None
        try:
            seq, digest = text.split()
            return int(seq), bytes.fromhex(digest)
        except ValueError:  # half a line after a power cut: written whole and renamed, so this is damage; a pin is a witness, not a lock
            return None

    def advance(self, artifact: str, seq: int, digest: bytes) -> None:
        """Remember a head, unless a higher one is remembered already."""
        with self._lock():
            seen = self.get(artifact)
            if seen is None or seen[0] < seq:
                self._write("a-" + artifact, f"{seq} {digest.hex()}\n")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        make_folder(self.path)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> str | None:
        try:
            with open(os.path.join(self.path, name), encoding="utf-8", errors="replace") as file:
                return file.read() or None  # a new file may be empty after a power cut: then nothing was seen
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, name: str, text: str) -> None:
        make_folder(self.path)
        descriptor, temporary = tempfile.mkstemp(dir=self.path)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the name and not the text: zeros, which would be another project
            os.replace(temporary, os.path.join(self.path, name))
        except BaseException:
            os.unlink(temporary)
            raise
