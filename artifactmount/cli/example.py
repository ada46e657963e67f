"""`artifactmount example`: the files of artifactmount/share, with the path of this very installation in them."""

from __future__ import annotations

import os
import sys
from importlib import resources

import click

FILES = {"systemd": "artifactmount@.service", "fstab": "fstab", "docker": "Dockerfile", "kubernetes": "kubernetes.yaml"}
_WRITTEN = "/usr/local/bin/"  # where the files say that the programs are


@click.command(epilog="Example: artifactmount example systemd > ~/.config/systemd/user/artifactmount@.service")
@click.argument("what", type=click.Choice(list(FILES)))
def example(what: str) -> None:
    """Print a file to begin with: a systemd unit, a line of fstab, a container, a pod.

    Each says at its beginning what to do with it. The paths of the programs are those of this installation.
    """
    text = resources.files("artifactmount").joinpath("share", FILES[what]).read_text(encoding="utf-8")
    print(text.replace(_WRITTEN, _programs()), end="")


def _programs() -> str:
    """The folder where `artifactmount` is, with a slash behind: beside the Python that runs this, or where it was started from."""
    for beside in (sys.executable, os.path.abspath(sys.argv[0])):
        folder = os.path.join(os.path.dirname(beside), "")
        if os.access(folder + "artifactmount", os.X_OK):
            return folder
    return _WRITTEN
