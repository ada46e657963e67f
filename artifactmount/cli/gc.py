"""`artifactmount gc`."""

from __future__ import annotations

from functools import partial

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.several import attempt, sort_out
from artifactmount.cli.text import json_option, plural, print_json, seconds, size
from artifactmount.errors import NotFoundError, UsageError
from artifactmount.garbage import collect
from artifactmount.names import parse


@click.command(epilog="Example: artifactmount gc --grace 24h")
@click.argument("what", metavar="[ARTIFACT]", required=False)
@click.option("--grace", default="24h", show_default=True, metavar="TIME", help="A writer silent for so long is dead, e.g. 30m or 2d.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@click.pass_obj
def gc(settings: Settings, what: str | None, grace: str, dry_run: bool, as_json: bool) -> int:
    """Delete what dead writers left.

    Sessions that stored nothing for the grace are closed, then everything that no version and no open session uses is deleted. A writer
    that was only slow finds its session closed and begins again: no data is lost by any grace.
    """
    idle = seconds(grace)
    reference = None if what is None else parse(what)
    if reference is not None and (reference.version is not None or reference.path):
        raise UsageError(f"gc takes an artifact: artifactmount gc {reference.artifact}")
    with settings.open() as project:
        if reference is not None and project.refresh(reference.artifact).seq < 0:
            raise NotFoundError(f"no artifact {reference.artifact} in {project.url}; `artifactmount ls` lists what there is")
        names = project.names() if reference is None else [reference.artifact]
        found, code = sort_out(names, map(partial(attempt, lambda name: collect(project, name, idle, dry_run=dry_run)), names))
    if as_json:
        print_json([{"artifact": name, "sessions": s.sessions, "keys": s.keys, "bytes": s.bytes} for name, s in found.items()])
        return code
    would = "would be " if dry_run else ""
    for name, swept in found.items():
        if swept.sessions or swept.keys:
            sessions, keys = plural(len(swept.sessions), "session"), plural(swept.keys, "key")
            print(f"{name}: {sessions} {would}closed, {keys} ({size(swept.bytes)}) {would}deleted")
    if not any(swept.sessions or swept.keys for swept in found.values()):
        print("nothing to delete")
    return code
