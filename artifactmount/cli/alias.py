"""`artifactmount alias`."""

from __future__ import annotations

import click

from artifactmount.alias import move, remove
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, print_json
from artifactmount.errors import UsageError
from artifactmount.names import parse


@click.command(epilog="Example: artifactmount alias animals:v1 best   or   artifactmount alias --remove animals best")
@click.argument("what", metavar="ARTIFACT[:V]")
@click.argument("aliases", metavar="NAME…", nargs=-1, required=True)
@click.option("--remove", "removing", is_flag=True, help="Remove the aliases of ARTIFACT instead.")
@json_option
@click.pass_obj
def alias(settings: Settings, what: str, aliases: tuple[str, ...], removing: bool, as_json: bool) -> None:
    """Point aliases to a version, or remove them.

    An alias that exists moves. `latest` follows by itself and cannot be set.
    """
    reference = parse(what)
    if reference.path:
        raise UsageError(f"an alias names a version, not a path in it: {what!r}")
    if removing and reference.version is not None:
        raise UsageError(f"--remove takes the artifact alone: artifactmount alias --remove {reference.artifact} {' '.join(aliases)}")
    with settings.open() as project:
        if removing:
            remove(project, reference.artifact, aliases)
            shown: dict[str, str | None] = dict.fromkeys(aliases)
        else:
            number = move(project, reference, aliases)
            shown = dict.fromkeys(aliases, f"v{number}")
    if as_json:
        print_json({"artifact": reference.artifact, "aliases": shown})
    else:
        for name, version in shown.items():
            print(f"{reference.artifact}:{name} -> {version}" if version else f"{reference.artifact}:{name} removed")
