"""Key slots: the project's key, wrapped for each user by a key of his own; and opening a project with what a user has.

A slot is one stored key, `keys/<id>`: made once, deleted when its key is removed (docs/format.md, "Key slot"). The store is not believed:
what a slot says it costs to open is bounded before it is done, and whoever has the project's key can check every byte of every slot.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from artifactmount import kms
from artifactmount.artifact import put
from artifactmount.crypto import KEY_LENGTH, ProjectKey, decrypt_once, derive, encrypt_once
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    KeyMissingError,
    LockedError,
    NeedsNewerError,
    NotFoundError,
    NotSentError,
    RefusedError,
    StoreError,
    UsageError,
)
from artifactmount.private import make_file, make_folder, read_file
from artifactmount.sealed import FORMAT, canonical, seal, unseal
from artifactmount.steps import GetMany, drive, perform
from artifactmount.store import Store

PREFIX = "keys/"
SLOT_LIMIT = 64
"""Slots that a project has at most, and that a passphrase is tried on: each that a store makes up costs 0.4 s."""
_READ, _LISTED = 4 * SLOT_LIMIT, 1000
_SLOT_BYTES = 1 << 14
_SALT_LENGTH = 32
_SLOT_CONTEXT = "artifactmount v1 key slot"
_ABOUT_CONTEXT = "artifactmount v1 key slot about"
_ID = re.compile(r"[0-9a-f]{16}")
_KEY_LINE = re.compile(r"artifactmount-key-1:([0-9a-f]{64})")
_FIELDS = {"project", "slot", "kind", "salt", "parameters", "wrapped", "about"}
LABEL_LIMIT = 100

#: scrypt: 128 MiB and 0.4 s. A slot may ask for less (tests do), and never for more.
SCRYPT_LOG_N = 17
_SCRYPT_LEAST = 14
_SCRYPT_R = 8
_SCRYPT_P = 1


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key that somebody remembers."""

    text: str = field(repr=False)
    log_n: int = SCRYPT_LOG_N

    kind = "passphrase"

    def begin(self, project_id: str) -> tuple[dict[str, Any], bytes]:
        """What a new slot says of this key (parameters), and the secret that goes into the wrapping."""
        if not self.text:
            raise UsageError("the passphrase is empty")
        parameters = {"kdf": "scrypt", "log_n": self.log_n, "r": _SCRYPT_R, "p": _SCRYPT_P, "kdf_salt": os.urandom(_SALT_LENGTH).hex()}
        return parameters, self.secret(parameters, project_id)

    def secret(self, parameters: Mapping[str, Any], project_id: str) -> bytes:
        """The same secret for the parameters of a slot. Raises CorruptError for costs beyond ours."""
        known = parameters.keys() == {"kdf", "log_n", "r", "p", "kdf_salt"} and parameters["kdf"] == "scrypt"
        if not known or (parameters["r"], parameters["p"]) != (_SCRYPT_R, _SCRYPT_P):
            raise CorruptError("a key slot with an unknown derivation")
        log_n = parameters["log_n"]
        if type(log_n) is not int or not _SCRYPT_LEAST <= log_n <= SCRYPT_LOG_N:
            raise CorruptError("a key slot that asks for another amount of work than it may")
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        text = unicodedata.normalize("NFC", self.text).encode("utf-8", "surrogateescape")
        salt = _hexadecimal(parameters["kdf_salt"], _SALT_LENGTH)
        return Scrypt(salt, KEY_LENGTH, 1 << log_n, _SCRYPT_R, _SCRYPT_P).derive(text)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key in a file."""

    path: str

    kind = "file"

    def begin(self, project_id: str) -> tuple[dict[str, Any], bytes]:
        """See Passphrase. The file is made when it is missing."""
        if not os.path.lexists(self.path):  # on the disk before anything is encrypted with it
            try:
                make_file(self.path, f"artifactmount-key-1:{os.urandom(KEY_LENGTH).hex()}\n".encode())
            except OSError as error:
                raise RefusedError(f"cannot make the key file {self.path}: {error.strerror}") from None
        return {}, self.secret({}, project_id)

    def secret(self, parameters: Mapping[str, Any], project_id: str) -> bytes:
        """See Passphrase. Raises LockedError when the file cannot be read, RefusedError when others can read it, too."""
        if parameters:
            raise CorruptError("a key slot of a file with parameters")
        return read_key_file(self.path)


@dataclass(frozen=True, slots=True)
class KmsKey:
    """A key in AWS KMS, by its ARN or id (a new slot's also by an alias). Empty: whichever a slot names."""

    key_id: str = ""

    kind = "kms"

    def begin(self, project_id: str) -> tuple[dict[str, Any], bytes]:
        """See Passphrase."""
        secret = os.urandom(KEY_LENGTH)
        arn, ciphertext = kms.encrypt(self.key_id, secret, project_id)
        return {"key": arn, "ciphertext": ciphertext.hex()}, secret

    def secret(self, parameters: Mapping[str, Any], project_id: str) -> bytes:
        """See Passphrase. Raises LockedError, DeniedError and others, as KMS answers."""
        arn = parameters.get("key")
        found = kms.ARN.fullmatch(arn) if isinstance(arn, str) and parameters.keys() == {"key", "ciphertext"} else None
        if found is None:
            raise CorruptError("a key slot of KMS with other parameters")
        if "alias/" in self.key_id:
            raise UsageError(f"{self.key_id} may lead to any key: name the KMS key by its ARN (or id)")
        if self.key_id not in ("", found[0], found[1]):
            raise CorruptError("a key slot of another KMS key")
        return kms.decrypt(found[0], _hexadecimal(parameters["ciphertext"]), project_id)


NewKey = Passphrase | KeyFile | KmsKey


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as it is stored. `about` is encrypted: who holds it is nobody else's business."""

    id: str
    kind: str
    salt: bytes
    parameters: dict[str, Any]
    wrapped: bytes
    about: bytes
    project_id: str

    def _bound(self) -> bytes:
        """What the wrapping proves beside the key."""
        fields = {"project": self.project_id, "slot": self.id, "kind": self.kind, "salt": self.salt.hex(), "parameters": self.parameters}
        return canonical(fields)

    @staticmethod
    def make(key: ProjectKey, kind: str, parameters: dict[str, Any], secret: bytes, about: Mapping[str, str]) -> Slot:
        """A new slot with the project's key in it. Its salt is drawn here and nowhere else, so both wrapping keys are new."""
        slot = Slot(os.urandom(8).hex(), kind, os.urandom(_SALT_LENGTH), parameters, b"", b"", key.project_id)
        wrapped = encrypt_once(derive(_SLOT_CONTEXT, secret, slot.salt), key.raw, slot._bound())
        hidden = encrypt_once(derive(_ABOUT_CONTEXT, key.raw, slot.salt), canonical(about), slot._bound() + wrapped)
        return replace(slot, wrapped=wrapped, about=hidden)

    def unwrap(self, secret: bytes) -> bytes:
        """The project's key. Raises CorruptError when this is not the slot's secret, or the slot is not as it was made."""
        return decrypt_once(derive(_SLOT_CONTEXT, secret, self.salt), self.wrapped, self._bound(), f"key slot {self.id}")

    def facts(self, key: ProjectKey) -> dict[str, str]:
        """Its kind, label, and who made it when. Raises CorruptError unless every byte of it is as it was made."""
        what = f"key slot {self.id}"
        plain = decrypt_once(derive(_ABOUT_CONTEXT, key.raw, self.salt), self.about, self._bound() + self.wrapped, what)
        about: dict[str, str] = json.loads(plain)
        return {"id": self.id, "kind": self.kind, **about}

    def encode(self) -> bytes:
        """The stored bytes."""
        fields = {"format": FORMAT, "project": self.project_id, "slot": self.id, "kind": self.kind, "parameters": self.parameters}
        return seal(fields | {"salt": self.salt.hex(), "wrapped": self.wrapped.hex(), "about": self.about.hex()})

    @staticmethod
    def decode(data: bytes, slot_id: str) -> Slot:
        """Raises CorruptError, NeedsNewerError."""
        fields = unseal(data, _SLOT_BYTES, f"key slot {slot_id}")
        if fields.keys() != _FIELDS or fields["slot"] != slot_id or not isinstance(fields["parameters"], dict):
            raise CorruptError(f"key slot {slot_id} is not what must lie in its place")
        if not isinstance(fields["kind"], str) or not isinstance(fields["project"], str):
            raise CorruptError(f"key slot {slot_id} is not what must lie in its place")
        wrapped, about = _hexadecimal(fields["wrapped"]), _hexadecimal(fields["about"])
        salt = _hexadecimal(fields["salt"], _SALT_LENGTH)
        return Slot(slot_id, fields["kind"], salt, fields["parameters"], wrapped, about, fields["project"])


@dataclass(frozen=True, slots=True)
class Keyring:
    """What a user has to open an encrypted project with. `ask` asks for a passphrase on a terminal, once. `insists`: a key was given for
    this very project, so one that is not encrypted is refused: it may have been put in the place of the real one."""

    files: tuple[str, ...] = ()
    kms: str = ""
    passphrase: str | None = field(default=None, repr=False)
    ask: Callable[[], str] | None = None
    insists: bool = False

    def candidates(self, kinds: set[str]) -> Iterator[NewKey]:
        """The keys to try, the cheapest first; for slots of these kinds."""
        if "file" in kinds:
            yield from map(KeyFile, self.files)
        if "passphrase" in kinds and self.passphrase is not None:
            yield Passphrase(self.passphrase)
        if "kms" in kinds and (self.kms or not self.given):
            yield KmsKey(self.kms)
        if not self.given and "passphrase" in kinds and self.ask is not None:
            yield Passphrase(self.ask())

    @property
    def given(self) -> bool:
        """Whether there is a key, without asking for one."""
        return bool(self.files or self.kms) or self.passphrase is not None


NO_KEYS = Keyring()


# -- slots in a store ------------------------------------------------------------------------------------------------------------------
def stored_slots(store: Store, project_id: str) -> tuple[list[Slot], list[ArtifactError]]:
    """The slots of a project, and what is wrong with those that cannot be read. What an `init` that failed left behind is neither.
    Raises StoreError where the store does not answer: that says nothing of the slots."""
    listed = [item.key for item in store.list_keys(PREFIX, limit=_LISTED)]
    keys = [key for key in listed if _ID.fullmatch(key.removeprefix(PREFIX))]
    slots: list[Slot] = []
    problems: list[ArtifactError] = [CorruptError(f"{key} is no key slot") for key in listed if key not in keys]
    if len(listed) == _LISTED or len(keys) > _READ:
        problems.insert(0, CorruptError(f"there is more below {PREFIX} than the {_READ} slots that are read"))
    keys = keys[:_READ]
    for key, data in zip(keys, perform(store, GetMany(tuple(keys), _SLOT_BYTES + 1)) if keys else (), strict=True):
        if data is None:
            continue  # removed a moment ago
        try:
            slot = Slot.decode(data, key.removeprefix(PREFIX))
        except (CorruptError, NeedsNewerError) as error:
            problems.append(error)
            continue
        if slot.project_id == project_id:
            slots.append(slot)
    return slots, problems


def proven_slots(store: Store, key: ProjectKey) -> tuple[list[tuple[Slot, dict[str, str]]], list[ArtifactError]]:
    """The slots that whoever has the project's key made, each with its facts; and what is wrong with the others. Whoever may create keys
    in the store can put there what looks like a slot: what is not proven opens nothing, so it does not count."""
    slots, problems = stored_slots(store, key.project_id)
    proven: list[tuple[Slot, dict[str, str]]] = []
    for slot in slots:
        try:
            proven.append((slot, slot.facts(key)))
        except CorruptError as error:
            problems.append(error)
    return proven, problems


def add_slot(store: Store, key: ProjectKey, new: NewKey, about: Mapping[str, str]) -> str:
    """Wrap a project's key for one more; returns the slot's id. Raises RefusedError when there are too many, StoreError."""
    if len(about.get("label", "")) > LABEL_LIMIT:
        raise UsageError(f"a label has at most {LABEL_LIMIT} characters")
    if len(proven_slots(store, key)[0]) >= SLOT_LIMIT:
        raise RefusedError(f"a project has at most {SLOT_LIMIT} keys; remove one with `artifactmount key remove ID`")
    parameters, secret = new.begin(key.project_id)
    while True:
        slot = Slot.make(key, new.kind, parameters, secret, about)
        if drive(store, put(PREFIX + slot.id, slot.encode())):
            return slot.id


def remove_slot(store: Store, key: ProjectKey, slot_id: str, aside: str) -> None:
    """Delete a slot; also one that is damaged or forged. `aside`: a folder for a copy of it, until it is known that another one remains.

    Raises NotFoundError; RefusedError for the last one that opens the project; StoreError.
    """
    proven = {slot.id: slot for slot, _ in proven_slots(store, key)[0]}
    found = proven.get(slot_id)
    if found is None:
        if not _ID.fullmatch(slot_id) or not _exists(store, PREFIX + slot_id):
            raise NotFoundError(f"no key {slot_id}; `artifactmount key list` lists what there is")
        store.delete([PREFIX + slot_id])
    elif len(proven) == 1 or not _delete_slot(store, key, found, aside):
        raise RefusedError(f"{slot_id} is the project's last key: without it nobody could read anything; add another one first")


def _delete_slot(store: Store, key: ProjectKey, slot: Slot, aside: str) -> bool:
    """Whether another one remains; else the slot is put back. Two who remove each other's at the same time both look afterwards."""
    name, copy = PREFIX + slot.id, os.path.join(aside, f"{key.project_id}-{slot.id}")
    make_folder(aside)
    with suppress(FileNotFoundError):
        os.unlink(copy)  # of a removal that was killed
    make_file(copy, slot.encode())
    try:
        store.delete([name])
    except NotSentError:
        os.unlink(copy)
        raise
    try:
        others = proven_slots(store, key)[0]
        if not others and not drive(store, put(name, slot.encode())):
            raise StoreError(f"{name} holds something else")
    except ArtifactError as error:
        raise StoreError(
            f"{error}; it may have been the last key that was removed: copy {copy} to {name} in the store if no key opens the project"
        ) from error
    os.unlink(copy)
    return bool(others)


def _exists(store: Store, key: str) -> bool:
    try:
        store.get(key, 0, 1)
    except KeyMissingError:
        return False
    return True


def unlock(store: Store, project_id: str, keyring: Keyring) -> ProjectKey:
    """The key of a project, from any of its slots that a key of the user's opens.

    Raises LockedError when none does, or there is none; CorruptError and NeedsNewerError when a slot that cannot be read may be the one.
    """
    slots, problems = stored_slots(store, project_id)
    tried, failure = False, None
    for candidate in keyring.candidates({slot.kind for slot in slots}):
        tried = True
        fitting = [slot for slot in slots if slot.kind == candidate.kind]
        if candidate.kind != "file" and len(fitting) > SLOT_LIMIT:  # a file costs nothing
            problems.insert(0, CorruptError(f"{len(fitting) - SLOT_LIMIT} of the kind {candidate.kind} were not tried"))
            del fitting[SLOT_LIMIT:]
        for slot in fitting:
            try:
                return ProjectKey(slot.unwrap(candidate.secret(slot.parameters, project_id)), project_id)
            except CorruptError:
                continue  # another's slot, or a damaged one
            except (StoreError, NotFoundError, LockedError) as error:
                if candidate.kind != "kms":
                    raise
                failure = error  # another KMS key may answer, or a passphrase be known
    if failure is not None:
        raise failure
    if problems:
        newer = next((error for error in problems if isinstance(error, NeedsNewerError)), None)
        raise newer or CorruptError(f"{store.url} is encrypted, no key opens it, and key slots are damaged or too many: {problems[0]}")
    if not slots:
        raise CorruptError(f"{store.url} is encrypted, and every key slot ({PREFIX}) is missing from the store")
    if tried or keyring.given:
        raise LockedError(f"{store.url} is encrypted, and this key does not open it; nothing was done")
    raise LockedError(
        f"{store.url} is encrypted: give its key with --key-file FILE, ARTIFACTMOUNT_KEY_FILE, ARTIFACTMOUNT_PASSPHRASE, "
        "ARTIFACTMOUNT_KMS_KEY_ID, or key-file in the config file"
    )


# -- key files -------------------------------------------------------------------------------------------------------------------------
def read_key_file(path: str) -> bytes:
    """The 32 bytes in a key file. Raises LockedError; RefusedError when others than its owner may read it."""
    try:
        text = read_file(path, 1024)
    except OSError as error:
        raise LockedError(f"cannot read the key file {path}: {error.strerror}") from None
    found = _KEY_LINE.fullmatch(text.decode("ascii", "replace").strip())
    if found is None:
        raise LockedError(f"{path} is no key file; one holds a line artifactmount-key-1:… as `artifactmount init --encrypt` wrote it")
    return bytes.fromhex(found[1])


def _hexadecimal(value: Any, length: int | None = None) -> bytes:
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise CorruptError("a key slot with bad hex digits") from None
    if found.hex() != value or (length is not None and len(found) != length):
        raise CorruptError("a key slot with bad hex digits")
    return found
