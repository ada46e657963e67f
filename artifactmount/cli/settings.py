"""Where the project and the cache are, as options, environment and config file say; and opening them. Prints nothing."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from artifactmount.cache import DEFAULT_BUDGET, Cache
from artifactmount.config import read_config
from artifactmount.errors import UsageError
from artifactmount.plain import PlainFormatter
from artifactmount.progress import Bar, Progress, Silent
from artifactmount.project import Project, default_cache, default_url, open_store, state_directory
from artifactmount.sources.access import Access, Sources

_SIZE = re.compile(r"(\d+)\s*([kKmMgGtT]?)(i?[bB]?)")
_SMALLEST_BUDGET = 32 << 20


class Settings:
    """What was said before the command."""

    def __init__(self, project: str | None, cache: str | None, cache_size: str | None) -> None:
        self._project, self._cache, self._size = project, cache, cache_size

    @property
    def url(self) -> str:
        """The project's place."""
        if self._project is not None:
            return named(self._project, "--project")
        return default_url(os.environ)

    @property
    def cache_path(self) -> str:
        """The cache's directory, absolute."""
        return os.path.realpath(os.path.expanduser(self._cache or default_cache(os.environ)))

    @property
    def budget(self) -> int:
        """The cache's budget in bytes. Raises UsageError."""
        text = self._size or os.environ.get("ARTIFACTMOUNT_CACHE_SIZE")
        return parse_size(text) if text else DEFAULT_BUDGET

    @property
    def state_directory(self) -> str:
        """Where pins and the daemons' records are."""
        return os.path.abspath(state_directory(os.environ))

    @contextmanager
    def open(self, *, create: bool = False) -> Iterator[Project]:
        """The project. `create`: make it when the place is empty."""
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(PlainFormatter("artifactmount: %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[lines])
        store = open_store(self.url)
        cache = Cache(self.cache_path, self.budget)
        try:
            yield Project(store, cache, self.state_directory, create=create)
        finally:
            cache.close()
            store.close()

    @contextmanager
    def sources(self) -> Iterator[Sources]:
        """Where references lead, as far as the config file allows."""
        sources = Sources(Access.of(read_config(os.environ).references))
        try:
            yield sources
        finally:
            sources.close()


def named(path: str, what: str) -> str:
    """`path`, or UsageError when it is empty: an unset variable must not mean the current folder."""
    if not path:
        raise UsageError(f"{what} is empty")
    return path


def parse_size(text: str) -> int:
    """Bytes of "64M", "64 MiB" (both 2^20) or "20GB" (10^9). Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a size: {text!r}; write for example 500M or 20G")
    base = 1000 if match[3] in ("b", "B") else 1024
    size: int = int(match[1]) * base ** ("kmgt".index(match[2].lower()) + 1 if match[2] else 0)
    if size < _SMALLEST_BUDGET:
        raise UsageError(f"a cache of {text} is too small; it takes at least 32M")
    return size


def progress() -> Progress:
    """A bar where somebody looks at stderr, else silence."""
    return Bar() if sys.stderr.isatty() else Silent()
