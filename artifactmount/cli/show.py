"""`artifactmount show`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from artifactmount.cli.ls import version_facts
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, moment, plain, plural, print_json, size
from artifactmount.errors import UsageError
from artifactmount.names import Reference, parse, resolve
from artifactmount.project import Project
from artifactmount.protection import protection_of


@click.command(epilog="Example: artifactmount show animals:v1 --json")
@click.argument("what", metavar="[ARTIFACT[:V]]", required=False)
@json_option
@click.pass_obj
def show(settings: Settings, what: str | None, as_json: bool) -> None:
    """Show everything known of a version, or of the project.

    Of a version: digest, counts, sizes, note, metadata, aliases, who made it and when. Without an argument: the project's place, format and
    protection, and the cache.
    """
    reference = None if what is None else parse(what)
    if reference is not None and reference.path:
        raise UsageError(f"show takes a version, not a path in it: {what!r}; see `ls -l {what}`")
    with settings.open() as project:
        if reference is None:
            _show_project(project, as_json)
        else:
            _show_version(project, reference, as_json)


def _show_project(project: Project, as_json: bool) -> None:
    usage, protection = project.cache.usage(), protection_of(project.store)
    facts = {
        "project": project.url,
        "id": project.id,
        "format": project.format,
        "created": project.made,
        "encryption": project.scheme,
        "protection": asdict(protection),
        "cache": {"path": project.cache.path, "chunks": usage.chunks, "files": usage.files, "budget": usage.budget},
    }
    if as_json:
        print_json(facts)
        return
    print(f"project     {project.url}")
    print(f"id          {project.id}")
    print(f"format      {project.format}, created {moment(project.made)}")
    if project.scheme is None:
        print("protection  none by itself: whoever can read the bucket or folder can read the files")
    else:
        print(f"protection  encrypted ({project.scheme}): without a key one sees artifact names, sizes and times")
    print(f"transport   {plain(protection.transport)}")
    print(f"at rest     {plain(protection.at_rest)}")
    print(f"read by     {plain(protection.readers)}")
    print(f"cache       {project.cache.path}: {size(usage.chunks)} of at most {size(usage.budget)}, and {size(usage.files)} of manifests")
    if protection.warning:
        print(f"note: {protection.warning}", file=sys.stderr)


def _show_version(project: Project, reference: Reference, as_json: bool) -> None:
    catalog = project.catalog(reference.artifact)
    state, version, card = project.reading(reference.artifact, lambda s: (s, resolve(s, reference), catalog.card(resolve(s, reference))))
    aliases = sorted(alias for alias, n in state.aliases.items() if n == version.n)
    facts: dict[str, Any] = {"artifact": reference.artifact, "type": state.type, **version_facts(version, aliases)}
    facts |= {"tags": list(card.labels.tags), "ttl": card.labels.ttl}
    facts |= {"note": card.note, "metadata": card.metadata, "base": None if version.base is None else f"v{version.base}"}
    if as_json:
        print_json(facts)
        return
    counts = version.counts
    kinds = [(counts.files, "file"), (counts.directories, "folder"), (counts.symlinks, "symlink"), (counts.references, "reference")]
    print(f"version   {reference.artifact}:v{version.n} ({plain(state.type)})")
    print(f"digest    {version.digest.hex()}")
    print(f"aliases   {' '.join(aliases)}".rstrip())
    print(f"made      {moment(version.time)} by {plain(version.actor)}")
    print(f"holds     {', '.join(plural(n, word) for n, word in kinds if n) or 'nothing'}")
    print(f"changed   +{counts.added} ~{counts.changed} -{counts.removed} against {facts['base'] or 'nothing'}")
    print(f"size      tracks {size(counts.bytes)}, added {size(counts.adds)}")
    if card.labels.tags:
        print(f"tags      {', '.join(map(plain, card.labels.tags))}")
    if card.labels.ttl:
        print(f"ttl       {timedelta(seconds=card.labels.ttl)} from when it was made; `expire --ttl` deletes it then")
    if card.note:
        print(f"note      {plain(card.note)}")
    for key, value in card.metadata.items():
        print(f"metadata  {plain(key)} = {plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}")
