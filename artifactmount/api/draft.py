"""A version that is being put together: files where they lie, references, and what an earlier version has. Nothing is read or copied yet.

Only what `new_file` makes is written anywhere, and that folder goes with the draft.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from artifactmount.api.checks import argument, checked_path
from artifactmount.assembly import Assembly, Foreign, Kept, Local, Referenced, Row, local_file, local_folder
from artifactmount.errors import ArgumentError, MissingFileError, NotFoundError
from artifactmount.refer import Rows
from artifactmount.reference import normal_uri
from artifactmount.rows import Kind, key_of, kind_of, path_of, show_path
from artifactmount.sources.access import Sources

_log = logging.getLogger(__name__)
_MODES = ("x", "xb", "w", "wb")


class Draft:
    """What is in it so far. `digest`: names chunks as the version does that rows of it are kept of."""

    def __init__(self, digest: Callable[[bytes], bytes] | None = None) -> None:
        self.assembly = Assembly()
        self._digest = digest
        self._folder: str | None = None
        self._written = 0

    def put(self, path: bytes, row: Row | None, *, overwrite: bool = False) -> None:
        """Put a row at a path. Raises ArgumentError where something else is there already (other content: not with `overwrite`)."""
        self.check(path, row, overwrite=overwrite)
        with argument():
            self.assembly.put(path, row)

    def check(self, path: bytes, row: Row | None, *, overwrite: bool) -> None:
        """Raises ArgumentError where a row meets other content, or a file a folder."""
        try:
            present = self.assembly.find(path)
        except NotFoundError:
            return
        if (present is None) != (row is None):
            raise ArgumentError(f"{show_path(path)} cannot be a file and a folder")
        if present is not None and row is not None and not overwrite and not self._is_same(present, row):
            raise ArgumentError(f"{show_path(path)} is in the artifact already, with other content; overwrite=True replaces it")

    def _is_same(self, old: Row, new: Row) -> bool:
        if old.mode != new.mode or old.size != new.size:
            return False
        if isinstance(old, Local) and isinstance(new, Local):
            if kind_of(old.mode) is Kind.SYMLINK:
                return os.readlink(old.path) == os.readlink(new.path)
            return old == new or filecmp.cmp(old.path, new.path, shallow=False)
        if isinstance(old, Kept) and isinstance(new, Local) and kind_of(old.mode) is Kind.FILE:
            return self._holds(new.path, old)
        if isinstance(old, Kept) and isinstance(new, Kept):
            return old.run.digest_of(old.row) == new.run.digest_of(new.row)
        if isinstance(old, Foreign) and isinstance(new, Foreign):
            return old.digest == new.digest
        return isinstance(old, Referenced) and isinstance(new, Referenced) and old.record == new.record

    def _holds(self, path: bytes, kept: Kept) -> bool:
        if self._digest is None:
            return False
        with open(path, "rb") as file:
            return all(self._digest(file.read(ref.place.plain)) == ref.digest for ref in kept.run.chunks(kept.row))

    # -- what is added ---------------------------------------------------------------------------------------------------------------
    def add_file(self, local_path: str, name: str | None, *, overwrite: bool) -> bytes:
        """Add a file of this machine; the path that it has in the artifact. Raises ArgumentError."""
        with argument():
            row = local_file(local_path)
        path = checked_path(os.path.basename(os.path.abspath(local_path)) if name is None else name)
        self.put(path, row, overwrite=overwrite)
        return path

    def add_dir(self, local_path: str, name: str | None, *, merge: bool) -> None:
        """Add all that is in a folder of this machine, at the top or below `name`. Raises ArgumentError."""
        top = b"" if name is None or name in (".", "") else checked_path(name.rstrip("/"))
        with argument():
            found = [(b"\0".join(part for part in (key_of(top), key) if part), rows) for key, rows in local_folder(local_path)]
        for key, rows in found:  # all is checked before anything is added
            for last in rows.keys() & self.assembly.directories.get(key, {}).keys():
                self.check(path_of(key, last), rows[last], overwrite=merge)
        if top:
            self.put(top, None)
        outside = 0
        for key, rows in found:
            with argument():
                if not self.assembly.fill(key, rows):
                    for last, row in rows.items():
                        self.assembly.put(path_of(key, last), row)
            links = (row for row in rows.values() if isinstance(row, Local) and kind_of(row.mode) is Kind.SYMLINK)
            outside += sum(map(_leads_outside, links))
        if outside:
            _log.warning("%s: %d symlinks lead out of the folder; they are kept as links, without what they lead to", local_path, outside)

    def add_reference(self, sources: Sources, uri: str, name: str | None, *, checksum: bool, max_objects: int) -> list[bytes]:
        """Add what lies at a URI; the paths that it has in the artifact.

        Raises ArgumentError for no URI, nothing there, or more than `max_objects`; SourceError.
        """
        with argument():
            normal = normal_uri(uri)
            rows = Rows(b"" if name is None else checked_path(name.rstrip("/")))
            for found in sources.find(normal, checksum=checksum):
                if rows.count == max_objects:
                    raise ArgumentError(f"{uri} holds more than {max_objects:,} objects; nothing was added; max_objects allows more")
                rows.add(found)
        added: dict[bytes, Row] = {}
        for key, last in rows:
            row = rows.within(key)[last]
            added[path_of(key, last)] = Referenced(row.record, row.size, row.mtime)
        for path, referenced in added.items():  # all is checked before anything is added
            self.check(path, referenced, overwrite=False)
        for path, referenced in added.items():
            self.put(path, referenced)
        return list(added)

    @contextmanager
    def new_file(self, name: str, mode: str, encoding: str | None) -> Iterator[IO[Any]]:
        """A file to write, which is added when the block ends well. Raises ArgumentError for a path that is taken (mode "x")."""
        path = checked_path(name)
        if mode not in _MODES:
            raise ArgumentError(f"the mode of a new file is one of {', '.join(_MODES)}, not {mode!r}")
        if mode.startswith("x") and self.has(path):
            raise ArgumentError(f'{name} is in the artifact already; mode "w" replaces it')
        self._written += 1
        written = os.path.join(self._own_folder(), str(self._written))
        with open(written, mode.replace("x", "w"), encoding=encoding) as file:
            yield file
        self.put(path, local_file(written), overwrite=True)

    def _own_folder(self) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="artifactmount-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    # -- what is there ---------------------------------------------------------------------------------------------------------------
    def has(self, path: bytes) -> bool:
        """Whether something is at a path."""
        try:
            self.assembly.find(path)
        except NotFoundError:
            return False
        return True

    def remove(self, path: bytes) -> None:
        """Take away a file, or a folder with all below. Raises MissingFileError."""
        try:
            self.assembly.remove(path)
        except NotFoundError as error:
            raise MissingFileError(str(error)) from None

    def added_as(self, local_path: str) -> bytes | None:
        """The first path in the artifact of a file of this machine."""
        real = os.fsencode(os.path.realpath(local_path))
        return next((path for path, row in self.assembly.rows() if isinstance(row, Local) and row.path == real), None)

    def close(self) -> None:
        """Remove what was written for it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _leads_outside(row: Local) -> bool:
    """Whether a symlink leads out of the folder that it was added with."""
    top = os.fsencode(row.place.path)
    target = os.path.normpath(os.path.join(os.path.dirname(row.path), os.readlink(row.path)))
    return target != top and not target.startswith(top + b"/")
