"""What `artifactmount snapshot` does with parts of a version: `--part`, `--finish` and `--drop`."""

from __future__ import annotations

from artifactmount.cli.making import print_joined, print_result
from artifactmount.cli.settings import Settings, named, progress
from artifactmount.cli.text import plural, print_json
from artifactmount.errors import UsageError
from artifactmount.gather import drop, finish
from artifactmount.names import check_artifact
from artifactmount.parts import check_id, take_part
from artifactmount.proposal import Options


def store_part(settings: Settings, folder: str, artifact: str | None, id_: str, options: Options, *, as_json: bool) -> None:
    """Store a folder as a part of a version."""
    check_id(id_)
    named(folder, "DIR")
    if artifact is None:
        raise UsageError(f"which artifact is it a part of? artifactmount snapshot --part {id_} {folder} ARTIFACT")
    check_artifact(artifact)
    _refuse_options(options, "--part")
    with settings.open(create=not settings.url.startswith("s3://")) as project:
        joined = take_part(project, folder, artifact, id_, progress())
    print_joined(joined, as_json)


def end_parts(
    settings: Settings,
    artifact: str,
    more: str | None,
    finished: str | None,
    dropped: str | None,
    options: Options,
    parts: int | None,
    *,
    as_json: bool,
) -> None:
    """Make parts a version, or give them up. `artifact` stands where a folder does otherwise; `more`: what stands behind it. `parts`: how
    many there must be."""
    if more is not None:
        raise UsageError(f"--finish and --drop take an artifact and no folder: artifactmount snapshot --finish ID {more}")
    if artifact == ".":  # what stands there when nothing is said
        raise UsageError("of which artifact? artifactmount snapshot --finish ID ARTIFACT")
    check_artifact(artifact)
    if finished is not None:
        check_id(finished)
        with settings.open() as project:
            result = finish(project, artifact, finished, options, parts)
        print_result(result, as_json)
    else:
        _drop(settings, artifact, dropped or "", options, as_json=as_json)


def _drop(settings: Settings, artifact: str, what: str, options: Options, *, as_json: bool) -> None:
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


def _refuse_options(options: Options, word: str) -> None:
    if options != Options():
        raise UsageError(f"--alias, --note, --type and --metadata are said of the version: give them to --finish, not to {word}")
