"""`artifactmount download`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import click

from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, plain, plural, print_json, size
from artifactmount.download import download as fetch
from artifactmount.memory import reuse_memory
from artifactmount.names import parse, resolve


@click.command(epilog="Example: artifactmount download animals:v1/cats ./cats-of-v1")
@click.argument("what", metavar="ARTIFACT[:V][/PATH]")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace files in DIR that differ. Without it, they make the command refuse.")
@click.option("--allow-missing-references", "allow_missing", is_flag=True, help="Skip references that are gone, changed or denied.")
@json_option
@click.pass_obj
def download(settings: Settings, what: str, folder: str | None, overwrite: bool, allow_missing: bool, as_json: bool) -> None:
    """Copy a version, or a part of it, to real files.

    DIR is ./artifacts/ARTIFACT:vN when it is not given; paths below it are those in the version, also for a part. What is there and right
    is kept, so an interrupted download goes on where it was. Files that are not of the version are left alone.
    """
    reference = parse(what)
    if folder is not None:
        named(folder, "DIR")
    reuse_memory()
    with settings.open() as project, settings.sources() as sources:
        version = resolve(project.existing(reference.artifact), reference)
        reference = replace(reference, version=f"v{version.n}")
        path = os.path.join("artifacts", f"{reference.artifact}:v{version.n}") if folder is None else folder
        done = fetch(project, reference, path, sources=sources, overwrite=overwrite, allow_missing=allow_missing, progress=progress())
    for line in done.skipped:
        print(f"artifactmount: skipped {plain(line)}", file=sys.stderr)
    if as_json:
        facts = {"version": f"v{done.version}", "path": done.path, "written": done.written, "kept": done.kept, "bytes": done.bytes}
        print_json(facts | ({"skipped": done.skipped} if allow_missing else {}))
    else:
        said = f"{plural(done.written, 'file')} ({size(done.bytes)}) written, {done.kept} kept"
        print(f"{reference.artifact}:v{done.version}  {said}  {path}")
