"""`artifactmount init`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from artifactmount import kms
from artifactmount.cli.key import key_options, new_key
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, print_json
from artifactmount.errors import UsageError
from artifactmount.keys import KeyFile, Keyring, KmsKey, NewKey, Passphrase


@click.command(epilog="Example: artifactmount --project s3://my-bucket/vision init --encrypt --key-file ~/vision.key")
@click.option("--encrypt", is_flag=True, help="Encrypt everything that is stored; say with what: --key-file, --passphrase, --kms-key-id.")
@key_options("ARTIFACTMOUNT_PASSPHRASE")
@json_option
@click.pass_obj
def init(
    settings: Settings, encrypt: bool, key_file: str | None, passphrase: bool, kms_key_id: str | None, label: str, as_json: bool
) -> None:
    """Create the project.

    The place must be empty, or hold a project already: then this says so and changes nothing. A project in a folder is also made by its
    first snapshot. The store is tried first: one that would overwrite what exists is refused. An encrypted project can be read with its
    keys only: who loses all of them loses everything in it. Without an option that says with what, --encrypt takes
    ARTIFACTMOUNT_KEY_FILE, ARTIFACTMOUNT_PASSPHRASE or ARTIFACTMOUNT_KMS_KEY_ID.
    """
    keyring, protect = settings.keyring, None
    if encrypt:
        if key_file is None and not passphrase and kms_key_id is None:  # then with what opens it afterwards
            key_file = next(iter(keyring.files), None)
            kms_key_id = keyring.kms or None if key_file is None and keyring.passphrase is None else None
        protect = new_key(key_file, passphrase, kms_key_id, "ARTIFACTMOUNT_PASSPHRASE")
        if isinstance(protect, KmsKey):  # by its alias, say, which may lead to another key tomorrow
            protect = KmsKey(kms.arn_of(protect.key_id))
        keyring = _with(keyring, protect)
    elif key_file is not None or passphrase or kms_key_id is not None or label:
        raise UsageError("a key is for an encrypted project; add --encrypt")
    with settings.open(create=True, keyring=keyring, protect=protect, label=label) as project:
        project.check_store()
        versioned = getattr(project.store, "versioned", None)
        keeps = bool(versioned and versioned())
        if as_json:
            facts = {"project": project.url, "id": project.id, "created": project.created, "bucket_versioning": keeps}
            print_json(facts | {"encryption": project.scheme})
            return
        print(f"{project.url}: " + ("project created" if project.created else "a project already, nothing was changed"))
        if keeps:
            print(
                "note: this bucket keeps deleted bytes as old versions. Deleting removes every version of a key, which needs "
                "s3:DeleteObjectVersion and s3:ListBucketVersions; a bucket without versioning is simpler.",
                file=sys.stderr,
            )


def _with(keyring: Keyring, key: NewKey) -> Keyring:
    """Where the project is there already, the key that was to protect it has to open it."""
    match key:
        case KeyFile(path):
            return replace(keyring, files=(path,), insists=True)
        case Passphrase(text):
            return replace(keyring, passphrase=text, insists=True)
        case KmsKey(arn):
            return replace(keyring, kms=arn, insists=True)
