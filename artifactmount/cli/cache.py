"""`artifactmount cache`."""

from __future__ import annotations

import sys
from contextlib import closing

import click

from artifactmount.cache import Cache
from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, plain, print_json, size, table
from artifactmount.errors import ArtifactError
from artifactmount.project import Project


@click.command(epilog="Example: artifactmount cache")
@click.option("--clear", is_flag=True, help="Drop all of it. Whoever reads fetches again; what snapshots know of folders stays.")
@json_option
@click.pass_obj
def cache(settings: Settings, clear: bool, as_json: bool) -> None:
    """Show what the cache holds, or clear it.

    Then, where the project answers, its content by artifact, each chunk once an artifact; content of other projects is in the sum only.
    A project in a folder has no content here: its packs are read where they lie.
    """
    with closing(Cache(settings.cache_path, settings.budget)) as kept:
        if clear:
            kept.clear()
        used, held = kept.usage(), kept.chunk_digests()
    if not as_json:
        print(f"{plain(kept.path)}: {size(used.chunks)} of {size(used.budget)}, and {size(used.files)} of manifests", flush=True)
    whose = _whose(settings, held) if held else {}
    if as_json:
        by_artifact = [{"artifact": name, "held": amount} for name, amount in whose.items()]
        facts = {"path": kept.path, "budget": used.budget, "content": used.chunks, "manifests": used.files}
        print_json(facts | {"artifacts": by_artifact})
    elif whose:
        table([("artifact", "held"), *((name, size(amount)) for name, amount in whose.items())], right=(1,))


def _whose(settings: Settings, held: set[bytes]) -> dict[str, int]:
    """Bytes of content by artifact. What the cache holds can be told without the project, but not whose it is."""
    try:
        with settings.open() as project:
            return {name: amount for name in sorted(project.pins.artifacts()) if (amount := _held_of(project, name, held))}
    except ArtifactError as error:
        print(f"artifactmount: whose content it is cannot be told: {plain(str(error))}", file=sys.stderr)
        return {}


def _held_of(project: Project, name: str, held: set[bytes]) -> int:
    state = project.known(name)
    if state is None:
        return 0
    found: dict[bytes, int] = {}
    for run in project.catalog(name).cached_runs(state):
        found |= {digest: length for _, digest, _, _, _, length in run.places() if digest in held}
    return sum(found.values())
