"""`artifactmount add-reference`."""

from __future__ import annotations

import os
import sys

import click

from artifactmount.cli.making import options_of, print_result, version_options
from artifactmount.cli.settings import Settings, progress
from artifactmount.cli.text import json_option, plain
from artifactmount.errors import UsageError
from artifactmount.names import check_artifact
from artifactmount.refer import MAX_OBJECTS, add, remove
from artifactmount.reference import normal_uri


@click.command(epilog="Example: artifactmount add-reference animals s3://my-bucket/animals --name wild")
@click.argument("artifact")
@click.argument("what", metavar="URI", nargs=-1, required=True)
@click.option("--name", metavar="PATH", default="", help="Where in the version: the file's path, or the folder for what is below URI.")
@click.option(
    "--max-objects",
    metavar="N",
    type=click.IntRange(min=1),
    default=MAX_OBJECTS,
    show_default=True,
    help="More than so many below URI are an error.",
)
@click.option("--no-checksum", is_flag=True, help="Track the URI and size alone: other content of the same size is not noticed.")
@click.option("--remove", "removing", is_flag=True, help="Take away the references at these PATHs of ARTIFACT instead.")
@version_options
@json_option
@click.pass_obj
def add_reference(
    settings: Settings,
    artifact: str,
    what: tuple[str, ...],
    name: str,
    max_objects: int,
    no_checksum: bool,
    removing: bool,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add what lies elsewhere to an artifact, without its bytes.

    URI is s3://bucket/key-or-prefix, file:///file-or-folder, or http(s)://…; what is there comes onto the newest version, as files that are
    read where they lie. Tracked are URI, size, ETag, version id and time; the same again makes no new version.
    """
    check_artifact(artifact)
    options = options_of(aliases, note, type_, metadata)
    if removing:
        if name or no_checksum:
            raise UsageError("--remove takes the artifact and paths in it, and neither --name nor --no-checksum")
        with settings.open() as project:
            result = remove(project, artifact, [os.fsencode(path) for path in what], options)
        print_result(result, as_json)
        return
    if len(what) > 1:
        raise UsageError(f"add-reference takes one URI at a time, not {len(what)}")
    uri = normal_uri(what[0])
    with settings.open(create=not settings.url.startswith("s3://")) as project, settings.sources() as sources:
        result = add(
            project,
            sources,
            artifact,
            uri,
            options,
            path=os.fsencode(name),
            max_objects=max_objects,
            checksum=not no_checksum,
            progress=progress(),
        )
        followed = sources.allows(uri)
    print_result(result, as_json)
    if not followed:
        print(
            f"artifactmount: to be read, {plain(uri)} (or what is above) must be named in `references.allow` of each reader's config file",
            file=sys.stderr,
        )
