"""`artifactmount prefetch`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from artifactmount.cli.settings import Settings, progress
from artifactmount.cli.text import json_option, plain, print_json, size
from artifactmount.names import parse, resolve
from artifactmount.prefetch import prefetch as fetch


@click.command(epilog="Example: artifactmount prefetch animals:v1/train && python train.py ~/mnt/animals/v1/train")
@click.argument("what", metavar="ARTIFACT[:V][/PATH]")
@click.option("--allow-missing-references", "allow_missing", is_flag=True, help="Skip references that are gone, changed or denied.")
@json_option
@click.pass_obj
def prefetch(settings: Settings, what: str, allow_missing: bool, as_json: bool) -> None:
    """Bring a version into the cache before it is read.

    All of it, or a part; a mount that uses the same cache then reads it without the store. What the cache holds is not fetched again, so an
    interrupted one goes on where it was. A project in a folder needs none: its packs are read where they lie.
    """
    reference = parse(what)
    with settings.open() as project, settings.sources() as sources:
        version = resolve(project.existing(reference.artifact), reference)
        reference = replace(reference, version=f"v{version.n}")
        done = fetch(project, reference, sources=sources, allow_missing=allow_missing, progress=progress())
    for line in done.skipped:
        print(f"artifactmount: skipped {plain(line)}", file=sys.stderr)
    if as_json:
        print_json({"version": f"v{done.version}", "fetched": done.fetched, "held": done.held, "in_place": done.in_place})
        return
    what_for = "  packs are read where they lie" if done.in_place else ""
    print(f"{reference.artifact}:v{done.version}  {size(done.fetched)} fetched, {size(done.held)} held already{what_for}")
