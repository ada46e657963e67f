"""A reader of one version, chunk by chunk, by the program's own project, catalog and fetcher, with the machine's pins (I9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from artifactmount.errors import GoneError, NotFoundError
from artifactmount.fetch import Fetcher
from artifactmount.manifest import Table
from artifactmount.project import Project
from artifactmount.rows import Kind, is_executable, kind_of, path_of
from artifactmount.run import Run
from artifactmount.state import State
from artifactmount.steps import Local, Steps
from tests.model.repository import Leaf, Repository, Tree, with_directories


def read(repository: Repository, project: Project, name: str, choose: Callable[[int], int]) -> Steps[State | None]:
    """Read some live version. Whatever others do meanwhile: its right bytes, or the version is gone. Pins and history must agree."""
    state = yield Local(lambda: project.refresh(name))
    if not state.versions:
        return None
    n = list(state.versions)[choose(len(state.versions))]
    try:
        table, runs, known = yield Local(lambda: project.reading(name, partial(_open, project, name, n), state))
        tree = yield from _tree(Fetcher(project, name), table, runs, known)
    except (GoneError, NotFoundError):
        assert n not in repository.history.read().versions, f"v{n} is live, and its reader was told that it is gone"
        return None
    wanted = repository.tree_of(state.versions[n].actor)
    assert tree == with_directories(wanted), f"v{n} was read wrong"
    return None


def _open(project: Project, name: str, n: int, state: State) -> tuple[Table, list[Run], State]:
    catalog = project.catalog(name)
    table = catalog.table(state, n)
    return table, catalog.runs(state, table), state


def _tree(fetcher: Fetcher, table: Table, runs: list[Run], state: State) -> Steps[Tree]:
    tree: Tree = {}
    for path, row in _rows(table):
        origin, at = table.origin(row)
        run, kind, content = runs[origin], kind_of(table.mode(row)), b""
        if kind is Kind.SYMLINK:
            content = run.target(at)
        for ref in run.chunks(at) if kind is Kind.FILE else ():
            content += yield Local(partial(fetcher.chunk, ref, state, run.digest))
        tree[path] = Leaf(kind, content, is_executable(table.mode(row)))
    return tree


def _rows(table: Table) -> Iterator[tuple[str, int]]:
    for key, name, row in table.walk():
        yield path_of(key, name).decode(), row
