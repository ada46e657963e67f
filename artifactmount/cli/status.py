"""`artifactmount status`."""

from __future__ import annotations

import click

from artifactmount.checkout import find
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, path, print_json
from artifactmount.rows import Kind
from artifactmount.status import status as look


@click.command(epilog="Example: artifactmount status ./work")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path())
@json_option
@click.pass_obj
def status(settings: Settings, folder: str, as_json: bool) -> None:
    """Show what was changed in a checkout.

    Against the version that it was made of, or last became by a snapshot. A line each, as of `diff`: A (added), M (other content or another
    executable bit) or D (removed), and the path in the checkout; a directory ends with a slash. DIR may lie in the checkout; default: here.
    The exit code is 0 whether or not anything was changed.
    """
    checkout = find(named(folder, "DIR"))
    with settings.at(checkout.project, checkout.path).open() as project:
        found = look(project, checkout, progress())
    shown = [(item, item.path + (b"/" if item.kind is Kind.DIRECTORY else b"")) for item in found.changes]
    latest = None if found.latest is None else f"v{found.latest}"
    if as_json:
        changes = [
            {
                "change": item.change,
                "path": name.decode("utf-8", "surrogateescape"),
                "size": item.old_size if item.change == "D" else item.new_size,
                "old_size": None if item.change == "A" else item.old_size,
            }
            for item, name in shown
        ]
        facts = {"artifact": checkout.artifact, "base": f"v{checkout.base.number}", "latest": latest, "path": checkout.path}
        print_json({**facts, "method": checkout.method, "behind": found.behind, "ignored": found.ignored, "changes": changes})
        return
    for item, name in shown:
        print(f"{item.change} {path(name)}")
    if found.behind:
        click.echo(f"artifactmount: the latest is {checkout.artifact}:{latest} now; this is of {checkout.named(checkout.base)}", err=True)
