"""`artifactmount key`: the keys that open an encrypted project."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from artifactmount.cli.settings import Settings, ask_passphrase, key_path, named
from artifactmount.cli.text import json_option, moment, plain, print_json
from artifactmount.crypto import ProjectKey
from artifactmount.errors import RefusedError, UsageError
from artifactmount.keys import KeyFile, KmsKey, NewKey, Passphrase, add_slot, proven_slots, remove_slot
from artifactmount.project import Project

F = TypeVar("F", bound=Callable[..., Any])

_NEW = "ARTIFACTMOUNT_NEW_PASSPHRASE"  # the other one opens the project meanwhile


def key_options(variable: str) -> Callable[[F], F]:
    """The options that say what the new key is; `variable`: where a passphrase may stand."""

    def add_options(command: F) -> F:
        for option in (
            click.option("--kms-key-id", metavar="ID", help="A key in AWS KMS: its id, ARN or alias."),
            click.option("--label", default="", metavar="TEXT", help="What `key list` calls this key; stored encrypted."),
            click.option("--passphrase", is_flag=True, help=f"A passphrase: asked for, or ${variable}."),
            click.option("--key-file", metavar="FILE", help="A key in a file, which is made if it is not there."),
        ):
            command = option(command)
        return command

    return add_options


def new_key(key_file: str | None, passphrase: bool, kms_key_id: str | None, variable: str) -> NewKey:
    """The key that the options describe; a passphrase may stand in that variable. Raises UsageError."""
    if (key_file is not None) + passphrase + (kms_key_id is not None) > 1:
        raise UsageError("one key at a time: --key-file, --passphrase or --kms-key-id; add others with `artifactmount key add`")
    if key_file is not None:
        return KeyFile(key_path(named(key_file, "--key-file")))
    if kms_key_id is not None:
        return KmsKey(named(kms_key_id, "--kms-key-id"))
    if given := os.environ.get(variable):
        return Passphrase(given)
    if sys.stdin is not None and sys.stdin.isatty():
        return Passphrase(ask_passphrase("new passphrase: ", twice=True))
    raise UsageError(f"say what is to open the project: --key-file FILE, --kms-key-id ID, or a passphrase in {variable}")


@click.group(epilog="Example: artifactmount key add --key-file ~/ci.key --label 'the build server'")
def key() -> None:
    """Manage the keys of an encrypted project.

    Each opens all of it. Removing one changes nothing else: who had it may have kept the project's own key, which stays the same.
    """


@key.command(epilog="Example: artifactmount key add --key-file ~/ci.key --label 'the build server'")
@key_options(_NEW)
@json_option
@click.pass_obj
def add(settings: Settings, key_file: str | None, passphrase: bool, kms_key_id: str | None, label: str, as_json: bool) -> None:
    """Let one more key open the project.

    A key that opens it already is needed, as for every command. A new passphrase is asked for, or taken from
    ARTIFACTMOUNT_NEW_PASSPHRASE.
    """
    with settings.open() as project:
        project_key = _key_of(project)
        added = new_key(key_file, passphrase, kms_key_id, _NEW)
        project.check_store()
        slot_id = add_slot(project.store, project_key, added, project.about(label))
        if as_json:
            print_json({"id": slot_id, "kind": added.kind})
        else:
            print(f"key {slot_id} ({added.kind}) opens {project.url} from now on")


@key.command(epilog="Example: artifactmount key remove 0123456789abcdef")
@click.argument("key_id", metavar="ID")
@json_option
@click.pass_obj
def remove(settings: Settings, key_id: str, as_json: bool) -> None:
    """Let a key open the project no longer.

    Not the last one. What is stored stays as it is: who opened the project with it before, and kept its own key, can read on as long as
    the bucket lets him.
    """
    with settings.open() as project:
        remove_slot(project.store, _key_of(project), key_id, os.path.join(settings.state_directory, "removed-keys"))
        if as_json:
            print_json({"id": key_id, "removed": True})
        else:
            print(f"key {key_id} is removed")


@key.command("list", epilog="Example: artifactmount key list")
@json_option
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the keys: which kind, whose, since when."""
    with settings.open() as project:
        proven, problems = proven_slots(project.store, _key_of(project))
        for problem in problems:
            print(f"artifactmount: {plain(str(problem))}", file=sys.stderr)
        listed = sorted((facts for _, facts in proven), key=lambda facts: (facts["created"], facts["id"]))
        if as_json:
            print_json(listed)
            return
        for facts in listed:
            line = f"{facts['id']}  {facts['kind']:10}  {moment(facts['created'])}  {plain(facts['actor'])}  {plain(facts['label'])}"
            print(line.rstrip())


def _key_of(project: Project) -> ProjectKey:
    if project.key is None:
        raise RefusedError(f"{project.url} is not encrypted, so it has no keys; encryption is chosen with `init --encrypt`")
    return project.key
