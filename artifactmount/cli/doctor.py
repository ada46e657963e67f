"""`artifactmount doctor`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.text import json_option, plain, print_json
from artifactmount.doctor import Finding, State, machine, problem, project
from artifactmount.errors import UsageError


@click.command(epilog="Example: artifactmount doctor || echo 'something has to be mended first'")
@json_option
@click.pass_obj
def doctor(settings: Settings, as_json: bool) -> int:
    """Look for what is wrong with this machine and the project, and say how to mend it.

    A line for each thing that is looked at: ok, warning or problem; and below it what to do. Exit code 1 when there is a problem. It makes
    unnamed files in the folders of cache and state, if they are there, and a temporary folder, all gone at once; and it tries to create
    project.json again with the bytes it has, which a good store refuses. Nothing else is written, and nothing of the project remembered.
    """
    logging.basicConfig(level=logging.CRITICAL)  # what is wrong comes as a finding
    found: list[Finding] = []
    for finding in _look(settings):
        found.append(finding)
        if not as_json:
            print(f"{finding.state:<7}  {finding.check}: {plain(finding.found)}")
            if finding.mend:
                print(f"         -> {plain(finding.mend)}")
    if as_json:
        print_json([asdict(finding) for finding in found])
    return int(any(finding.state is State.PROBLEM for finding in found))


def _look(settings: Settings) -> Iterator[Finding]:
    yield from machine.fuse()
    yield from machine.mounts(settings.state_directory)
    yield from machine.config(os.environ)
    yield from machine.variables(os.environ)
    yield from machine.folder("state", settings.state_directory, "make it yours, or set XDG_STATE_HOME to a folder that is")
    yield from machine.folder("cache", settings.cache_path, "make it yours, or name another: --cache DIR, or ARTIFACTMOUNT_CACHE")
    try:
        yield from machine.disk(settings.cache_path, settings.budget)
    except UsageError as error:
        yield problem("cache space", str(error), "correct --cache-size, or ARTIFACTMOUNT_CACHE_SIZE")
    yield from project.project(settings)
