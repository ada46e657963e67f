"""A version's files by a path, without a copy: in a mount that is there already, or in one made for as long as it is needed."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artifactmount.api.opened import Opened
from artifactmount.errors import NotFoundError, RefusedError
from artifactmount.launch import Mount, start
from artifactmount.mountpoint import Record, find, unmount
from artifactmount.names import Reference


@contextmanager
def mounted(opened: Opened, reference: Reference) -> Iterator[str]:
    """The folder of a version. A mount of this user that shows the project is used, and stays; else one is made, and unmounted at the end.

    Raises NotFoundError when the version is not there; RefusedError when nothing can be mounted here.
    """
    present = find(opened.url, opened.settings.state_directory)
    path = "" if present is None else _within(present, reference)
    descriptor = _open(path) if path else None
    if descriptor is None:
        with _mounted_anew(opened) as mountpoint:
            path = _within(mountpoint, reference)
            if not os.path.isdir(path):
                raise NotFoundError(f"no version {reference} in {opened.url}")
            yield path
        return
    try:
        yield path
    finally:
        os.close(descriptor)


def _within(mountpoint: str, reference: Reference) -> str:
    return os.path.join(mountpoint, reference.artifact, reference.version or "latest")


def _open(path: str) -> int | None:
    """A descriptor of the folder, for as long as it is used: so nobody unmounts it without being told. None where it is not there."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


@contextmanager
def _mounted_anew(opened: Opened) -> Iterator[str]:
    settings = opened.settings
    mountpoint = os.path.realpath(tempfile.mkdtemp(prefix="artifactmount-"))
    try:
        daemon = start(Mount(opened.url, settings.cache_path, settings.budget, mountpoint, settings.state_directory), settings.keyring)
        try:
            yield mountpoint
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
