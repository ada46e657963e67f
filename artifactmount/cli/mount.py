"""`artifactmount mount` and `artifactmount umount`."""

from __future__ import annotations

import re
import sys

import click

from artifactmount.cli.settings import Settings, named
from artifactmount.errors import LockedError, UsageError
from artifactmount.keys import Keyring
from artifactmount.mountpoint import Record, locate
from artifactmount.mountpoint import unmount as unmount_at
from artifactmount.project import absolute

_LARGEST_ID = (1 << 32) - 2  # the one above means "no change" to chown(2)
_OCTAL = re.compile(r"0?[0-7]{1,3}")


@click.command(epilog="Example: mkdir -p ~/mnt && artifactmount mount ~/mnt && ls ~/mnt/animals/latest/")
@click.argument("mountpoint", type=click.Path())
@click.option("--foreground", is_flag=True, help="Stay, and tell on stderr what happens; ^C unmounts.")
@click.option("--allow-other", is_flag=True, help="Let other users see the files (needs root, or user_allow_other in /etc/fuse.conf).")
@click.option("--uid", type=click.IntRange(0, _LARGEST_ID), metavar="N", help="Show the files as this user's. Default: yours.")
@click.option("--gid", type=click.IntRange(0, _LARGEST_ID), metavar="N", help="Show the files as this group's. Default: yours.")
@click.option("--umask", metavar="OCTAL", default="0", help="Show the files without these permission bits, e.g. 027.")
@click.pass_obj
def mount(settings: Settings, mountpoint: str, foreground: bool, allow_other: bool, uid: int | None, gid: int | None, umask: str) -> None:
    """Show every version of every artifact as read-only folders.

    MOUNTPOINT/ARTIFACT/vN/… are the files; latest and aliases are links; MOUNTPOINT/ARTIFACT:ALIAS works, too. New versions appear by
    themselves. Returns when the files are there; a daemon in the background answers until `artifactmount umount`. Only you see the files,
    unless --allow-other; then owner, group and permission bits decide.
    """
    from artifactmount.daemon import Mount, leave, log_to, serve, start

    bits = _umask(umask)
    at = locate(named(mountpoint, "MOUNTPOINT"))
    what = Mount(absolute(settings.url), settings.cache_path, settings.budget, at, settings.state_directory, allow_other, uid, gid, bits)
    if foreground:
        log_to(sys.stderr)
        serve(what, lambda: print(f"{what.url} is mounted at {what.mountpoint}; ^C unmounts", file=sys.stderr), settings.keyring)
        leave(0)
    else:
        try:
            start(what, settings.keyring)
        except LockedError:
            ask = settings.keyring.ask
            if settings.keyring.given or ask is None:
                raise
            start(what, Keyring(passphrase=ask(), insists=True))  # the daemon has no terminal to ask on


def _umask(text: str) -> int:
    """The bits of an octal number such as 027. Raises UsageError."""
    if not _OCTAL.fullmatch(text):
        raise UsageError(f"not a umask: {text!r}; write an octal number such as 022 or 077")
    return int(text, 8)


@click.command(epilog="Example: artifactmount umount ~/mnt")
@click.argument("mountpoint", type=click.Path())
@click.option("--lazy", is_flag=True, help="Also when in use: the files are out of sight at once, and gone when the last user is done.")
@click.pass_obj
def umount(settings: Settings, mountpoint: str, lazy: bool) -> None:
    """Unmount.

    Returns when the daemon has ended. Refused while something uses the files, unless --lazy.
    """
    path = locate(named(mountpoint, "MOUNTPOINT"))
    unmount_at(path, Record(path, settings.state_directory), lazy=lazy)
