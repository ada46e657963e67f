"""`artifactmount delete`."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, plural, print_json, size
from artifactmount.delete import Deleted, delete_artifact, delete_versions, ever
from artifactmount.errors import NotFoundError, UsageError
from artifactmount.names import number_of, parse, resolve
from artifactmount.project import Project

_RANGE = re.compile(r"(.+):(v[0-9]+)\.\.(v[0-9]+)")


@click.command(epilog="Example: artifactmount delete animals:v0   or   artifactmount delete animals:v0..v9 --yes")
@click.argument("what", metavar="ARTIFACT:V…", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Delete all versions of ARTIFACT, and its aliases.")
@click.option("--delete-aliases", is_flag=True, help="Let aliases of the versions go with them; else they make it refuse.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def delete(
    settings: Settings, what: tuple[str, ...], everything: bool, delete_aliases: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Delete versions, and every byte that no other version uses.

    The bytes are gone from the store when this returns. What other versions use stays, and is charged to the oldest of them.
    ARTIFACT:v0..v9 means all versions between. Deleted numbers are never used again.
    """
    with settings.open() as project:
        name, numbers = _chosen(project, what, everything)
        if numbers and not (dry_run or yes):
            ask(name, numbers)
        if everything:
            done = delete_artifact(project, name, dry_run=dry_run)
        else:
            done = delete_versions(project, name, numbers, delete_aliases=delete_aliases, dry_run=dry_run)
    print_deleted(name, done, dry_run, as_json)


def _chosen(project: Project, what: tuple[str, ...], everything: bool) -> tuple[str, list[int]]:
    """The artifact and the numbers of its versions that are meant."""
    names: set[str] = set()
    numbers: list[int] = []
    for text in what:
        between = _RANGE.fullmatch(text)
        reference = parse(between[1] if between else text)
        names.add(reference.artifact)
        if reference.path:
            raise UsageError(f"delete takes versions, not paths in them: {text!r}")
        if len(names) > 1:
            raise UsageError(f"delete takes versions of one artifact at a time, not of {' and '.join(sorted(names))}")
        state = ever(project, reference.artifact)
        if everything:
            if reference.version is not None or len(what) > 1:
                raise UsageError(f"--all takes the artifact alone: artifactmount delete {reference.artifact} --all")
            numbers = list(state.versions)
        elif between:
            first, last = number_of(between[2]), number_of(between[3])
            if first is None or last is None or last < first:
                raise UsageError(f"not a range of versions: {text}; write for example {reference.artifact}:v0..v9")
            if first >= state.next:
                raise NotFoundError(f"no version of {text}; `artifactmount ls {reference.artifact}` lists them")
            numbers += [n for n in state.versions if first <= n <= last]
        elif reference.version is None:
            raise UsageError(f"say which version: {reference.artifact}:vN; or --all for all of them")
        else:
            number = number_of(reference.version)
            numbers.append(resolve(state, reference).n if number is None or number in state.versions else number)
    return names.pop(), sorted(set(numbers))


def ask(name: str, numbers: list[int]) -> None:
    """Ask on a terminal. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError("nobody to ask here: say --yes, or --dry-run to see what would be done")
    some = ", ".join(f"v{n}" for n in numbers[:10]) + (", …" if len(numbers) > 10 else "")
    click.confirm(f"Delete {plural(len(numbers), 'version')} of {name} ({some}) for good?", abort=True, err=True)


def _facts(done: Deleted) -> dict[str, Any]:
    return {
        "versions": [f"v{n}" for n in done.versions],
        "freed": done.freed,
        "freed_stored": done.freed_stored,
        "packs": done.packs,
        "rewritten": done.rewritten,
        "passed": {f"v{n}": more for n, more in done.passed.items()},
    }


def print_deleted(name: str, done: Deleted, dry_run: bool, as_json: bool) -> None:
    """Say what was deleted, or would be."""
    if as_json:
        print_json({"artifact": name, "dry_run": dry_run, **_facts(done)})
        return
    would = "would delete" if dry_run else "deleted"
    if not done.versions:
        print(f"{name}: nothing to delete")
        return
    versions = ", ".join(f"v{n}" for n in done.versions[:10]) + (f" … ({len(done.versions)})" if len(done.versions) > 10 else "")
    anew = f", {plural(done.rewritten, 'pack')} written anew" if done.rewritten else ""
    freed = "an unknown amount" if done.freed is None else _amount(done.freed, done.freed_stored or 0)
    print(f"{name}: {would} {versions}: {freed} in {plural(done.packs, 'pack')} freed{anew}")
    for n, more in done.passed.items():
        print(f"{name}:v{n} is charged for {size(more)} more")


def _amount(content: int, stored: int) -> str:
    """What files lose; beside it what the store does, where compression made that another figure."""
    return size(content) if size(content) == size(stored) else f"{size(content)} ({size(stored)} as stored)"
