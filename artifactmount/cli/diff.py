"""`artifactmount diff`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, path, print_json, size
from artifactmount.difference import differences
from artifactmount.errors import UsageError
from artifactmount.names import parse
from artifactmount.rows import Kind


@click.command(epilog="Example: artifactmount diff animals:v0 animals:best")
@click.argument("old", metavar="ARTIFACT:V")
@click.argument("new", metavar="ARTIFACT:V")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything differs.")
@json_option
@click.pass_obj
def diff(settings: Settings, old: str, new: str, exit_code: bool, as_json: bool) -> int:
    """Show what differs between two versions.

    A line each: A (only in the second), M (in both, with other content or another executable bit) or D (only in the first), and the path; a
    directory ends with a slash. The totals go to stderr. The versions may be of different artifacts. With --json each has its `size` (of
    what was removed, the size it had) and its `old_size` in the first version.
    """
    references = parse(old), parse(new)
    if any(reference.path for reference in references):
        raise UsageError(f"diff takes versions, not paths in them: artifactmount diff {references[0]} {references[1]}")
    with settings.open() as project:
        counts, came, went = Counter[str](), 0, 0
        listed: list[dict[str, Any]] = []
        for item in differences(project, *references):
            counts[item.change] += 1
            went += item.old_size
            came += item.new_size
            shown = item.path + (b"/" if item.kind is Kind.DIRECTORY else b"")
            if as_json:
                sizes = {
                    "size": item.old_size if item.change == "D" else item.new_size,
                    "old_size": None if item.change == "A" else item.old_size,
                }
                listed.append({"change": item.change, "path": shown.decode("utf-8", "surrogateescape"), **sizes})
            else:
                print(f"{item.change} {path(shown)}")
        if as_json:
            print_json(listed)
        if counts:
            totals = f"+{counts['A']} ~{counts['M']} -{counts['D']}  {size(came)} in place of {size(went)}"
            click.echo(totals, err=True)
        return int(bool(counts) and exit_code)
