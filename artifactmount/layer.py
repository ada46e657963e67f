"""A folder that lies over a version: what it holds is laid on the version's rows, and all else is taken from there unread.

The upper directory of an overlay, as the kernel or fuse-overlayfs writes it (without redirects, metadata-only copies or index), or a part
of a folder that is merged onto a version. Knows staging and manifests. Must not know the log, nor what a checkout is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from artifactmount.errors import RefusedError, StagingError
from artifactmount.ignore import IGNORE_FILE
from artifactmount.listing import WHITEOUT, Listed
from artifactmount.manifest import MISSING, Table
from artifactmount.rows import Kind, path_of, show_path, split_key, split_path
from artifactmount.run import Run
from artifactmount.staging import Listing, Staging, Tracked, untracked

#: How an overlay marks a directory below which nothing of the lower one shows: as root, as an ordinary user, and fuse-overlayfs.
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
_REDIRECT = ("trusted.overlay.redirect", "user.overlay.redirect", "user.fuseoverlayfs.redirect")
#: What fuse-overlayfs makes of a whiteout where it may make no devices, and beside the attribute of an opaque directory.
_WHITEOUT_PREFIX = b".wh."
_OPAQUE_FILE = b".wh..wh..opq"


class Layer(Staging):
    """The folder `path`, which only adds and replaces. `lie_over` MUST be called before it is walked. Use as a context manager."""

    whole = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._known: list[tuple[Table, Sequence[Run]]] = []
        self._version = ""

    def lie_over(self, version: str, *known: tuple[Table, Sequence[Run]]) -> None:
        """Lie over a version (its name, for messages): the first of these manifests, each with the runs of its origins. The others may know
        the content of what the layer holds, too."""
        self._version, self._known = version, list(known)

    @property
    def lower(self) -> Table:
        """The manifest that it lies over."""
        return self._known[0][0]

    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """See Staged. Raises RefusedError where a file would take the place of a folder, or a folder that of a file."""
        for listing in super().walk(tracked):
            listing.hidden = []
            for name, mode in zip(listing.names, listing.modes, strict=True):
                old = self.lower.find(listing.key, name)
                if old != MISSING and (mode == Kind.DIRECTORY) != (self.lower.kind(old) is Kind.DIRECTORY):
                    what, there = ("a folder", "a file") if mode == Kind.DIRECTORY else ("a file", "a folder")
                    raise RefusedError(
                        f"{show_path(path_of(listing.key, name))} is {what} here and {there} in {self._version}; --from adds and replaces, "
                        "and never removes: nothing was committed; rename one of them"
                    )
            yield listing

    def open(self, path: bytes) -> int:
        """See Staged. What it has not itself is the version's, and asked for only when nothing has its bytes any more."""
        try:
            return super().open(path)
        except StagingError as error:
            if self.lower.lookup(path) != MISSING and not self._has(path):
                raise StagingError(
                    f"{show_path(path)} is of {self._version}, which was deleted meanwhile; nothing was committed"
                ) from error
            raise

    def target(self, path: bytes) -> bytes:
        """See Staged."""
        row = self.lower.lookup(path)
        if row == MISSING or self._has(path):
            return super().target(path)
        origin, at = self.lower.origin(row)
        return self._known[0][1][origin].target(at)

    def _has(self, path: bytes) -> bool:
        """Whether the layer itself has something at a path."""
        try:
            with self._lock:
                key, name = split_path(path)
                os.stat(name, dir_fd=self._folders.open(key), follow_symlinks=False)
        except OSError:
            return False
        return True

    def chunk_digests(self, path: bytes, digest: bytes) -> bytes | None:
        """See Staged."""
        for table, runs in self._known:
            row = table.lookup(path)
            if row != MISSING and table.kind(row) is Kind.FILE and table.digest(row) == digest:
                origin, at = table.origin(row)
                return b"".join(chunk.digest for chunk in runs[origin].chunks(at))
        return None


class UpperLayer(Layer):
    """The upper directory `path` of an overlay that is mounted at `view`. `files`: whether it was fuse-overlayfs that wrote it."""

    def __init__(self, path: str, view: str, *, files: bool) -> None:
        super().__init__(path)
        self._view, self._files = view, files
        self._hidden: dict[bytes, list[bytes] | None] = {}
        self._whole: set[bytes] = set()

    def show(self, path: bytes) -> str:
        """See Staged: as the user sees it."""
        return show_path(path) if path else self._view

    def walk(self, tracked: Tracked = untracked, expected: int = 0) -> Iterator[Listing]:
        """See Staged. Raises StagingError for what another program, or other options, must have written."""
        self._hidden.clear()
        self._whole.clear()
        for listing in Staging.walk(self, tracked):
            hidden = self._hidden.pop(listing.key)
            listing.hidden = None if hidden is None else sorted(hidden)
            yield listing

    def _leave_out(self, key: bytes, name: bytes) -> None:
        """See Staging. It hides what the lower version has there, as all that is in the upper directory does."""
        super()._leave_out(key, name)
        if (hidden := self._hidden[key]) is not None:
            hidden.append(name)

    def _entries(self, key: bytes) -> Listed:
        """What lies in a directory, without its whiteouts: these are what it hides of the lower one."""
        found = super()._entries(key)
        kept: list[int] = []
        hidden: list[bytes] = []
        opaque = self._is_opaque(key)
        for row, (name, mode) in enumerate(zip(found.names, found.modes, strict=True)):
            if mode == WHITEOUT:
                hidden.append(name)
            elif not self._files or not name.startswith(_WHITEOUT_PREFIX):
                kept.append(row)
            elif name == _OPAQUE_FILE:
                opaque = True
            else:
                hidden.append(name[len(_WHITEOUT_PREFIX) :])
        if opaque or (key and split_key(key)[0] in self._whole):
            self._whole.add(key)
        self._hidden[key] = None if key in self._whole else hidden
        return found.select(kept)

    def _is_opaque(self, key: bytes) -> bool:
        try:
            with self._lock:
                descriptor = self._folders.open(key)
                names = os.listxattr(descriptor)
                if any(name in names for name in _REDIRECT):
                    raise StagingError(
                        f"{self.show(path_of(key))} was renamed by an overlay with other options; copy what you need from it"
                    )
                return any(name in names and os.getxattr(descriptor, name) == b"y" for name in _OPAQUE)
        except OSError as error:
            raise self.unreadable(path_of(key), error) from error

    def _ignore_file(self, key: bytes, found: Listed) -> bytes | None:
        """See Staging: the one that shows in the overlay."""
        hidden = self._hidden[key]
        row = self.lower.find(key, IGNORE_FILE)
        if hidden is None or IGNORE_FILE in hidden or IGNORE_FILE in found.names or row == MISSING:
            return super()._ignore_file(key, found)
        if self.lower.kind(row) is not Kind.FILE:
            return None
        path = path_of(key, IGNORE_FILE)
        with Staging(self._view) as view:
            return view.ignore_file(path)
