"""The project and the store it lies in: reached, opened, and asked for what everything rests on.

It is opened with a memory of its own that is thrown away, so that who looks at the wrong place has not decided that it is the right one.
One thing is written at most: project.json is created again with the bytes it has, as the first write of every process does. A store that is
right refuses that, and these credentials may not be allowed to; either way nothing changes.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

from artifactmount.cache import Cache
from artifactmount.doctor import Finding, ok, problem, warning
from artifactmount.document import DOCUMENT_LIMIT, PROJECT_KEY, read_document
from artifactmount.errors import (
    ArtifactError,
    DeniedError,
    KeyMissingError,
    LockedError,
    NotFoundError,
    ProjectMismatchError,
    RefusedError,
    StoreError,
    UnreachableError,
)
from artifactmount.pins import Pins
from artifactmount.project import Project, open_store
from artifactmount.protection import protection_of
from artifactmount.settings import Settings
from artifactmount.store import Store
from artifactmount.store.folder import FolderStore
from artifactmount.store.s3 import S3Store

#: Seconds. S3 refuses what was signed more than 15 minutes ago, or in 15 minutes' time.
_SKEW, _REFUSED_SKEW = 60, 900
_EXPIRED = re.compile(r"ExpiredToken|\bexpired\b|\bSSO\b")


def project(settings: Settings) -> Iterator[Finding]:
    """The place that is configured, from the outside in; what lies behind a problem is not looked at."""
    try:
        store = open_store(settings.url)
    except ArtifactError as error:
        yield problem("project", str(error), "name a project: --project URL, or ARTIFACTMOUNT_PROJECT")
        return
    try:
        finding, failure = _reach(store)
        yield finding
        if isinstance(store, S3Store) and (failure is None or isinstance(failure, DeniedError | KeyMissingError)):  # a clock may be why
            yield from _clock(store)
        if failure is None or isinstance(failure, KeyMissingError):
            yield from _protection(store)
        if failure is None:
            yield from _inside(store, settings)
    finally:
        store.close()


def _protection(store: Store) -> Iterator[Finding]:
    """How bytes travel, and who else may read a folder."""
    if isinstance(store, FolderStore) and not os.path.isdir(store.path):
        return
    try:
        protection = protection_of(store)
    except (ArtifactError, OSError):
        return
    if protection.warning:
        yield warning("protection", f"{store.url}: read by {protection.readers}", protection.warning)
    elif protection.transport.startswith("plain http:"):
        yield warning("protection", protection.transport, "use an https endpoint")
    else:
        yield ok("protection", f"in transit: {protection.transport}; read by: {protection.readers}")


def _clock(store: S3Store) -> Iterator[Finding]:
    """This machine's clock against the server's."""
    try:
        before = time.time()
        theirs = store.clock()
        skew = (before + time.time()) / 2 - theirs
    except ArtifactError:
        return
    said = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    mend = "let it follow a time server: timedatectl set-ntp true"
    if abs(skew) > _REFUSED_SKEW:
        yield problem("clock", f"{said}; requests are refused from 15 minutes on", mend)
    elif abs(skew) > _SKEW:
        yield warning("clock", said, mend)
    else:
        yield ok("clock", "agrees with the server's")


def _reach(store: Store) -> tuple[Finding, ArtifactError | None]:
    """Whether the store answers, and holds a project; and what it said where not."""
    begin = time.monotonic()
    try:
        store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT)
    except KeyMissingError as error:
        init = f"artifactmount --project {store.url} init"
        if isinstance(store, FolderStore):
            return warning("project", f"there is none at {store.url} yet", f"{init}; the first snapshot makes it, too"), error
        return problem("project", f"the store answers, but there is no project at {store.url}", init), error
    except ArtifactError as error:
        return _refused(store, error), error
    return ok("project", f"{store.url} answers in {(time.monotonic() - begin) * 1000:.0f} ms"), None


def _refused(store: Store, error: ArtifactError) -> Finding:
    said = str(error)
    if _EXPIRED.search(said) and not isinstance(error, UnreachableError):  # a certificate may have expired, too
        return problem(
            "credentials", said, "they have expired: sign in again (aws sso login), or renew what is in AWS_PROFILE or the variables"
        )
    if "RequestTimeTooSkewed" in said:
        return problem("credentials", said, "they are as old as this machine's clock says; set the clock (below)")
    if isinstance(error, DeniedError):
        if isinstance(store, FolderStore):
            return problem("project", said, f"ask its owner for the right to read {store.path}")
        return problem(
            "credentials", said, "ask for the policy that `artifactmount policy reader` prints; `aws sts get-caller-identity` says who asks"
        )
    if isinstance(error, UnreachableError):
        return problem("project", said, "look at the network, a proxy, AWS_ENDPOINT_URL, and whether there are credentials (AWS_PROFILE)")
    if isinstance(error, NotFoundError):
        return problem("project", said, "make the bucket, or name another with --project")
    return problem("project", said, "look at AWS_ENDPOINT_URL, and whether the server works")


def _inside(store: Store, settings: Settings) -> Iterator[Finding]:
    """The project itself: its key, and what the store does with its bytes."""
    with tempfile.TemporaryDirectory(prefix="artifactmount-doctor-") as scratch, closing(Cache(os.path.join(scratch, "cache"))) as cache:
        try:
            _compare(store, settings.state_directory)
            keyring = replace(settings.keyring, ask=None)  # nobody wants to be asked by who only looks
            opened = Project(store, cache, os.path.join(scratch, "state"), keyring=keyring)
        except LockedError as error:
            yield problem("key", str(error), "give one of its keys: --key-file, ARTIFACTMOUNT_KEY_FILE or ARTIFACTMOUNT_PASSPHRASE")
            return
        except ProjectMismatchError as error:
            yield problem("project", str(error), "ask who made it anew, or look at --project and AWS_ENDPOINT_URL")
            return
        except ArtifactError as error:
            yield problem("project", str(error), "`artifactmount verify` looks closer")
            return
        yield from _opened(store, opened)


def _compare(store: Store, state_directory: str) -> None:
    """Raise ProjectMismatchError where this machine saw another project here; remember nothing. Before a key is used on it."""
    identity = read_document(store.get(PROJECT_KEY, 0, DOCUMENT_LIMIT))
    with suppress(OSError):  # the folder of state is looked at elsewhere
        Pins(store.place, state_directory).compare_project(identity.pinned)


def _opened(store: Store, opened: Project) -> Iterator[Finding]:
    yield ok("key", "not encrypted, no key is needed" if opened.key is None else f"opens the project ({opened.scheme})")
    yield from _preconditions(opened)
    if isinstance(store, S3Store):
        yield from _versions(store)


def _preconditions(opened: Project) -> Iterator[Finding]:
    tried = "tried with project.json and its own bytes"
    try:
        opened.check_store()
    except DeniedError:
        yield ok("create", f"these credentials may read and not write, so who writes finds out whether the store overwrites ({tried})")
    except RefusedError as error:
        yield problem("create", str(error), 'move the project to a store of README, "Which stores"')
    except StoreError as error:
        yield problem("create", str(error), "try again; if it stays, look at the server")
    else:
        yield ok("create", f"the store refuses to overwrite what is there ({tried})")


def _versions(store: S3Store) -> Iterator[Finding]:
    try:
        versioned = store.versioned()
    except ArtifactError as error:
        yield warning("versioning", str(error), "try again")
        return
    if versioned:
        mend = "use a bucket without versioning, or give who deletes what `artifactmount policy admin` prints"
        yield warning("versioning", "the bucket keeps deleted bytes as old versions, which are deleted one by one", mend)
    else:
        yield ok("versioning", "off, or not for these credentials to ask")
