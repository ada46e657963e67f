"""`artifactmount vendor`."""

from __future__ import annotations

import click

from artifactmount.cli.making import options_of, print_result, version_options
from artifactmount.cli.settings import Settings, progress
from artifactmount.cli.text import json_option
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.vendor import vendor as make_own


@click.command(epilog="Example: artifactmount vendor animals:v3 --note 'for the archive'")
@click.argument("what", metavar="ARTIFACT[:V]")
@version_options
@json_option
@click.pass_obj
def vendor(
    settings: Settings,
    what: str,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a version whose references became files of its own.

    Each source is read once and checked against what was recorded; one that changed makes the command fail, and nothing changes. What the
    artifact holds already is not stored again. The version itself stays as it is. As everybody who reads the project can read what comes of
    it, only what `references.allow` in the config file names is read.
    """
    reference = parse(what)
    if reference.path:
        raise UsageError(f"vendor takes a version, not a path in it: {what!r}")
    options = options_of(aliases, note, type_, metadata)
    with settings.open() as project, settings.sources() as sources:
        result = make_own(project, sources, reference, options, progress())
    print_result(result, as_json)
