"""What protects a project where it is stored: on the way, at rest, and from whom. What the project itself encrypts is not known here."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from urllib.parse import urlsplit

from artifactmount.config import ServerSideEncryption
from artifactmount.errors import DeniedError, StoreError
from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.store.s3 import S3Store, is_loopback


@dataclass(frozen=True, slots=True)
class Protection:
    """Each a phrase for people: how bytes travel, how they lie, and who may read them. `warning`: what somebody should look at."""

    transport: str
    at_rest: str
    readers: str
    warning: str | None = None


def protection_of(store: Store) -> Protection:
    """What protects what is in `store`. A bucket is asked for its default encryption."""
    if isinstance(store, S3Store):
        return Protection(_transport(store.endpoint()), _at_rest(store), "whom the bucket lets; see `artifactmount policy`")
    if isinstance(store, FolderStore):
        return _of_folder(store.path)
    return Protection("none, it stays in this process", "none", "this process")


def _transport(endpoint: str) -> str:
    if urlsplit(endpoint).scheme == "https":
        bundle = os.environ.get("AWS_CA_BUNDLE")
        return "https, the server's certificate is checked" + (f" against {bundle}" if bundle else "")
    if is_loopback(endpoint):
        return "plain http, which does not leave this machine"
    return "plain http: whoever is on the way can read along (ARTIFACTMOUNT_ALLOW_HTTP=1)"


def _at_rest(store: S3Store) -> str:
    asked = f"{_named(store.sse)} asked for with every write" if store.sse else "nothing asked for (`sse` in the config file)"
    try:
        default = f"the bucket's default is {_named(store.default_encryption())}"
    except DeniedError:
        default = "the bucket's default may not be asked"
    except StoreError:
        default = "the bucket does not tell its default"
    return f"{asked}; {default}"


def _named(sse: ServerSideEncryption | None) -> str:
    if sse is None:
        return "none"
    return f"{sse.algorithm} with key {sse.kms_key}" if sse.kms_key else sse.algorithm


def _of_folder(path: str) -> Protection:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    transport, at_rest = "none, a folder (a network file system has its own)", "as the disk is: the folder adds nothing"
    if not mode & 0o077:
        return Protection(transport, at_rest, f"its owner and root (mode {mode:03o})")
    who = "every user of this machine" if mode & 0o007 else "its owner's group"
    return Protection(
        transport,
        at_rest,
        f"{who}, where the folders above let them (mode {mode:03o})",
        f"{path} is open to {who} (mode {mode:03o}); if that is not meant: chmod 700 {path}",
    )
