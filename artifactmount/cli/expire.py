"""`artifactmount expire`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from artifactmount.cli.delete import ask, print_deleted
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, seconds
from artifactmount.delete import Deleted, delete_versions
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.project import Project
from artifactmount.retention import Rule, expired
from artifactmount.state import State


@click.command(epilog="Example: artifactmount expire animals --keep-last 10 --keep-aliased --older-than 30d --dry-run")
@click.argument("artifact")
@click.option("--keep-last", metavar="N", type=click.IntRange(min=1), help="Keep the newest N versions.")
@click.option("--keep-aliased", is_flag=True, help="Keep versions that an alias points to.")
@click.option("--older-than", metavar="TIME", help="Let only versions go that are older, e.g. 30d.")
@click.option("--ttl", is_flag=True, help="Let only versions go whose own time to live is over.")
@click.option("--delete-aliases", is_flag=True, help="Let aliases of the versions go with them; else they make it refuse.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def expire(
    settings: Settings,
    artifact: str,
    keep_last: int | None,
    keep_aliased: bool,
    older_than: str | None,
    ttl: bool,
    delete_aliases: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete old versions by a rule.

    A version goes when none of the rules keeps it, as `delete` would delete it; the latest is always kept. Times are what writers said. A
    time to live is given to a version from Python.
    """
    if keep_last is None and older_than is None and not ttl:
        raise UsageError("say what to keep: --keep-last N, or --older-than TIME, or --ttl, or several of them")
    reference = parse(artifact)
    if reference.version is not None or reference.path:
        raise UsageError(f"expire takes an artifact: artifactmount expire {reference.artifact}")
    rule = Rule(keep_last or 0, keep_aliased, None if older_than is None else timedelta(seconds=seconds(older_than)), ttl)
    with settings.open() as project:
        now = datetime.now(UTC)
        state = project.existing(reference.artifact)
        lives = _lives(project, reference.artifact, state) if ttl else {}
        numbers = expired(state, rule, now, lives)
        done = Deleted()
        if numbers:
            if not (dry_run or yes):
                ask(reference.artifact, numbers)
            # Asked again of the state it follows: an alias, or `latest`, may have come back to a version while somebody thought about it.
            done = delete_versions(
                project,
                reference.artifact,
                numbers,
                delete_aliases=delete_aliases,
                dry_run=dry_run,
                still=lambda state: expired(state, rule, now, lives),
            )
    print_deleted(reference.artifact, done, dry_run, as_json)


def _lives(project: Project, name: str, state: State) -> dict[int, int]:
    """The times to live of the versions that have one, in seconds."""
    catalog = project.catalog(name)
    found = project.reading(name, lambda state: {n: catalog.card(version).labels.ttl for n, version in state.versions.items()}, state)
    return {n: life for n, life in found.items() if life is not None}
