"""`artifactmount example`: the files of artifactmount/share, with the path of this very installation in them."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from importlib import resources

import click

from artifactmount.errors import RefusedError

FILES = {"systemd": "artifactmount@.service", "fstab": "fstab", "docker": "Dockerfile", "kubernetes": "kubernetes.yaml"}
_WRITTEN = "/usr/local/bin/"  # where the files say that the programs are
_IMPOSSIBLE = re.compile(r"[\"'\\\x00-\x1f\x7f]")
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]*")


@click.command(epilog="Example: artifactmount example systemd > ~/.config/systemd/user/artifactmount@.service")
@click.argument("what", type=click.Choice(list(FILES)))
def example(what: str) -> None:
    """Print a file to begin with: a systemd unit, a line of fstab, a container, a pod.

    Each says at its beginning what to do with it. The paths of the programs are those of this installation.
    """
    text = resources.files("artifactmount").joinpath("share", FILES[what]).read_text(encoding="utf-8")
    quoted: Callable[[str], str] = _in_a_unit if what == "systemd" else shlex.quote
    programs = _programs()
    print(re.sub(re.escape(_WRITTEN) + r"[\w.]+", lambda found: quoted(programs + found[0].removeprefix(_WRITTEN)), text), end="")


def _in_a_unit(path: str) -> str:
    """A program's path as systemd reads it. Raises RefusedError for one that it starts no program from, however it is written."""
    if _IMPOSSIBLE.search(path):
        raise RefusedError(f"systemd starts no program with a quote, a backslash or a control character in its path: {path!r}")
    return path if _PLAIN.fullmatch(path) else '"' + path.replace("%", "%%") + '"'


def _programs() -> str:
    """The folder where `artifactmount` is, with a slash behind: beside the Python that runs this, or where it was started from."""
    for beside in (sys.executable, os.path.abspath(sys.argv[0])):
        folder = os.path.join(os.path.dirname(beside), "")
        if os.access(folder + "artifactmount", os.X_OK):
            return folder
    return _WRITTEN
