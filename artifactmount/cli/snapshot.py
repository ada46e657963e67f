"""`artifactmount snapshot`."""

from __future__ import annotations

import json
from typing import Any

import click

from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, print_json, size
from artifactmount.errors import UsageError
from artifactmount.names import check_alias, check_artifact
from artifactmount.snapshot import Options, Result, take


@click.command(epilog="Example: artifactmount snapshot ./animals animals --alias best --note 'rats added'")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.argument("artifact")
@click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Point this alias to the version, too. May be repeated.")
@click.option("--note", metavar="TEXT", help="What is to be said of the version.")
@click.option("--type", "type_", metavar="TYPE", help="The artifact's type, such as dataset or model; one for all its versions.")
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="A fact about the version; VALUE may be JSON. May be repeated.")
@json_option
@click.pass_obj
def snapshot(
    settings: Settings,
    folder: str,
    artifact: str,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a folder the next version of an artifact.

    Only what changed is read and uploaded. The same content again makes no new version. `latest` follows by itself.
    """
    named(folder, "DIR")
    check_artifact(artifact)
    for alias in aliases:
        check_alias(alias)
    options = Options(aliases, note, type_, _facts(metadata) if metadata else None)
    with settings.open(create=not settings.url.startswith("s3://")) as project:
        result = take(project, folder, artifact, options, progress())
    if as_json:
        print_json(_as_json(result))
    elif not result.changed:
        print(f"{result.artifact}:v{result.version}  unchanged")
    else:
        changes = f"+{result.added} ~{result.modified} -{result.removed}"
        print(f"{result.artifact}:v{result.version}  {changes}  adds {size(result.adds)}  tracks {size(result.tracks)}")


def _facts(metadata: tuple[str, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for item in metadata:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UsageError(f"not KEY=VALUE: {item!r}")
        try:
            facts[key] = json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            facts[key] = value
    return facts


def _refuse_constant(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are no JSON


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "artifact": result.artifact,
        "version": f"v{result.version}",
        "changed": result.changed,
        "added": result.added,
        "modified": result.modified,
        "removed": result.removed,
        "adds": result.adds,
        "tracks": result.tracks,
        "aliases": list(result.aliases),
    }
