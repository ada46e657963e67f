"""`artifactmount init`."""

from __future__ import annotations

import sys

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, print_json


@click.command(epilog="Example: artifactmount --project s3://my-bucket/vision init")
@json_option
@click.pass_obj
def init(settings: Settings, as_json: bool) -> None:
    """Create the project.

    The place must be empty, or hold a project already: then this says so and changes nothing. A project in a folder is also made by its
    first snapshot. The store is tried first: one that would overwrite what exists is refused.
    """
    with settings.open(create=True) as project:
        project.check_store()
        versioned = getattr(project.store, "versioned", None)
        keeps = bool(versioned and versioned())
        if as_json:
            print_json({"project": project.url, "id": project.id, "created": project.created, "bucket_versioning": keeps})
            return
        print(f"{project.url}: " + ("project created" if project.created else "a project already, nothing was changed"))
        if keeps:
            print(
                "note: this bucket keeps deleted bytes as old versions. Deleting removes every version of a key, which needs "
                "s3:DeleteObjectVersion and s3:ListBucketVersions; a bucket without versioning is simpler.",
                file=sys.stderr,
            )
