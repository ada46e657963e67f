"""Every error this package raises on purpose: what happened, whose fault it is, its exit code and its errno.

This module knows no other module. It is the only place where an errno is spelled, so that a failed read through the mount and the
same failure on the command line cannot drift apart. The exit codes are the command line's contract (README, "Exit codes").
"""

from __future__ import annotations

import errno


class ArtifactError(Exception):
    """An error a user can act on. The message is one line that says what, which, and what to do next.

    `exit_code` is what the command line returns; `errno` is what a program reading through the mount sees.
    """

    exit_code: int = 1
    errno: int = errno.EIO


class UsageError(ArtifactError):
    """The caller asked for something that has no meaning (a bad name, a missing argument)."""

    exit_code = 2
    errno = errno.EINVAL


class NotFoundError(ArtifactError):
    """The artifact, version, alias or path does not exist."""

    exit_code = 3
    errno = errno.ENOENT


class RefusedError(ArtifactError):
    """Understood, possible, and refused, because it would lose or overwrite something, or conflicts with another act."""

    exit_code = 4
    errno = errno.EPERM


class StagingError(RefusedError):
    """The staging folder holds something that cannot be versioned, or changed while it was read."""


class ProjectMismatchError(RefusedError):
    """The place holds another project, or an older history, than the one this machine saw there before."""


class NeedsNewerError(RefusedError):
    """The project was written by a newer version and uses a word this one does not know. Nothing may be guessed."""

    errno = errno.EPROTONOSUPPORT


class StoreError(ArtifactError):
    """The store did not do what was asked. Unless a subclass says so, it may have taken effect all the same."""

    exit_code = 5


class KeyMissingError(StoreError):
    """The store has no such key. Whether that is a loss, or news of a deletion, only the caller can tell."""

    exit_code = 6

    def __init__(self, key: str) -> None:
        super().__init__(f"no such key in the store: {key}")
        self.key = key


class NotSentError(StoreError):
    """The request certainly had no effect: it never left, or was refused before anything was done."""


class UnreachableError(NotSentError):
    """No connection to the store could be made."""

    errno = errno.EIO


class DeniedError(NotSentError):
    """The store refused the request: credentials, or policy."""

    errno = errno.EACCES


class LockedError(ArtifactError):
    """The project is encrypted, and no key was given, or one that does not open it. The same again would give the same."""

    exit_code = 4
    errno = errno.EACCES


class StoreFullError(NotSentError):
    """The store has no room left."""

    errno = errno.ENOSPC


class OutcomeUnknownError(StoreError):
    """A commit was sent and neither its success nor its failure could be seen. Nothing was cleaned up."""

    exit_code = 75


class CorruptError(ArtifactError):
    """Stored bytes are not what they must be: a wrong digest, a bad format, a broken chain."""

    exit_code = 6


class SourceError(ArtifactError):
    """The source of a reference could not be read: it does not answer, or not as it must."""

    exit_code = 5


class SourceDeniedError(SourceError):
    """The source of a reference may not be read: its own permissions, or the user's configuration, say no."""

    errno = errno.EACCES


class SourceChangedError(SourceError):
    """The source of a reference is not what was recorded, or is gone."""

    exit_code = 6


class GoneError(ArtifactError):
    """The version was deleted while it was being read."""

    exit_code = 3
    errno = errno.ESTALE


class NotDirectoryError(ArtifactError):
    """A path component is not a directory."""

    exit_code = 3
    errno = errno.ENOTDIR


class IsDirectoryError(ArtifactError):
    """A file was expected and the path is a directory."""

    exit_code = 2
    errno = errno.EISDIR


class NoAttributeError(ArtifactError):
    """There is no such extended attribute."""

    exit_code = 3
    errno = errno.ENODATA


class NoAttributesError(NoAttributeError):
    """This mount has no extended attributes at all. The kernel takes this answer for all files, and does not ask again."""

    errno = errno.ENOSYS


class ReadOnlyError(ArtifactError):
    """The mount is read-only."""

    exit_code = 4
    errno = errno.EROFS


# -- of the Python API: each is also the built-in exception that scripts written for W&B expect ----------------------------------------
class ArgumentError(UsageError, ValueError):
    """An argument of the Python API has no meaning here."""


class ArgumentTypeError(UsageError, TypeError):
    """An argument of the Python API is of another type."""


class NotSupportedError(UsageError, NotImplementedError):
    """W&B has it, and there is nothing here that it could mean."""


class ArtifactFinalizedError(RefusedError, AttributeError):
    """A version that was logged cannot be changed; a new draft of it can."""


class ArtifactNotLoggedError(RefusedError, AttributeError):
    """A draft has this only once it is logged."""


class MissingEntryError(NotFoundError, KeyError):
    """The artifact has nothing at this path."""

    def __str__(self) -> str:
        return ArtifactError.__str__(self)  # a KeyError puts its message in quotes


class MissingFileError(NotFoundError, FileNotFoundError):
    """What is to be taken away, or compared, is not there."""

    errno = errno.ENOENT  # and not what an OSError was made with


def errno_of(error: BaseException) -> int:
    """The errno a program reading through the mount sees for `error`; EIO for anything that is not ours."""
    if isinstance(error, ArtifactError):
        return error.errno
    return errno.EIO


def errno_name(number: int) -> str:
    """`ENOENT` for 2; "other" for what has no name."""
    return errno.errorcode.get(number, "other")


def is_disconnected(error: OSError) -> bool:
    """Whether a mount said that its daemon is gone ("Transport endpoint is not connected")."""
    return error.errno == errno.ENOTCONN
