"""`artifactmount snapshot`."""

from __future__ import annotations

import os

import click

from artifactmount.acts import PARTS_LIMIT
from artifactmount.checkin import check_in
from artifactmount.checkout import Checkout, find, read
from artifactmount.cli.making import options_of, print_result, version_options
from artifactmount.cli.parts import end_parts, store_part
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option
from artifactmount.errors import NotFoundError, UsageError
from artifactmount.memory import reuse_memory
from artifactmount.names import check_artifact, parse
from artifactmount.project import same_place
from artifactmount.proposal import Options, Result
from artifactmount.snapshot import take, take_onto


@click.command(epilog="Example: artifactmount snapshot ./animals animals --alias best --note 'rats added'")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path())
@click.argument("artifact", metavar="[ARTIFACT]", required=False)
@click.option("--from", "base", metavar="ARTIFACT:V", help="Lay DIR over this version: add and replace, remove nothing.")
@click.option("--force", is_flag=True, help="Of a checkout: also when there is a newer version than its own. What that changed is undone.")
@version_options
@click.option("--part", metavar="ID", help="Store the folder as one part of a version that others make, too; --finish makes it.")
@click.option("--finish", "finished", metavar="ID", help="Make the parts of this id one version. Without DIR.")
@click.option("--parts", metavar="N", type=click.IntRange(1, PARTS_LIMIT), help="With --finish: refuse unless there are exactly N parts.")
@click.option("--drop", "dropped", metavar="ID[:PART]", help="Give up the parts of this id, or one of them. Without DIR.")
@json_option
@click.pass_obj
def snapshot(
    settings: Settings,
    folder: str,
    artifact: str | None,
    base: str | None,
    force: bool,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    part: str | None,
    finished: str | None,
    parts: int | None,
    dropped: str | None,
    as_json: bool,
) -> None:
    """Make a folder the next version of an artifact.

    Only what changed is read and uploaded. The same content again makes no new version. `latest` follows by itself. References of the
    newest version stay, unless the folder has something else in their place. What .artifactignore files name (git's syntax) is left out,
    unless the newest version has it. A checkout knows its ARTIFACT; DIR may lie in it then, and is the current folder when not given.
    """
    options = options_of(aliases, note, type_, metadata)
    if sum(each is not None for each in (part, finished, dropped, base)) > 1:
        raise UsageError("--part, --finish, --drop and --from stand alone: artifactmount snapshot --finish ID ARTIFACT")
    reuse_memory()
    if parts is not None and finished is None:
        raise UsageError("--parts says how many --finish must find: artifactmount snapshot --finish ID --parts N ARTIFACT")
    if part is not None:
        return store_part(settings, folder, artifact, part, options, as_json=as_json)
    if finished is not None or dropped is not None:
        return end_parts(settings, folder, artifact, finished, dropped, options, parts, as_json=as_json)
    named(folder, "DIR")
    if artifact is not None:
        check_artifact(artifact)
    if base is not None:
        result = _onto(settings, folder, artifact, base, force, options)
    elif (checkout := _checkout(settings, folder, artifact)) is not None:
        with settings.at(checkout.project, checkout.path).open() as project:
            result = check_in(project, checkout.path, options, progress(), force=force)
    elif force:
        raise UsageError("--force is for the snapshot of a checkout")
    else:
        assert artifact is not None
        with settings.open(create=not settings.url.startswith("s3://")) as project:
            result = take(project, folder, artifact, options, progress())
    print_result(result, as_json)


def _checkout(settings: Settings, folder: str, artifact: str | None) -> Checkout | None:
    """The checkout that is meant: the one that DIR is or lies in; with an ARTIFACT, only the one that DIR is, where it is of that."""
    if artifact is None:
        try:
            return find(folder)
        except NotFoundError:
            raise UsageError(
                f"{folder} is no checkout, so say of what it is to be a version: artifactmount snapshot {folder} ARTIFACT"
            ) from None
    checkout = read(os.path.realpath(folder))
    ours = checkout is not None and checkout.artifact == artifact and same_place(settings.url, checkout.project)
    return checkout if ours else None


def _onto(settings: Settings, folder: str, artifact: str | None, base: str, force: bool, options: Options) -> Result:
    reference = parse(base)
    if reference.path or (artifact is not None and artifact != reference.artifact):
        raise UsageError(f"--from takes a version of the artifact itself: artifactmount snapshot --from {artifact}:v3 {folder} {artifact}")
    if force:
        raise UsageError("--force is for the snapshot of a checkout")
    with settings.open() as project:
        return take_onto(project, folder, reference, options, progress())
