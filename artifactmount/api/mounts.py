"""A version's files by a path, without a copy: in a mount that is there already, or in one made for as long as it is needed."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artifactmount.api.opened import Opened
from artifactmount.daemon import Mount, start
from artifactmount.errors import RefusedError
from artifactmount.mountpoint import Record, find, unmount
from artifactmount.names import Reference


@contextmanager
def mounted(opened: Opened, reference: Reference) -> Iterator[str]:
    """The folder of a version. A mount of this user that shows the project is used, and stays; else one is made, and unmounted at the end.

    Raises NotFoundError when the version is not there; RefusedError when nothing can be mounted here.
    """
    settings = opened.settings
    url = opened.url
    present = find(url, settings.state_directory)
    if present is not None:
        with _held(os.path.join(present, reference.artifact, reference.version or "latest")) as path:
            yield path
        return
    mountpoint = os.path.realpath(tempfile.mkdtemp(prefix="artifactmount-"))
    try:
        daemon = start(Mount(url, settings.cache_path, settings.budget, mountpoint, settings.state_directory), settings.keyring)
        try:
            yield os.path.join(mountpoint, reference.artifact, reference.version or "latest")
        finally:
            record = Record(mountpoint, settings.state_directory)
            try:
                unmount(mountpoint, record, lazy=False)
            except RefusedError:  # a file that the block left open must not keep the mount for ever
                unmount(mountpoint, record, lazy=True)
            # It is a child of this process, and somebody has to take note of its end, whenever that comes.
            threading.Thread(target=daemon.wait, daemon=True).start()
    finally:
        os.rmdir(mountpoint)


@contextmanager
def _held(path: str) -> Iterator[str]:
    """The path, open, so that nobody unmounts what is in use without being told."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield path
    finally:
        os.close(descriptor)
