"""What an interrupted snapshot had stored, kept on this machine so that the same snapshot run again goes on with it.

One small file for each (project, artifact, staging folder), locked while it is used: who finds it locked does without. A pack's number is
written down, durably, before it is used, so that no number is ever used for other bytes; its table of contents after the store said that it
has it. All of it counts only while the session is open in the log. Lines are sealed: a torn or damaged one ends the journal there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Sequence

from artifactmount.errors import CorruptError, NeedsNewerError
from artifactmount.pack import TableRow
from artifactmount.private import make_folder
from artifactmount.sealed import FORMAT, seal, unseal

_LINE_LIMIT = 64 << 20
_ROW = struct.Struct("<32sIII")  # as a TableRow. Numbers as JSON took 5 ms a pack, in which nothing else of this process could run


class Journal:
    """The journal at `path`. Use as a context manager. Threads may share one. A disk that takes nothing in costs the resuming, no more."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._lock = threading.Lock()
        self.session: int | None = None
        self.next = 0  # the first number that was not reserved
        self.packs: dict[int, list[TableRow]] = {}

    @staticmethod
    def nowhere() -> Journal:
        """One that keeps nothing."""
        return Journal("")

    def __enter__(self) -> Journal:
        with contextlib.suppress(OSError):
            make_folder(os.path.dirname(self._path))
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return self
            self._descriptor = descriptor
            self._read()
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            if self.session is None:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        good = 0
        with open(os.dup(self._descriptor), "rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        raise CorruptError("a line that is cut short")
                    fields = unseal(line.removesuffix(b"\n"), _LINE_LIMIT, "a line of a journal")
                    self._take(fields)
                except NeedsNewerError:  # what a newer program wrote is its own
                    return
                except (CorruptError, KeyError, TypeError, ValueError, struct.error):
                    os.ftruncate(self._descriptor, good)  # what is written behind it would not be found again
                    return
                good += len(line)

    def _take(self, fields: dict[str, object]) -> None:
        match fields:
            case {"session": int(session)}:
                self.session = session
            case {"reserved": int(number)}:
                self.next = max(self.next, number + 1)
            case {"stored": int(number), "table": str(rows)}:
                self.packs[number] = [TableRow(*row) for row in _ROW.iter_unpack(bytes.fromhex(rows))]

    # -- writing -------------------------------------------------------------------------------------------------------------------
    def begin(self, session: int) -> None:
        """A session was opened: what was written down before is of no more use."""
        self.forget()
        self.session = session
        self._append({"session": session})

    def reserve(self, number: int) -> None:
        """The numbers of packs up to this one are about to be used."""
        self._append({"reserved": number})

    def stored(self, number: int, rows: Sequence[TableRow]) -> None:
        """The store has a pack, with this table of contents. Not durable before the next `reserve`: what is not found is stored again."""
        self._append({"stored": number, "table": b"".join(_ROW.pack(*row) for row in rows).hex()}, durably=False)

    def forget(self, *, durably: bool = False) -> bool:
        """The session ended. `durably`: whether nobody can go on with it, also after a power cut."""
        with self._lock:
            self.session, self.next, self.packs = None, 0, {}
            if self._descriptor < 0:
                return True
            try:
                os.ftruncate(self._descriptor, 0)
                if durably:
                    os.fsync(self._descriptor)
            except OSError:
                return False
            return True

    def _append(self, fields: dict[str, object], *, durably: bool = True) -> None:
        line = seal({"format": FORMAT, **fields}) + b"\n"
        with self._lock:
            if self._descriptor < 0 or self.session is None:
                return
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(self._descriptor, view) :]
                if durably:
                    os.fsync(self._descriptor)
            except OSError:
                # A number that is not written down must not be resumed behind: without a journal, the next run begins anew.
                self.session = None
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
