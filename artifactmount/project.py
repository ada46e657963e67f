"""A project: a place (an S3 prefix or a folder), its identity, and the newest known state of each of its artifacts.

Knows how places are named and configured. Must not know what is in a version.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TypeVar

from blake3 import blake3

from artifactmount.artifact import Artifact, Writer, continues, head
from artifactmount.cache import Cache
from artifactmount.catalog import Catalog
from artifactmount.config import base_folder, read_config
from artifactmount.crypto import KEY_LENGTH, PLAIN, Cipher, ProjectKey
from artifactmount.document import DOCUMENT_LIMIT, PROJECT_KEY, Identity, make_document, moment, read_document
from artifactmount.errors import (
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
from artifactmount.keys import NO_KEYS, Keyring, NewKey, add_slot, proven_slots, unlock
from artifactmount.keys import PREFIX as KEYS_PREFIX
from artifactmount.log import decode_checkpoint, encode_checkpoint
from artifactmount.mountpoint import check_apart, within
from artifactmount.names import check_artifact
from artifactmount.pins import Pins
from artifactmount.private import close_folder
from artifactmount.sealed import FORMAT
from artifactmount.state import NAME, State
from artifactmount.steps import drive
from artifactmount.store import Store, probe
from artifactmount.store.folder import FolderStore
from artifactmount.store.s3 import S3Store
from artifactmount.version import __version__

T = TypeVar("T")

_log = logging.getLogger(__name__)

_REFRESHES = 16
_NAMES_LIMIT = 1 << 20
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{2,254}")


class Project:
    """An open project. `create`: make it when the place is empty (a folder's first snapshot, or `init`); encrypted, where a key is given to
    `protect` it. `label`: of that key. `keyring`: what opens one that is encrypted."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        state_directory: str,
        *,
        create: bool = False,
        keyring: Keyring = NO_KEYS,
        protect: NewKey | None = None,
        label: str = "",
    ) -> None:
        self.store, self.cache, self.url = store, cache, store.url
        close_folder(state_directory, "state")
        self.pins, self._state_directory = Pins(store.place, state_directory), state_directory
        self.writer = Writer(_actor(), f"artifactmount/{__version__}", prepare=self.check_store)
        self._states: dict[str, State] = {}
        self._seen: set[str] = set()  # artifacts whose state this process has compared with the store
        self._catalogs: dict[str, Catalog] = {}
        self._probed = False
        self.created = False
        self._ciphers: dict[str, Cipher] = {}
        self._document, made_with = self._open(create, protect, keyring, label)
        identity = read_document(self._document)
        self.id, self.made, self.scheme, self.format = identity.id, identity.made, identity.scheme, FORMAT
        with suppress(OSError):  # it comes again below, and is said there
            self.pins.compare_project(identity.pinned)
        self.key = self._unlock(identity, keyring, protect, made_with)
        try:
            self.pins.check_project(identity.pinned)
        except OSError as error:
            self._cannot_remember(error)

    def _unlock(self, identity: Identity, keyring: Keyring, protect: NewKey | None, made_with: ProjectKey | None) -> ProjectKey | None:
        """The key of an encrypted project, which wrote this very project.json. None where nothing is encrypted, nor should be."""
        if identity.scheme is None:
            if protect is not None:
                raise RefusedError(f"{self.url} is a project already, and not encrypted; encryption is chosen when a project is made")
            if keyring.insists:
                raise RefusedError(
                    f"{self.url} is not encrypted, but a key was given: refused, as everything would be stored readable; "
                    "if that is right, leave the key out"
                )
            if keyring.given:
                _log.warning("%s is not encrypted; the key in the config file is for another project", self.url)
            return None
        key = made_with or unlock(self.store, identity.id, keyring)
        import hmac  # brings OpenSSL along: 3 ms of every command, of which one that has no key need not know

        if not hmac.compare_digest(key.mac(identity.proven), identity.mac):
            raise CorruptError(f"{self.url}: {PROJECT_KEY} was changed by somebody who has not the project's key: refused")
        return key

    def _open(self, create: bool, protect: NewKey | None, keyring: Keyring, label: str) -> tuple[bytes, ProjectKey | None]:
        """project.json; and the project's key, where it is made now."""
        try:
            return self.store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT), None
        except KeyMissingError:
            if not create:
                raise NotFoundError(f"no project at {self.url}; make one with `artifactmount --project {self.url} init`") from None
        if self.pins.known():
            raise ProjectMismatchError(
                f"{self.url} held a project before and is empty now: refused. If it was emptied on purpose, remove {self.pins.path}"
            )
        if any(not item.key.startswith(KEYS_PREFIX) for item in self.store.list_keys("", limit=1000)):
            try:
                return self.store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT), None  # somebody made it a moment ago
            except KeyMissingError:
                raise RefusedError(f"{self.url} is not empty, and holds no project; choose an empty place, or another prefix") from None
        if protect is None and keyring.insists:
            raise RefusedError(
                f"no project at {self.url}, and a key was given; make it with `artifactmount --project {self.url} init --encrypt`"
            )
        return self._create(protect, label)

    def _create(self, protect: NewKey | None, label: str) -> tuple[bytes, ProjectKey | None]:
        """Make the project; or, where somebody was faster, take theirs."""
        identity, key, slot = os.urandom(16).hex(), None, ""
        if protect is not None:  # the slot first: a project that nobody can open must never be there
            key = ProjectKey(os.urandom(KEY_LENGTH), identity)
            slot = add_slot(self.store, key, protect, self.about(label))
        document = make_document(identity, key)
        found = document if self.store.create(PROJECT_KEY, document) else self.store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT)
        self.created = found == document  # also where it is answered as existing: what lies between may have sent the request twice
        if self.created:
            return document, key
        if slot and read_document(found).id != identity:
            self.store.delete([KEYS_PREFIX + slot])
        return found, None

    def about(self, label: str) -> dict[str, str]:
        """What is remembered of a key slot that is made now."""
        return {"label": label, "actor": self.writer.actor, "created": moment()}

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
        if self.store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT) != self._document:
            raise ProjectMismatchError(f"{self.url}: {PROJECT_KEY} changed while it was in use")

    def key_problems(self) -> list[str]:
        """What is wrong with the key slots: a line each."""
        return [] if self.key is None else [str(error) for error in proven_slots(self.store, self.key)[1]]

    def artifact(self, name: str) -> Artifact:
        """The artifact of that name, whether it exists or not. Raises UsageError for a bad name."""
        if name not in self._ciphers:
            check_artifact(name)
            self._ciphers[name] = PLAIN if self.key is None else self.key.cipher(name)
        return Artifact(self.id, name, self._ciphers[name])

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

    def vanished(self, names: Collection[str]) -> list[str]:
        """Artifacts that this machine saw and that are not among these `names`: a log stays when all its versions are deleted."""
        try:
            missing = self.pins.artifacts().difference(names)
        except OSError as error:
            self._cannot_remember(error)
            return []
        return sorted(missing.difference(self.names())) if missing else []  # another process may have made one meanwhile

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

        Raises ProjectMismatchError when its history does not continue what was seen before; CorruptError.
        """
        known, first = self.known(name), name not in self._seen
        pin = self.pins.get(name) if first else None  # before the head: others advance it while this reads
        try:
            state = drive(self.store, head(self.artifact(name), known, prove=first))
        except ProjectMismatchError as error:
            raise ProjectMismatchError(f"{error}; if that is right, remove {self.pins.path} and {self.cache.path}") from None
        except CorruptError as error:
            raise CorruptError(f"{name}: {error}; `artifactmount verify {name}` says what else is wrong") from error
        # Where this machine saw what its cache knows, the head was read on from there.
        if (
            pin is not None
            and (known is None or pin != (known.seq, known.digest))
            and not drive(self.store, continues(self.artifact(name), state, *pin))
        ):
            raise ProjectMismatchError(
                f"{self.url}: the history of {name} does not continue what this machine saw (entry {pin[0]}): refused. "
                f"If that is right, remove {self.pins.path}"
            )
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
                    raise self.artifact(name).lost(state, missing) from missing
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

    def _state_key(self, name: str) -> bytes:
        return b"state" + blake3(f"{self.store.place} {self.id} {name}".encode()).digest()


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


def absolute(url: str) -> str:
    """The URL of the same place from any working directory."""
    return url if url.startswith("s3://") else open_store(url).url


def same_place(url: str, other: str) -> bool:
    """Whether two URLs lead to one place, however they are spelled. Asks no store. Raises UsageError."""
    first, second = (open_store(each).place for each in (url, other))
    return first == second or (os.path.isabs(first) and os.path.realpath(first) == os.path.realpath(second))


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
