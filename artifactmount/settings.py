"""Where the project and the cache are, as arguments, environment and config file say; and opening them. Prints nothing, asks nobody."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Self

from artifactmount.cache import DEFAULT_BUDGET, Cache
from artifactmount.config import read_config
from artifactmount.errors import RefusedError, UsageError
from artifactmount.keys import Keyring, NewKey
from artifactmount.project import Project, default_cache, default_url, open_store, same_place, state_directory
from artifactmount.sources.access import Access, Sources

_SIZE = re.compile(r"(\d+)\s*([kKmMgGtT]?)(i?[bB]?)")
_SMALLEST_BUDGET = 32 << 20


class Settings:
    """What was said of the project. `ask`: asks the user for the passphrase of the project at a URL, where there is somebody to ask."""

    def __init__(
        self,
        project: str | None = None,
        cache: str | None = None,
        cache_size: str | None = None,
        key_file: str | None = None,
        ask: Callable[[str], str] | None = None,
    ) -> None:
        self._project, self._cache, self._size, self._key_file, self._ask = project, cache, cache_size, key_file, ask

    @property
    def url(self) -> str:
        """The project's place."""
        if self._project is not None:
            return named(self._project, "--project")
        return default_url(os.environ)

    def at(self, url: str, what: str) -> Self:
        """The same, with the project at this URL, which is that of `what`. Raises RefusedError where another one was named."""
        if self._project is not None and not same_place(self.url, url):
            raise RefusedError(f"{what} is of the project {url}, not of {self.url}; leave --project out")
        there = copy(self)
        there._project = url
        return there

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

    @property
    def keyring(self) -> Keyring:
        """What opens the project if it is encrypted. A key of the config file is meant for the project named there, or for all where none
        is: for others it is tried, and they need not be encrypted."""
        file = self._key_file if self._key_file is None else named(self._key_file, "--key-file")
        file = file or os.environ.get("ARTIFACTMOUNT_KEY_FILE")
        passphrase = os.environ.get("ARTIFACTMOUNT_PASSPHRASE") or None
        kms = os.environ.get("ARTIFACTMOUNT_KMS_KEY_ID") or ""
        insists = file is not None or passphrase is not None or kms != ""
        if not insists:
            config = read_config(os.environ)
            file = config.key_file or None
            insists = file is not None and (not config.project or same_place(config.project, self.url))
        asking = self._ask
        ask = None if asking is None else lambda: asking(self.url)
        return Keyring(() if file is None else (key_path(file),), kms, passphrase, ask, insists)

    @contextmanager
    def open(
        self, *, create: bool = False, keyring: Keyring | None = None, protect: NewKey | None = None, label: str = ""
    ) -> Iterator[Project]:
        """The project. `create`: make it when the place is empty; encrypted, if there is a key to `protect` it, with a label."""
        process = os.getpid()
        store = open_store(self.url)
        cache = Cache(self.cache_path, self.budget)
        try:
            keyring = keyring or self.keyring
            yield Project(store, cache, self.state_directory, create=create, keyring=keyring, protect=protect, label=label)
        finally:
            if os.getpid() == process:  # a forked child that ends must not close its parent's, nor wait for locks of its parent's threads
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


def key_path(path: str) -> str:
    """The absolute path of a key file: a daemon has another working directory."""
    return os.path.abspath(os.path.expanduser(path))


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
