"""Aliases moved and removed by hand. `latest` is none of them: it follows the newest snapshot by itself."""

from __future__ import annotations

from collections.abc import Iterable

from artifactmount.acts import Act, Commit, RemoveAlias, SetAlias
from artifactmount.artifact import Artifact, Make, Writer, append, finish_trash
from artifactmount.errors import NotFoundError
from artifactmount.names import Reference, check_alias, resolve
from artifactmount.project import Project
from artifactmount.ranges import PackRanges
from artifactmount.state import State
from artifactmount.steps import Steps, drive


def move(project: Project, reference: Reference, aliases: Iterable[str]) -> int:
    """Point aliases to a version, and return its number. Raises UsageError, NotFoundError, StoreError."""
    names = [check_alias(alias) for alias in dict.fromkeys(aliases)]

    def make(state: State) -> Steps[Act | None]:
        yield from ()
        number = resolve(state, reference).n
        ops = tuple(SetAlias(name, number) for name in names if state.aliases.get(name) != number)
        return Commit(None, PackRanges(), ops) if ops else None

    state = _append(project, reference.artifact, make)
    return state.aliases[names[0]]


def remove(project: Project, artifact: str, aliases: Iterable[str]) -> None:
    """Remove aliases, all or none. Raises UsageError, NotFoundError when there is no such alias, StoreError."""
    names = [check_alias(alias) for alias in dict.fromkeys(aliases)]

    def make(state: State) -> Steps[Act | None]:
        yield from ()
        missing = [name for name in names if name not in state.aliases]
        if missing:
            raise NotFoundError(f"no alias {artifact}:{missing[0]}; `artifactmount ls {artifact}` lists them")
        return Commit(None, PackRanges(), tuple(RemoveAlias(name) for name in names))

    _append(project, artifact, make)


def _append(project: Project, artifact: str, make: Make) -> State:
    state = drive(project.store, _steps(project.artifact(artifact), project.existing(artifact), make, project.writer))
    project.remember(artifact, state)
    return state


def _steps(artifact: Artifact, state: State, make: Make, writer: Writer) -> Steps[State]:
    state = yield from finish_trash(artifact, state, writer)
    return (yield from append(artifact, state, make, writer)).state
