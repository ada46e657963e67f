"""`artifactmount import-wandb`."""

from __future__ import annotations

import os
import sys

import click

from artifactmount.cli.making import options_of, print_result, version_options
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, plain, plural
from artifactmount.errors import UsageError
from artifactmount.import_wandb import default_cache, find_manifest, import_artifact, read_manifest
from artifactmount.names import check_artifact, number_of


@click.command(epilog="Example: artifactmount import-wandb ./artifacts/animals:v3 --type dataset")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.argument("artifact", metavar="[ARTIFACT]", required=False)
@click.option("--manifest", metavar="FILE", help="W&B's manifest. Default: wandb_manifest.json or manifest.json in DIR.")
@click.option("--wandb-cache", "cache", metavar="DIR", help="W&B's cache of artifacts, which has `obj`. Default: where W&B keeps it.")
@click.option("--allow-missing-references", "allow_missing", is_flag=True, help="Leave out references that cannot be tracked here.")
@version_options
@json_option
@click.pass_obj
def import_wandb(
    settings: Settings,
    folder: str,
    artifact: str | None,
    manifest: str | None,
    cache: str | None,
    allow_missing: bool,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make an artifact of W&B that lies on this machine a version.

    DIR is where W&B downloaded it to. The manifest says what belongs to it: each file is checked against its MD5, and one that is not in
    DIR is taken from W&B's cache. References stay references. W&B's digest is kept. ARTIFACT is NAME when it is not given and DIR is
    called NAME:vN.
    """
    options = options_of(aliases, note, type_, metadata)
    named(folder, "DIR")
    name = check_artifact(_name_of(folder) if artifact is None else artifact)
    known = read_manifest(find_manifest(folder) if manifest is None else named(manifest, "--manifest"))
    place = default_cache(os.environ) if cache is None else named(cache, "--wandb-cache")
    with settings.open(create=not settings.url.startswith("s3://")) as project, settings.sources() as sources:
        done = import_artifact(project, known, folder, place, name, options, allow_missing=allow_missing, progress=progress())
        closed = [uri for uri in done.uris if not sources.allows(uri)]
    for line in done.skipped:
        print(f"artifactmount: skipped {plain(line)}", file=sys.stderr)
    print_result(done.result, as_json)
    if done.by_size:
        what = f"{plural(done.by_size, 'reference')} tracked by size alone, as W&B recorded nothing else that would tell a change"
        print(f"artifactmount: {what}; add-reference records more", file=sys.stderr)
    if closed:
        more = f" and {len(closed) - 1:,} more" if len(closed) > 1 else ""
        print(
            f"artifactmount: to be read, {plain(closed[0])}{more} (or what is above) must be named in `references.allow` of each reader's "
            "config file",
            file=sys.stderr,
        )


def _name_of(folder: str) -> str:
    """NAME of a folder that W&B called NAME:vN. Raises UsageError."""
    name, _, version = os.path.basename(os.path.abspath(folder)).rpartition(":")
    if number_of(version) is None:
        raise UsageError(f"{folder} is not called NAME:vN, so say what it is to be: artifactmount import-wandb {folder} ARTIFACT")
    return name
