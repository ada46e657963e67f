"""`artifactmount snapshot`."""

from __future__ import annotations

import click

from artifactmount.cli.making import options_of, print_result, version_options
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option
from artifactmount.names import check_artifact
from artifactmount.snapshot import take


@click.command(epilog="Example: artifactmount snapshot ./animals animals --alias best --note 'rats added'")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.argument("artifact")
@version_options
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

    Only what changed is read and uploaded. The same content again makes no new version. `latest` follows by itself. References of the
    newest version stay, unless the folder has something else in their place.
    """
    named(folder, "DIR")
    check_artifact(artifact)
    options = options_of(aliases, note, type_, metadata)
    with settings.open(create=not settings.url.startswith("s3://")) as project:
        result = take(project, folder, artifact, options, progress())
    print_result(result, as_json)
