"""`artifactmount du`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.several import attempt, sort_out
from artifactmount.cli.text import json_option, plural, print_json, size, table
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.sizes import Sizes, sizes


@click.command(epilog="Example: artifactmount du animals")
@click.argument("what", metavar="[ARTIFACT]", required=False)
@json_option
@click.pass_obj
def du(settings: Settings, what: str | None, as_json: bool) -> int:
    """Show what versions cost.

    Of each version what it tracks (the sum of its files), what it adds (charged to the oldest version that has it), and what deleting it
    now would free. Without an argument the totals of all artifacts. Parts that wait to be finished are named below, and in no total.
    """
    reference = None if what is None else parse(what)
    if reference is not None and (reference.version is not None or reference.path):
        raise UsageError(f"du takes an artifact: artifactmount du {reference.artifact}")
    with settings.open() as project:
        if reference is None:
            return _artifacts(project, as_json)
        _versions(_sizes(project, reference.artifact), as_json)
        if not as_json:
            for id_, parts in sorted(project.refresh(reference.artifact).parts.items()):
                print(f"waiting: {plural(len(parts), 'part')} of {id_}, {size(sum(part.counts.adds for part in parts))}")
    return 0


def _sizes(project: Project, name: str) -> list[Sizes]:
    return project.reading(name, partial(sizes, project.catalog(name), project.cache))


def _artifacts(project: Project, as_json: bool) -> int:
    names = project.names()
    sized = partial(attempt, lambda name: _sizes(project, name) if project.refresh(name).versions else [])
    found, code = sort_out(names, map(sized, names))
    totals: list[dict[str, Any]] = [
        {
            "artifact": name,
            "versions": len(each),
            "tracks": each[-1].tracks,
            "adds": _sum(each),
            "stored": sum(item.stored for item in each),
        }
        for name, each in found.items()
        if each
    ]
    if as_json:
        print_json(totals)
        return code
    rows = [(t["artifact"], str(t["versions"]), size(t["tracks"]), size(t["adds"]), size(t["stored"])) for t in totals]
    table([("artifact", "versions", "latest", "content", "stored"), *rows], right=(1, 2, 3, 4))
    return code


def _versions(found: list[Sizes], as_json: bool) -> None:
    if as_json:
        print_json([{"version": f"v{s.version}", "tracks": s.tracks, "adds": s.adds, "frees": s.frees, "stored": s.stored} for s in found])
        return
    rows = [(f"v{s.version}", size(s.tracks), size(s.adds), size(s.frees), size(s.stored)) for s in found]
    total = ("total", "", size(_sum(found)), "", size(sum(s.stored for s in found)))
    table([("version", "tracks", "adds", "frees", "stored"), *rows, total], right=(1, 2, 3, 4))


def _sum(found: list[Sizes]) -> int:
    return sum(item.adds for item in found)
