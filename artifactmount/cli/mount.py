"""`artifactmount mount` and `artifactmount umount`."""

from __future__ import annotations

import sys

import click

from artifactmount.cli.settings import Settings, named
from artifactmount.errors import LockedError
from artifactmount.keys import Keyring
from artifactmount.mountpoint import Record, locate
from artifactmount.mountpoint import unmount as unmount_at


@click.command(epilog="Example: mkdir -p ~/mnt && artifactmount mount ~/mnt && ls ~/mnt/animals/latest/")
@click.argument("mountpoint", type=click.Path())
@click.option("--foreground", is_flag=True, help="Stay, and tell on stderr what happens; ^C unmounts.")
@click.option("--allow-other", is_flag=True, help="Let other users see the files (needs root, or user_allow_other in /etc/fuse.conf).")
@click.pass_obj
def mount(settings: Settings, mountpoint: str, foreground: bool, allow_other: bool) -> None:
    """Show every version of every artifact as read-only folders.

    MOUNTPOINT/ARTIFACT/vN/… are the files; latest and aliases are links; MOUNTPOINT/ARTIFACT:ALIAS works, too. New versions appear by
    themselves. Returns when the files are there; a daemon in the background answers until `artifactmount umount`.
    """
    from artifactmount.daemon import Mount, leave, log_to, serve, start

    what = Mount(
        settings.url, settings.cache_path, settings.budget, locate(named(mountpoint, "MOUNTPOINT")), settings.state_directory, allow_other
    )
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
