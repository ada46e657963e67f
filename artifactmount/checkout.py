"""What a checkout remembers of itself, in a hidden folder beside its own: `.NAME.artifactmount/`. Makes and mounts nothing.

`checkout.json` says which version of which artifact lies in the folder, and how. For an overlay there are also `upper` (what was changed:
the only thing of value), `work` (the kernel's), and `lower` (where our own mount of the project is).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from artifactmount.errors import CorruptError, NeedsNewerError, NotFoundError, RefusedError
from artifactmount.layer import UpperLayer
from artifactmount.mountpoint import mount_at
from artifactmount.private import make_folder
from artifactmount.staging import Staging
from artifactmount.state import State

FORMAT = 1
OVERLAY, FUSE_OVERLAY, COPY = "overlay", "fuse-overlayfs", "copy"
METHODS = (OVERLAY, FUSE_OVERLAY, COPY)


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
        return self.method == COPY or (present is not None and present.kind in (OVERLAY, f"fuse.{FUSE_OVERLAY}"))

    def named(self, version: Lived) -> str:
        """A version of its artifact, for messages."""
        return f"{self.artifact}:v{version.number}"

    def write(self) -> None:
        """Keep it, durably."""
        fields = asdict(self)
        del fields["path"]
        content = json.dumps({"format": FORMAT, **fields}, indent=2).encode("utf-8", "surrogateescape")
        temporary = self.below("checkout.json.new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.below("checkout.json"))

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
                f"{self.path} is not a whole copy of {self.named(self.base)} yet; `artifactmount checkout {self.path}` goes on"
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
        if self.method == OVERLAY and not _sees_marks(self.below("upper")):
            raise RefusedError(f"only root can tell what was removed from {self.path}: its overlay is the kernel's")
        return UpperLayer(self.below("upper"), self.path, files=self.method == FUSE_OVERLAY)


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
    """The checkout in exactly this folder (absolute, links resolved). Raises CorruptError, NeedsNewerError."""
    where = os.path.join(hidden_folder(path), "checkout.json")
    try:
        with open(os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            fields = json.loads(file.read().decode("utf-8", "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise CorruptError(f"{where} is damaged: {error}") from error
    try:
        if fields.pop("format") != FORMAT:
            raise NeedsNewerError(f"{where} was written by a newer artifactmount")
        lower, base = Lived(**fields.pop("lower")), Lived(**fields.pop("base"))
        checkout = Checkout(path, lower=lower, base=base, **fields)
        if checkout.method not in METHODS:
            raise ValueError(checkout.method)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CorruptError(f"{where} is damaged: {error}") from error
    return checkout


def find(path: str, *, inside: bool = True) -> Checkout:
    """The checkout that a folder is, or (`inside`) lies in. Raises NotFoundError."""
    at = os.path.realpath(path)
    while True:
        checkout = read(at)
        if checkout is not None:
            return checkout
        if not inside or os.path.dirname(at) == at:
            raise NotFoundError(f"{path} is no checkout; `artifactmount checkout ARTIFACT[:V] DIR` makes one")
        at = os.path.dirname(at)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the hidden folder of the checkout `path`, which is made. Raises RefusedError while another process has it."""
    folder = hidden_folder(path)
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
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
    os.setxattr(upper, _MARK, b"y")


def _sees_marks(upper: str) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(upper, _MARK) == b"y"
    return False
