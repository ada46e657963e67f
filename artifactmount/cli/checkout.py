"""`artifactmount checkout`."""

from __future__ import annotations

import os
import sys

import click

from artifactmount.checkout import COPY, find
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, plain, print_json
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.workspace import Made, Workspace


@click.command(epilog="Example: artifactmount checkout animals:v3 ./work && cp rat.png work/ && artifactmount snapshot ./work")
@click.argument("words", metavar="[ARTIFACT[:V]] DIR", nargs=-1, required=True, type=click.Path())
@click.option("--copy", is_flag=True, help="Copy the files, also where an overlay could be mounted.")
@click.option("--remove", is_flag=True, help="End the checkout in DIR. Refused while something in it is in no version.")
@click.option("--force", is_flag=True, help="With --remove: also then. What was changed is lost.")
@json_option
@click.pass_obj
def checkout(settings: Settings, words: tuple[str, ...], copy: bool, remove: bool, force: bool, as_json: bool) -> None:
    """Make a writable folder of a version.

    DIR must be absent or empty. Where an overlay can be mounted, which takes root, nothing is copied; else all files are.
    `artifactmount status DIR` shows what was changed, `artifactmount snapshot DIR` makes it the next version. After a reboot the same
    command, or `checkout DIR`, puts it back with all that was changed. Beside DIR lies .NAME.artifactmount, which belongs to it.
    """
    if len(words) > 2 or (remove and len(words) != 1):
        raise UsageError("checkout takes a version and a folder: artifactmount checkout animals:v3 ./work (--remove only the folder)")
    if force and not remove:
        raise UsageError("--force is for --remove")
    folder = named(words[-1], "DIR")
    if len(words) == 2:
        with settings.open() as project:
            made = Workspace(settings, project, progress()).check_out(parse(words[0]), folder, copy=copy)
    else:
        present = find(folder, inside=False)
        settings = settings.at(present.project, present.path)
        with settings.open() as project:
            workspace = Workspace(settings, project, progress())
            if remove:
                workspace.remove(present, force=force)
                return
            made = workspace.put_back(present)
    _print(made, folder, as_json)


def _print(made: Made, folder: str, as_json: bool) -> None:
    checkout = made.checkout
    if made.why and not as_json:
        print(f"artifactmount: copied, because no overlay can be had here ({plain(made.why)})", file=sys.stderr)
    if made.left_out:
        what = "1 reference is" if made.left_out == 1 else f"{made.left_out:,} references are"
        print(f"artifactmount: {what} not copied; a snapshot keeps them", file=sys.stderr)
    if as_json:
        facts = {"artifact": checkout.artifact, "version": f"v{checkout.base.number}", "path": checkout.path, "method": checkout.method}
        print_json({**facts, "why": made.why, "left_out": made.left_out})
    else:
        how = "copy" if checkout.method == COPY else checkout.method
        print(f"{checkout.named(checkout.base)}  {how}  {os.path.normpath(folder)}")
