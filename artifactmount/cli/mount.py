"""`artifactmount mount` and `artifactmount umount`."""

from __future__ import annotations

import logging
import sys
from functools import partial

import click

from artifactmount.cli.settings import Settings, named
from artifactmount.log_lines import FORMATS
from artifactmount.metrics import address_of
from artifactmount.mount_options import umask_of
from artifactmount.mountpoint import Record, locate
from artifactmount.mountpoint import unmount as unmount_at
from artifactmount.notify import notify
from artifactmount.private import forget_variable
from artifactmount.project import absolute

_log = logging.getLogger(__name__)

_LARGEST_ID = (1 << 32) - 2  # the one above means "no change" to chown(2)


@click.command(epilog="Example: mkdir -p ~/mnt && artifactmount mount ~/mnt && ls ~/mnt/animals/latest/")
@click.argument("mountpoint", type=click.Path())
@click.option("--foreground", is_flag=True, help="Stay, and tell on stderr what happens; ^C unmounts.")
@click.option("--allow-other", is_flag=True, help="Let other users see the files (needs root, or user_allow_other in /etc/fuse.conf).")
@click.option("--uid", type=click.IntRange(0, _LARGEST_ID), metavar="N", help="Show the files as this user's. Default: yours.")
@click.option("--gid", type=click.IntRange(0, _LARGEST_ID), metavar="N", help="Show the files as this group's. Default: yours.")
@click.option("--umask", metavar="OCTAL", default="0", help="Show the files without these permission bits, e.g. 027.")
@click.option("--log-format", type=click.Choice(FORMATS), default="text", help="What the log looks like: text, or a JSON object a line.")
@click.option(
    "--metrics", metavar="[HOST:]PORT", default="", help="Serve metrics for Prometheus there, to this machine alone without HOST."
)
@click.pass_obj
def mount(
    settings: Settings,
    mountpoint: str,
    foreground: bool,
    allow_other: bool,
    uid: int | None,
    gid: int | None,
    umask: str,
    log_format: str,
    metrics: str,
) -> None:
    """Show every version of every artifact as read-only folders.

    MOUNTPOINT/ARTIFACT/vN/… are the files; latest and aliases are links; MOUNTPOINT/ARTIFACT:ALIAS works, too. New versions appear by
    themselves. Returns when the files are there; a daemon in the background answers until `artifactmount umount`. Only you see the files,
    unless --allow-other; then owner, group and permission bits decide.
    """
    from artifactmount.launch import SECRETS, Mount, start_asking

    if metrics:
        address_of(metrics)
    what = Mount(
        absolute(settings.url),
        settings.cache_path,
        settings.budget,
        locate(named(mountpoint, "MOUNTPOINT")),
        settings.state_directory,
        allow_other=allow_other,
        uid=uid,
        gid=gid,
        umask=umask_of(umask),
        log_format=log_format,
        metrics=metrics,
    )
    if foreground:
        from artifactmount.daemon import leave, log_to, serve

        log_to(sys.stderr, log_format)
        keyring = settings.keyring
        for name in SECRETS:  # as in the background: a mount lives for weeks
            forget_variable(name)
        serve(what, partial(_tell, what.url, what.mountpoint, log_format), keyring)
        leave(0)
    else:
        start_asking(what, settings.keyring)


def _tell(url: str, mountpoint: str, log_format: str) -> None:
    """Who waits for it in the foreground: somebody at a terminal, or the service manager."""
    said = f"{url} is mounted at {mountpoint}"
    if log_format == "text":
        print(f"{said}; ^C unmounts", file=sys.stderr)
    else:
        _log.info("%s", said)
    notify("READY=1", f"STATUS={said}")


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
