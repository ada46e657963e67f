"""What a folder's owner wants left out of its versions: `.artifactignore` files, in git's syntax. Knows no staging folder.

As with git, a file in a folder speaks for what lies below it, the deepest one that says anything decides, and nothing is taken back from
below a folder that is left out as a whole.
"""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING

from artifactmount.errors import StagingError
from artifactmount.rows import path_of, show_path, split_key

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = b".artifactignore"
#: A file of patterns may have this many bytes: each is tried on each path.
IGNORE_LIMIT = 1 << 20


class IgnoreRules:
    """The rules found so far on a walk from the top: those of a folder MUST be added before what lies in it is asked for."""

    def __init__(self) -> None:
        self._by_folder: dict[bytes, GitIgnoreSpec] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._by_folder)

    def add(self, key: bytes, content: bytes) -> None:
        """The content of the ignore file in the folder of this key. Raises StagingError for what is no pattern."""
        from pathspec import GitIgnoreSpec  # 15 ms, and most folders have no such file

        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")  # git, too, takes no mark for a part of a pattern
        try:
            self._by_folder[key] = GitIgnoreSpec.from_lines(line.removesuffix("\r") for line in text.split("\n"))
        except ValueError as error:
            raise StagingError(f"{show_path(path_of(key, IGNORE_FILE))}: {error}; nothing was committed") from error

    def ignores(self, key: bytes, name: bytes, *, folder: bool) -> bool:
        """Whether a path is to be left out; of one below a folder that is, the answer means nothing."""
        if not self._by_folder:
            return False
        path = os.fsdecode(name) + ("/" if folder else "")
        while True:
            rules = self._by_folder.get(key)
            decision = None if rules is None else rules.check_file(path).include
            if decision is not None:
                return decision
            if not key:
                return False
            key, last = split_key(key)
            path = f"{os.fsdecode(last)}/{path}"
