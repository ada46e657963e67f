"""`artifactmount ls`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import click

from artifactmount.cli.settings import Settings
from artifactmount.cli.several import attempt, sort_out
from artifactmount.cli.text import iso, json_option, moment, path, plain, print_json, size, table
from artifactmount.errors import CorruptError, NeedsNewerError, NotFoundError
from artifactmount.manifest import MISSING, Table
from artifactmount.names import Reference, parse, resolve
from artifactmount.project import Project
from artifactmount.reference import Referent
from artifactmount.rows import Kind, is_executable, kind_of, show_path
from artifactmount.run import Run
from artifactmount.state import State, Version

_PARALLEL = 16
_LETTERS = {Kind.DIRECTORY: "d", Kind.FILE: "-", Kind.SYMLINK: "l", Kind.REFERENCE: "r"}


@click.command(epilog="Example: artifactmount ls animals:v1/cats -l")
@click.argument("what", metavar="[ARTIFACT[:V][/PATH]]", required=False)
@click.option("-l", "long", is_flag=True, help="With sizes and times.")
@json_option
@click.pass_obj
def ls(settings: Settings, what: str | None, long: bool, as_json: bool) -> int:
    """List artifacts, versions, or the files of a version.

    Without an argument the artifacts; of ARTIFACT its versions, with their aliases; of ARTIFACT:V the files (of ARTIFACT/PATH: of the
    latest version).
    """
    reference = None if what is None else parse(what)
    with settings.open() as project:
        if what is None or reference is None:
            return _artifacts(project, long, as_json)
        if reference.version is None and "/" not in what:
            _versions(project.existing(reference.artifact), long, as_json)
        else:
            _files(*project.reading(reference.artifact, partial(_read, project, reference, long or as_json)), reference, long, as_json)
    return 0


def _artifacts(project: Project, long: bool, as_json: bool) -> int:
    names = project.names()
    for name in project.vanished(names):
        print(f"warning: this machine saw an artifact {name}, of which {project.url} shows nothing any more", file=sys.stderr)
    with ThreadPoolExecutor(_PARALLEL) as pool:  # one request each: whether a name still has versions, only its log says
        states, code = sort_out(names, pool.map(partial(attempt, project.refresh), names))
    live = [(name, state) for name, state in states.items() if state.versions]
    if as_json:
        print_json([_artifact(name, state) for name, state in live])
    elif long:
        rows = [_artifact(name, state) for name, state in live]
        table([(r["artifact"], r["latest"], str(r["versions"]), size(r["tracks"]), moment(r["time"])) for r in rows], right=(2, 3))
    else:
        for name, _ in live:
            print(name)
    return code


def _artifact(name: str, state: State) -> dict[str, Any]:
    latest = state.versions[state.aliases["latest"]]
    return {
        "artifact": name,
        "latest": f"v{latest.n}",
        "versions": len(state.versions),
        "tracks": latest.counts.bytes,
        "time": latest.time,
        "type": state.type,
    }


def _versions(state: State, long: bool, as_json: bool) -> None:
    aliases: dict[int, list[str]] = {}
    for alias, n in sorted(state.aliases.items()):
        aliases.setdefault(n, []).append(alias)
    if as_json:
        print_json([version_facts(version, aliases.get(n, [])) for n, version in state.versions.items()])
    elif long:
        table([(*_columns(version), " ".join(aliases.get(n, []))) for n, version in state.versions.items()], right=(2, 3))
    else:
        for n in state.versions:
            print("  ".join((f"v{n}", *aliases.get(n, []))))


def _columns(version: Version) -> tuple[str, ...]:
    return (
        f"v{version.n}",
        moment(version.time),
        f"{version.counts.files + version.counts.references}",
        size(version.counts.bytes),
        plain(version.actor),
    )


def version_facts(version: Version, aliases: list[str]) -> dict[str, Any]:
    """A version for JSON: sizes in bytes, counts of rows."""
    counts = version.counts
    return {
        "version": f"v{version.n}",
        "aliases": aliases,
        "digest": version.digest.hex(),
        "time": version.time,
        "actor": version.actor,
        "files": counts.files,
        "directories": counts.directories,
        "symlinks": counts.symlinks,
        "references": counts.references,
        "tracks": counts.bytes,
        "added": counts.added,
        "modified": counts.changed,
        "removed": counts.removed,
        "adds": counts.adds,
    }


def _read(project: Project, reference: Reference, with_runs: bool, state: State) -> tuple[Version, Table, list[Run]]:
    catalog, version = project.catalog(reference.artifact), resolve(state, reference)
    manifest = catalog.table(state, version.n)
    return version, manifest, catalog.runs(state, manifest) if with_runs else []


def _files(version: Version, manifest: Table, runs: list[Run], reference: Reference, long: bool, as_json: bool) -> None:
    row = manifest.lookup(reference.path)
    if row == MISSING:
        raise NotFoundError(f"no {show_path(reference.path)} in {reference.artifact}:v{version.n}")
    rows = range(*manifest.span(manifest.key_of(row))) if manifest.kind(row) is Kind.DIRECTORY else range(row, row + 1)
    listed = (_file(version, manifest, runs, at) for at in rows)
    if as_json:
        print_json(list(listed))
    elif long:
        table([_line(item) for item in listed], right=(1,))
    else:
        for at in rows:
            print(path(manifest.name(at)))


def _file(version: Version, manifest: Table, runs: list[Run], row: int) -> dict[str, Any]:
    kind = kind_of(manifest.mode(row))
    lasting = kind in (Kind.FILE, Kind.REFERENCE)
    facts = {
        "name": manifest.name(row).decode("utf-8", "surrogateescape"),
        "kind": kind.name.lower(),
        "size": manifest.size(row),
        "mtime": iso(manifest.mtime(row)) if lasting else version.time,
        "executable": is_executable(manifest.mode(row)),
        "digest": manifest.digest(row).hex(),
    }
    if kind in (Kind.SYMLINK, Kind.REFERENCE):
        origin, at = manifest.origin(row)
        target = runs[origin].target(at)
        facts |= {"target": target.decode("utf-8", "surrogateescape")} if kind is Kind.SYMLINK else _referent(target)
    return facts


def _referent(record: bytes) -> dict[str, Any]:
    """What a reference leads to, for JSON; what cannot be read is shown, not raised."""
    try:
        referent = Referent.decode(record)
    except (CorruptError, NeedsNewerError) as error:
        return {"uri": f"({error})"}
    return {"uri": referent.uri, "etag": referent.etag, "source_version": referent.version, "checked": referent.checked}


def _line(item: dict[str, Any]) -> tuple[str, str, str, str]:
    kind = Kind[item["kind"].upper()]
    mode = _LETTERS[kind] + ("r-x" if item["executable"] or kind is Kind.DIRECTORY else "r--")
    target = item.get("target", item.get("uri"))
    name = path(item["name"]) + (f" -> {path(target)}" if target is not None else "")
    return mode, f"{item['size']}", moment(item["mtime"]), name
