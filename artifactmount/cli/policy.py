"""`artifactmount policy`."""

from __future__ import annotations

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.text import print_json
from artifactmount.errors import UsageError
from artifactmount.names import check_artifact
from artifactmount.policy import Role, make_policy
from artifactmount.project import open_store
from artifactmount.store.s3 import S3Store


@click.command(epilog="Example: artifactmount policy reader --artifact animals > reader.json")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.option("--artifact", metavar="A", help="Of this artifact only, not of the whole project.")
@click.pass_obj
def policy(settings: Settings, role: str, artifact: str | None) -> None:
    """Print the IAM policy that a user of the project needs.

    A reader may list, mount and download. A writer may create, too, but neither replace nor delete: that is refused by the bucket itself.
    An admin may also delete content, but never the log. Nothing is asked of the store, and nothing is changed.
    """
    store = open_store(settings.url)
    if not isinstance(store, S3Store):
        raise UsageError(f"{store.url} is a folder: its mode and owner say who may read and write it; policies are for s3://bucket/prefix")
    name = None if artifact is None else check_artifact(artifact)
    key = store.sse.kms_key if store.sse else None
    print_json(make_policy(Role(role), store.bucket, store.prefix, artifact=name, partition=store.partition(), kms_key=key))
