"""`artifactmount verify`."""

from __future__ import annotations

import click

from artifactmount.cli.settings import Settings, progress
from artifactmount.cli.text import json_option, plain, plural, print_json, size
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.verify import verify as check


@click.command(epilog="Example: artifactmount verify animals")
@click.argument("what", metavar="[ARTIFACT[:V]]", required=False)
@click.option("--quick", is_flag=True, help="Of what holds content read only the table of contents.")
@click.option("--references", "ask_sources", is_flag=True, help="Ask, too, whether what references lead to is what was recorded.")
@json_option
@click.pass_obj
def verify(settings: Settings, what: str | None, quick: bool, ask_sources: bool, as_json: bool) -> int:
    """Read every byte and say what is wrong.

    Of the project, an artifact, or one version with those it builds on: log, manifests, and every stored byte, from the store, not from
    the cache. Exits with 1 when anything is wrong, and lists it.
    """
    reference = None if what is None else parse(what)
    if reference is not None and reference.path:
        raise UsageError(f"verify takes an artifact or a version, not a path in it: {what!r}")
    with settings.open() as project, settings.sources() as sources:
        report = check(project, reference, progress(), quick=quick, sources=sources if ask_sources else None)
    if as_json:
        facts = {"packs": report.packs, "bytes": report.bytes, "problems": report.problems}
        print_json(facts | ({"references": report.references} if ask_sources else {}))
    else:
        for problem in report.problems:
            print(plain(problem))
        verdict = plural(len(report.problems), "problem") if report.problems else "all good"
        asked = f", {plural(report.references, 'reference')} asked for" if ask_sources else ""
        print(f"{plural(report.packs, 'pack')}, {size(report.bytes)} read{asked}: {verdict}")
    return int(bool(report.problems))
