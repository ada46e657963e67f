"""What a checkout remembers of itself, in a hidden folder beside its own: `.NAME.artifactmount/`. Makes and mounts nothing.

`checkout.json` says which version of which artifact lies in the folder, and how. For an overlay there are also `upper` (what was changed:
the only thing of value), `work` (the kernel's), and `lower` (where our own mount of the project is).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from artifactmount.errors import CorruptError, NeedsNewerError, NotFoundError, RefusedError, UsageError
from artifactmount.layer import UpperLayer
from artifactmount.mountpoint import mount_at
from artifactmount.names import check_artifact
from artifactmount.private import make_folder, open_folder, read_file
from artifactmount.staging import Staging
from artifactmount.state import State

FORMAT = 1
OVERLAY, COPY = "overlay", "copy"
METHODS = (OVERLAY, COPY)

_RECORD = "checkout.json"
_LIMIT = 65536  # bytes; a URL and a few numbers take 500
_HIGHEST = 10**18  # as of what users may type
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Lived:
    """A version as it was: numbers are never used again, and the digest (hex) says so."""

    number: int
    digest: str

    def alive(self, state: State) -> bool:
        """Whether it is there still."""
        version = state.versions.get(self.number)
        return version is not None and version.digest.hex() == self.digest


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with a version in it, to be changed. `path` is absolute, links resolved; `project` is the URL.

    `lower`: the version that was put there; `base`: the one that the folder was last equal to, which its changes are told against;
    `latest`: what the artifact's latest was then, so that nobody's later version is undone unseen. `whole`: whether all of it is there (a
    copy may have been interrupted).
    """

    path: str
    project: str
    artifact: str
    method: str
    lower: Lived
    base: Lived
    latest: int | None
    whole: bool

    @property
    def folder(self) -> str:
        """The hidden folder."""
        return hidden_folder(self.path)

    def below(self, name: str) -> str:
        """A path in the hidden folder."""
        return os.path.join(self.folder, name)

    @property
    def mounted(self) -> bool:
        """Whether its overlay is in place. A copy needs none."""
        present = mount_at(self.path)
        return self.method == COPY or (present is not None and present.kind == OVERLAY)

    def named(self, version: Lived) -> str:
        """A version of its artifact, for messages."""
        return f"{self.artifact}:v{version.number}"

    def write(self) -> None:
        """Keep it, durably."""
        fields = asdict(self)
        del fields["path"]
        content = json.dumps({"format": FORMAT, **fields}, indent=2).encode("utf-8", "surrogateescape")
        folder = open_folder(self.folder)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(f"{_RECORD}.new", flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(f"{_RECORD}.new", _RECORD, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(f"{_RECORD}.new", dir_fd=folder)
                error.filename = error.filename or self.below(_RECORD)
                raise
            os.fsync(folder)  # else what follows may outlive it: an upper without a record
        finally:
            os.close(folder)

    def end(self) -> None:
        """Take away the hidden folder, the record last: whatever a crash leaves says what it is. Raises OSError."""
        for name in os.listdir(self.folder):
            if name in ("upper", "work", "lower"):
                shutil.rmtree(self.below(name))
            elif name != _RECORD:
                os.unlink(self.below(name))
        os.unlink(self.below(_RECORD))
        os.rmdir(self.folder)

    def became(self, number: int, state: State) -> Checkout:
        """Remember that what is in the folder is this version now."""
        version = state.versions[number]
        now = replace(self, base=Lived(number, version.digest.hex()), latest=number)
        now.write()
        return now

    def check_there(self) -> None:
        """Raises RefusedError where its files cannot be seen, or are not all there yet."""
        if not self.whole:
            raise RefusedError(
                f"{self.path} is not a whole copy of {self.named(self.base)} yet; `artifactmount checkout {self.path}` goes on, "
                f"`artifactmount checkout --remove --force {self.path}` ends it"
            )
        if not self.mounted:
            raise RefusedError(
                f"{self.path} is a checkout of {self.named(self.base)} that is not mounted, after a reboot perhaps; "
                f"`artifactmount checkout {self.path}` puts it back with all that was changed"
            )

    def staged(self) -> Staging:
        """What a snapshot reads of it. Raises what `check_there` raises."""
        self.check_there()
        if self.method == COPY:
            return Staging(self.path)
        if not _sees_marks(self.below("upper")):
            raise RefusedError(f"only root can tell what was removed from {self.path}: its overlay is the kernel's")
        return UpperLayer(self.below("upper"), self.path, files=False)


class CheckoutBasis:
    """What a snapshot of a checkout goes out from (see `snapshot.Basis`). `force`: also where others made a version meanwhile."""

    def __init__(self, checkout: Checkout, *, force: bool) -> None:
        self._checkout, self._force = checkout, force

    def check(self, state: State) -> None:
        """Raises RefusedError where the latest version is not the one that the folder was made or last logged with."""
        if self.moved_on(state) and not self._force:
            raise moved_on(self._checkout, state)

    def moved_on(self, state: State) -> bool:
        """Whether latest is another version than it was."""
        return state.latest != self._checkout.latest

    def lower(self, state: State) -> int | None:
        """See Basis."""
        checkout = self._checkout
        if checkout.method == COPY:
            return None
        if not checkout.lower.alive(state):
            raise RefusedError(
                f"{checkout.named(checkout.lower)}, which {checkout.path} lies over, was deleted; what you changed is in "
                f"{checkout.below('upper')}: copy it to where you need it, then `artifactmount checkout --remove --force {checkout.path}`"
            )
        return checkout.lower.number

    def base(self, state: State) -> int | None:
        """See Basis."""
        base = self._checkout.base
        return base.number if base.alive(state) else None


def moved_on(checkout: Checkout, state: State) -> RefusedError:
    """The error for a checkout whose artifact has a newer version than the one that it was made with."""
    latest = f"{checkout.artifact}:v{state.latest}" if state.latest is not None else "gone"
    base = checkout.named(checkout.base)
    return RefusedError(
        f"{checkout.path} goes out from {base}, but the latest is {latest} now, and a snapshot would undo what that changed "
        f"(`artifactmount diff {base} {checkout.artifact}` shows it); check the latest out elsewhere and take your changes there, "
        "or undo it with --force"
    )


def hidden_folder(path: str) -> str:
    """Where a checkout in the folder `path` keeps what it needs."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.artifactmount")


def read(path: str) -> Checkout | None:
    """The checkout in exactly this folder (absolute, links resolved).

    Raises RefusedError where another user keeps one for it: in a folder that many share, anybody could send files to a project of his own
    (as in CVE-2022-24765 of git), or have root mount what he likes. CorruptError, NeedsNewerError.
    """
    where = os.path.join(hidden_folder(path), _RECORD)
    try:
        folder = open_folder(hidden_folder(path))
    except FileNotFoundError:
        return None
    except RefusedError as error:
        raise _not_ours(path, error) from None
    try:
        content = read_file(_RECORD, _LIMIT + 1, folder=folder)
    except FileNotFoundError:
        return None
    except RefusedError as error:
        raise _not_ours(path, error) from None
    except OSError as error:
        raise CorruptError(f"{where} cannot be read: {error.strerror}") from error
    finally:
        os.close(folder)
    try:
        return _parse(path, content)
    except NeedsNewerError:
        raise NeedsNewerError(f"{where} was written by a newer artifactmount") from None
    except (TypeError, KeyError, ValueError, RecursionError, UsageError) as error:
        raise CorruptError(f"{where} is damaged: {error}") from error


def _not_ours(path: str, error: RefusedError) -> RefusedError:
    return RefusedError(f"the checkout {path} is not used: {error}")


def _parse(path: str, content: bytes) -> Checkout:
    """What a record says; ValueError, TypeError, KeyError, RecursionError, UsageError, NeedsNewerError where it does not make sense."""
    if len(content) > _LIMIT:
        raise ValueError(f"it is longer than {_LIMIT} bytes")
    found = json.loads(content.decode("utf-8", "surrogateescape"))
    if _typed(found, dict, "record").pop("format") != FORMAT:
        raise NeedsNewerError
    if set(found) != {field.name for field in fields(Checkout)} - {"path"}:
        raise ValueError("other fields than it should have")
    project, method = _typed(found["project"], str, "project"), _typed(found["method"], str, "method")
    if not project or "\0" in project or method not in METHODS:
        raise ValueError(f"no such project or method: {project!r:.140}, {method!r:.140}")
    return Checkout(
        path,
        project,
        check_artifact(_typed(found["artifact"], str, "artifact")),
        method,
        lower=_lived(found["lower"]),
        base=_lived(found["base"]),
        latest=None if found["latest"] is None else _number(found["latest"]),
        whole=_typed(found["whole"], bool, "whole"),
    )


def _lived(found: Any) -> Lived:
    digest = _typed(_typed(found, dict, "version")["digest"], str, "digest")
    if set(found) != {"number", "digest"} or not _DIGEST.fullmatch(digest):
        raise ValueError(f"no version: {found!r:.140}")
    return Lived(_number(found["number"]), digest)


def _number(found: Any) -> int:
    if not 0 <= _typed(found, int, "number") < _HIGHEST:
        raise ValueError(f"no number of a version: {found!r:.140}")
    return int(found)


def _typed(found: Any, kind: type, what: str) -> Any:
    if type(found) is not kind:  # True is no number here
        raise TypeError(f"no {what}: {found!r:.140}")
    return found


def find(path: str, *, inside: bool = True) -> Checkout:
    """The checkout that a folder is, or (`inside`) lies in. Raises NotFoundError; what `read` raises."""
    at = os.path.realpath(path)
    while True:
        checkout = read(at)
        if checkout is not None:
            return checkout
        if not inside or os.path.dirname(at) == at:
            raise NotFoundError(f"{path} is no checkout; `artifactmount checkout ARTIFACT[:V] DIR` makes one")
        at = os.path.dirname(at)


def check_there(path: str) -> None:
    """Raises RefusedError where a folder is, or lies in, a checkout whose files are not there: an empty mountpoint, or half a copy, is no
    version of anything. What `read` raises."""
    try:
        checkout = find(path)
    except NotFoundError:
        return
    checkout.check_there()


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the hidden folder of the checkout `path`, which is made. Raises RefusedError while another process has it, or another user."""
    folder = hidden_folder(path)
    with contextlib.suppress(FileExistsError):  # what is no folder is refused below
        make_folder(folder)
    try:
        descriptor = open_folder(folder)
    except RefusedError as error:
        raise _not_ours(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RefusedError(f"another command is at work on the checkout {path}") from None
        yield
    finally:
        os.close(descriptor)


#: Root alone can set and see it: where it shows, so do the marks of the kernel's overlay.
_MARK = "trusted.artifactmount"


def mark(upper: str) -> None:
    """Make a new upper directory one of which `staged` can tell whether it sees all. Raises OSError."""
    os.setxattr(upper, _MARK, b"y", follow_symlinks=False)


def _sees_marks(upper: str) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(upper, _MARK) == b"y"
    return False
