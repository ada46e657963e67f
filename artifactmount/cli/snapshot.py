"""`artifactmount snapshot`."""

from __future__ import annotations

import click

from artifactmount.cli.making import options_of, print_joined, print_result, version_options
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import json_option, plural, print_json
from artifactmount.errors import UsageError
from artifactmount.gather import drop, finish
from artifactmount.names import check_artifact
from artifactmount.parts import check_id, take_part
from artifactmount.proposal import Options
from artifactmount.snapshot import take


@click.command(epilog="Example: artifactmount snapshot ./animals animals --alias best --note 'rats added'")
@click.argument("folder", metavar="[DIR]", type=click.Path())
@click.argument("artifact", metavar="ARTIFACT", required=False)
@version_options
@click.option("--part", metavar="ID", help="Store the folder as one part of a version that others make, too; --finish makes it.")
@click.option("--finish", "finished", metavar="ID", help="Make the parts of this id one version. Without DIR.")
@click.option("--drop", "dropped", metavar="ID[:PART]", help="Give up the parts of this id, or one of them. Without DIR.")
@json_option
@click.pass_obj
def snapshot(
    settings: Settings,
    folder: str,
    artifact: str | None,
    aliases: tuple[str, ...],
    note: str | None,
    type_: str | None,
    metadata: tuple[str, ...],
    part: str | None,
    finished: str | None,
    dropped: str | None,
    as_json: bool,
) -> None:
    """Make a folder the next version of an artifact.

    Only what changed is read and uploaded. The same content again makes no new version. `latest` follows by itself. References of the
    newest version stay, unless the folder has something else in their place.
    """
    options = options_of(aliases, note, type_, metadata)
    if sum(each is not None for each in (part, finished, dropped)) > 1:
        raise UsageError("--part, --finish and --drop stand alone: artifactmount snapshot --finish ID ARTIFACT")
    if finished is not None or dropped is not None:
        if artifact is not None:
            raise UsageError(f"--finish and --drop take an artifact and no folder: artifactmount snapshot --finish ID {artifact}")
        check_artifact(folder)
        if finished is not None:
            _finish(settings, folder, finished, options, as_json)
        else:
            _drop(settings, folder, dropped or "", options, as_json)
        return
    named(folder, "DIR")
    if artifact is None:
        raise UsageError(f"which artifact is it a version of? artifactmount snapshot {folder} ARTIFACT")
    check_artifact(artifact)
    if part is not None:
        check_id(part)
        _refuse_options(options, "--part")
    with settings.open(create=not settings.url.startswith("s3://")) as project:
        if part is not None:
            print_joined(take_part(project, folder, artifact, part, progress()), as_json)
            return
        result = take(project, folder, artifact, options, progress())
    print_result(result, as_json)


def _refuse_options(options: Options, word: str) -> None:
    if options != Options():
        raise UsageError(f"--alias, --note, --type and --metadata are said of the version: give them to --finish, not to {word}")


def _finish(settings: Settings, artifact: str, id_: str, options: Options, as_json: bool) -> None:
    check_id(id_)
    with settings.open() as project:
        result = finish(project, artifact, id_, options)
    print_result(result, as_json)


def _drop(settings: Settings, artifact: str, what: str, options: Options, as_json: bool) -> None:
    id_, colon, part = what.partition(":")
    check_id(id_)
    _refuse_options(options, "--drop")
    if colon and not (part.isascii() and part.isdecimal()):
        raise UsageError(f"not a part: {what!r}; write ID:PART, with the number that `artifactmount log {artifact}` shows")
    with settings.open() as project:
        parts = drop(project, artifact, id_, int(part[:20]) if colon else None)
    if as_json:
        print_json({"artifact": artifact, "id": id_, "dropped": parts})
    else:
        print(f"{artifact}: {plural(len(parts), 'part')} of {id_} given up")
