"""What the commands add to `artifactmount.settings`: questions on the terminal, warnings and a bar on stderr."""

from __future__ import annotations

import getpass
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import artifactmount.settings
from artifactmount.errors import UsageError
from artifactmount.keys import Keyring, NewKey
from artifactmount.plain import PlainFormatter
from artifactmount.progress import Bar, Progress, Silent
from artifactmount.project import Project
from artifactmount.settings import key_path as key_path
from artifactmount.settings import named as named


class Settings(artifactmount.settings.Settings):
    """What was said before the command."""

    def __init__(self, project: str | None, cache: str | None, cache_size: str | None, key_file: str | None = None) -> None:
        ask = _ask_for if sys.stdin is not None and sys.stdin.isatty() else None
        super().__init__(project, cache, cache_size, key_file, ask)

    @contextmanager
    def open(
        self, *, create: bool = False, keyring: Keyring | None = None, protect: NewKey | None = None, label: str = ""
    ) -> Iterator[Project]:
        """See Settings; warnings go to stderr."""
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(PlainFormatter("artifactmount: %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[lines])
        with super().open(create=create, keyring=keyring, protect=protect, label=label) as project:
            yield project


def _ask_for(url: str) -> str:
    return ask_passphrase(f"passphrase of {url}: ")


def ask_passphrase(prompt: str, *, twice: bool = False) -> str:
    """A passphrase, typed on the terminal and not shown. Raises UsageError when two are not the same."""
    text = getpass.getpass(prompt)
    if twice and getpass.getpass("the same again: ") != text:
        raise UsageError("the two passphrases differ; nothing was done")
    return text


def progress() -> Progress:
    """A bar where somebody looks at stderr, else silence."""
    return Bar() if sys.stderr.isatty() else Silent()
