"""A project: a place (an S3 prefix or a folder), its identity, and the newest known state of each of its artifacts.

Knows how places are named and configured. Must not know what is in a version.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from blake3 import blake3

import artifactmount
from artifactmount.artifact import Artifact, Writer, head
from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.config import base_folder, read_config
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    DeniedError,
    KeyMissingError,
    NeedsNewerError,
    NotFoundError,
    ProjectMismatchError,
    RefusedError,
    StoreError,
    UsageError,
)
from artifactmount.journal import Journal
from artifactmount.log import ENTRY_LIMIT, decode_checkpoint, encode_checkpoint
from artifactmount.mountpoint import check_apart, within
from artifactmount.names import check_artifact
from artifactmount.pins import Pins
from artifactmount.private import close_folder
from artifactmount.sealed import FORMAT, seal
from artifactmount.state import NAME, State
from artifactmount.steps import drive
from artifactmount.store import Store, probe
from artifactmount.store.folder import FolderStore
from artifactmount.store.s3 import S3Store

T = TypeVar("T")

_log = logging.getLogger(__name__)

PROJECT_KEY = "project.json"
_REFRESHES = 16
_NAMES_LIMIT = 1 << 20
_DOCUMENT_LIMIT = 1 << 16
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{2,254}")
_IDENTITY = re.compile(r"[0-9a-f]{32}")


class Project:
    """An open project. `create`: make it when the place is empty (a folder's first snapshot, or `init`)."""

    def __init__(self, store: Store, cache: Cache, state_directory: str, *, create: bool = False) -> None:
        self.store, self.cache, self.url = store, cache, store.url
        close_folder(state_directory, "state")
        self.pins, self._state_directory = Pins(store.place, state_directory), state_directory
        self.writer = Writer(_actor(), f"artifactmount/{artifactmount.__version__}", prepare=self.check_store)
        self._states: dict[str, State] = {}
        self._seen: set[str] = set()  # artifacts whose state this process has compared with the store
        self._catalogs: dict[str, Catalog] = {}
        self._probed = False
        self.created = False
        self._document = self._open(create)
        self.id, self.made = _identity(self._document)
        self.format = FORMAT
        try:
            self.pins.check_project(self.id)
        except OSError as error:
            self._cannot_remember(error)

    def _open(self, create: bool) -> bytes:
        try:
            return self.store.get(PROJECT_KEY, 0, _DOCUMENT_LIMIT)
        except KeyMissingError:
            if not create:
                raise NotFoundError(f"no project at {self.url}; make one with `artifactmount --project {self.url} init`") from None
        if self.pins.known():
            raise ProjectMismatchError(
                f"{self.url} held a project before and is empty now: refused. If it was emptied on purpose, remove {self.pins.path}"
            )
        if self.store.list_keys("", limit=1):
            try:
                return self.store.get(PROJECT_KEY, 0, _DOCUMENT_LIMIT)  # somebody made it a moment ago
            except KeyMissingError:
                raise RefusedError(f"{self.url} is not empty, and holds no project; choose an empty place, or another prefix") from None
        document = _document()
        self.created = self.store.create(PROJECT_KEY, document)
        return document if self.created else self.store.get(PROJECT_KEY, 0, _DOCUMENT_LIMIT)

    def check_store(self) -> None:
        """Once per process: make sure this store refuses to overwrite. Raises RefusedError for one that would not."""
        if not self._probed:
            probe(self.store, PROJECT_KEY, self._document)
            self._probed = True

    def check_may_delete(self, name: str) -> None:
        """Ask the store to delete a key that is never there: before a commit says of something that it is gone. Raises DeniedError."""
        try:
            self.store.delete([f"{self.artifact(name).prefix}data/none"])
        except DeniedError as error:
            raise DeniedError(f"these credentials may not delete what {name} has stored, so nothing was done ({error})") from error

    def check_apart(self, path: str) -> None:
        """Refuse a folder of the user's (absolute, links resolved) that is a part of the project or the cache, or of a mount."""
        check_apart(path)
        for what, own in (("project", self.store.place), ("cache", self.cache.path)):
            if os.path.isabs(own) and within(path, os.path.realpath(own)):
                raise RefusedError(f"{path} lies in the {what} folder {own}; choose another one")

    def check_document(self) -> None:
        """Read project.json again. Raises CorruptError when it is damaged, ProjectMismatchError when it is another."""
        if self.store.get(PROJECT_KEY, 0, _DOCUMENT_LIMIT) != self._document:
            raise ProjectMismatchError(f"{self.url}: {PROJECT_KEY} changed while it was in use")

    def artifact(self, name: str) -> Artifact:
        """The artifact of that name, whether it exists or not. Raises UsageError for a bad name."""
        return Artifact(self.id, check_artifact(name))

    def names(self) -> list[str]:
        """All artifacts of the project, in order. What stands there with a name no artifact can have is not ours."""
        found: list[str] = []
        after = ""
        while True:
            listed = self.store.list_prefixes("artifacts/", after)
            page = [name for name in listed if name > after]  # what stands before was listed: such a listing would have no end
            found += (name for name in page if NAME.fullmatch(name))
            if len(found) > _NAMES_LIMIT:
                raise StoreError(f"{self.url} lists more than {_NAMES_LIMIT} artifacts")
            if len(page) < 1000:
                return sorted(set(found))
            after = max(page)

    def known(self, name: str) -> State | None:
        """The newest state this process or the cache knows, without asking the store."""
        state = self._states.get(name)
        if state is None and (cached := self.cache.state_get(self._state_key(name))) is not None:
            try:
                state = self._states[name] = decode_checkpoint(cached)
            except (CorruptError, NeedsNewerError):
                return None
        return state

    def proven(self, name: str) -> State | None:
        """The newest state that this process has compared with the store. Asks nothing, reads nothing."""
        return self._states.get(name) if name in self._seen else None

    def refresh(self, name: str) -> State:
        """The newest state of an artifact; seq is −1 when it does not exist. One request when there is nothing new.

        Raises ProjectMismatchError when its history does not continue what was seen before.
        """
        known, first = self.known(name), name not in self._seen
        pin = self.pins.get(name) if first else None  # before the head: others advance it while this reads
        try:
            state = drive(self.store, head(self.artifact(name), known, prove=first))
        except ProjectMismatchError as error:
            raise ProjectMismatchError(f"{error}; if that is right, remove {self.pins.path} and {self.cache.path}") from None
        if pin is not None:
            self._check_pin(name, state, *pin)
        self._seen.add(name)
        if known is None or state.seq != known.seq:
            self.remember(name, state)
        return state

    def existing(self, name: str) -> State:
        """`refresh`, or NotFoundError when the artifact has no version."""
        state = self.refresh(name)
        if not state.versions:
            raise NotFoundError(f"no artifact {name} in {self.url}; `artifactmount ls` lists what there is")
        return state

    def reading(self, name: str, work: Callable[[State], T], state: State | None = None) -> T:
        """What `work` reads in a state of an artifact (the newest); in a newer one when what it names was deleted or moved meanwhile.

        Raises what `work` raises; CorruptError when the newest state names what is not there.
        """
        state = state or self.existing(name)
        for _ in range(_REFRESHES):
            try:
                return work(state)
            except KeyMissingError as missing:
                newer = self.refresh(name)
                if newer.seq == state.seq:
                    raise CorruptError(f"{name}: {missing}") from missing
                state = newer
        raise StoreError(f"{name} changed {_REFRESHES} times while it was read; run the command again")

    def remember(self, name: str, state: State) -> None:
        """Keep a newer state, in the cache and as a pin. It MUST continue one that `refresh` gave."""
        if state.seq < 0:
            return
        newest = self._states.get(name)
        if newest is not None and newest.seq > state.seq:
            return  # another thread was faster
        self._states[name] = state
        if newest is not None:
            with suppress(ArtifactError):  # what cannot be looked up now is left to the eviction
                self.catalog(name).forget_dead(newest, state, chunks=not isinstance(self.store, FolderStore))
        self.cache.state_put(self._state_key(name), encode_checkpoint(state))
        try:
            self.pins.advance(name, state.seq, state.digest)
        except OSError as error:  # what was committed is committed
            self._cannot_remember(error)

    def _cannot_remember(self, error: OSError) -> None:
        _log.warning("what was seen of the project cannot be remembered in %s: %s", self.pins.path, error.strerror)

    def journal(self, name: str, staging: bytes) -> Journal:
        """The journal of snapshots of a staging folder (its key) into an artifact."""
        which = blake3(f"{self.store.place} {self.id} {name} ".encode("utf-8", "surrogateescape") + staging).hexdigest()[:32]
        return Journal(os.path.join(self._state_directory, "journals", which))

    def catalog(self, name: str) -> Catalog:
        """The runs and tables of an artifact."""
        if name not in self._catalogs:
            self._catalogs[name] = Catalog(self.store, self.cache, self.artifact(name))
        return self._catalogs[name]

    def _check_pin(self, name: str, state: State, seq: int, digest: bytes) -> None:
        if state.seq > seq:
            digest_now = blake3(self.store.get(self.artifact(name).log_key(seq), 0, ENTRY_LIMIT + 1)).digest()
        else:
            digest_now = state.digest if state.seq == seq else b""
        if digest_now != digest:
            raise ProjectMismatchError(
                f"{self.url}: the history of {name} does not continue what this machine saw (entry {seq}): refused. "
                f"If that is right, remove {self.pins.path}"
            )

    def _state_key(self, name: str) -> bytes:
        return b"state" + blake3(f"{self.store.place} {self.id} {name}".encode()).digest()


def _document() -> bytes:
    fields = {
        "format": FORMAT,
        "id": os.urandom(16).hex(),
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "encryption": None,
    }
    return seal(fields)


def _identity(document: bytes) -> tuple[str, str]:
    """The project's id, and when it was made. Raises CorruptError, NeedsNewerError."""
    try:
        fields = json.loads(document)
        if seal({key: value for key, value in fields.items() if key != "check"}) != document:
            raise CorruptError(f"{PROJECT_KEY} is damaged: its checksum is wrong")
        if json.dumps(fields["format"]) != str(FORMAT) or fields.get("encryption") is not None:
            raise NeedsNewerError("this project needs a newer artifactmount")
        identity, made = fields["id"], fields["created"]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{PROJECT_KEY} is damaged: {error}") from None
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity) or not isinstance(made, str):
        raise CorruptError(f"{PROJECT_KEY} is damaged: its fields are not what they must be")
    return identity, made


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def open_store(url: str) -> Store:
    """The store behind a project URL: `s3://bucket/prefix`, or a folder."""
    if url.startswith("s3://"):
        bucket, _, prefix = url[len("s3://") :].partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"no bucket's name in {url!r}; write s3://bucket/prefix")
        return S3Store(bucket, prefix.strip("/"), sse=read_config(os.environ).sse)
    path = url.removeprefix("file://")
    if "://" in path:
        raise UsageError(f"cannot open {url!r}: a project is s3://bucket/prefix or a folder")
    return FolderStore(os.path.abspath(os.path.expanduser(path)))


def default_url(environment: Mapping[str, str]) -> str:
    """The project when none is named: the environment's, the config file's, or the embedded default folder."""
    if url := environment.get("ARTIFACTMOUNT_PROJECT"):
        return url
    return read_config(environment).project or os.path.join(base_folder(environment, "XDG_DATA_HOME", ".local/share"), "artifactmount")


def default_cache(environment: Mapping[str, str]) -> str:
    """The cache directory when none is named."""
    return environment.get("ARTIFACTMOUNT_CACHE") or os.path.join(base_folder(environment, "XDG_CACHE_HOME", ".cache"), "artifactmount")


def state_directory(environment: Mapping[str, str]) -> str:
    """Where pins and the daemon's records live: what must survive a cleared cache."""
    return os.path.join(base_folder(environment, "XDG_STATE_HOME", ".local/state"), "artifactmount")
