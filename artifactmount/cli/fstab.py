"""`mount.fuse.artifactmount`: what mount(8) runs for `mount -t fuse.artifactmount SOURCE MOUNTPOINT` and for a line of /etc/fstab.

Not a command of `artifactmount`: the arguments are mount(8)'s, and so are the exit codes. mount(8) looks for it as
/sbin/mount.fuse.artifactmount; where it is not there, mount.fuse3 runs `artifactmount` itself with the same arguments.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from enum import IntEnum

from artifactmount.cli.settings import Settings
from artifactmount.errors import ArtifactError, UsageError
from artifactmount.metrics import address_of
from artifactmount.mount_options import Wanted, parse_arguments, parse_environment
from artifactmount.mountpoint import locate
from artifactmount.plain import PlainFormatter, plain
from artifactmount.private import read_file
from artifactmount.project import absolute

_ENVIRONMENT_LIMIT = 1 << 20
_USAGE = "mount -t fuse.artifactmount s3://bucket/prefix /mnt -o allow_other,…"


class Code(IntEnum):
    """mount(8), "EXIT STATUS"."""

    DONE = 0
    USAGE = 1
    BUG = 4
    INTERRUPTED = 8
    FAILED = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Mount in the background; returns one of Code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        wanted = parse_arguments(given)
        if not wanted.fake:
            _mount(wanted)
    except UsageError as error:
        return _fail(f"{error} (usage: {_USAGE})", Code.USAGE)
    except ArtifactError as error:
        return _fail(str(error), Code.FAILED)
    except OSError as error:
        return _fail(f"{os.fsdecode(error.filename or 'mount')}: {error.strerror or error}", Code.FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", Code.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a bug; still one line
        return _fail(f"internal error: {type(error).__name__}: {error}", Code.BUG)
    return Code.DONE


def _fail(message: str, code: Code) -> int:
    print(f"mount.fuse.artifactmount: {plain(' '.join(message.splitlines()))}", file=sys.stderr)
    return code


def _mount(wanted: Wanted) -> None:
    from artifactmount.launch import Mount, start

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(PlainFormatter("mount.fuse.artifactmount: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    if wanted.env_file:
        os.environ.update(_variables(wanted.env_file))
    if wanted.profile:
        os.environ["AWS_PROFILE"] = wanted.profile
    if wanted.metrics:
        address_of(wanted.metrics)
    settings = Settings(wanted.source, wanted.cache or None, wanted.cache_size or None, wanted.key_file or None)
    what = Mount(
        absolute(settings.url),
        settings.cache_path,
        settings.budget,
        locate(wanted.mountpoint),
        settings.state_directory,
        allow_other=wanted.allow_other,
        uid=wanted.uid,
        gid=wanted.gid,
        umask=wanted.umask,
        source=wanted.source,
        noexec=wanted.noexec,
        log_format=wanted.log_format,
        metrics=wanted.metrics,
    )
    start(what, settings.keyring)


def _variables(path: str) -> dict[str, str]:
    """There may be secrets in it, so nobody else may read it. Raises UsageError, RefusedError."""
    try:
        return parse_environment(read_file(path, _ENVIRONMENT_LIMIT).decode())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None
