"""Artifacts, versions and aliases as a mount shows them: known names at once, news behind them, nothing polled.

A known name is answered from the newest known state, and the state is refreshed behind it: one request, at most each second, only when
somebody looks. An unknown name waits for one bounded refresh. So a dead store does not hang look-ups of known names.
"""

from __future__ import annotations

import time
from functools import partial

from artifactmount.errors import GoneError, NotFoundError, UnreachableError, UsageError
from artifactmount.manifest import ROOT_ROW, Table
from artifactmount.names import check_artifact, number_of, parse, resolve
from artifactmount.project import Project
from artifactmount.reader import Hopper
from artifactmount.run import Run
from artifactmount.state import State
from artifactmount.tree import ArtifactDirectory, Attributes, Link, Tree, VersionSlot

_FRESH = 1.0  # seconds
_PATIENCE = 2.0


class Namespace:
    """The upper two levels of a mount."""

    def __init__(self, project: Project, tree: Tree, hopper: Hopper) -> None:
        self._project, self._tree, self._hopper = project, tree, hopper
        self._names: list[str] | None = None
        self._looked: dict[str, float] = {}  # when a state, or the list of names (under ""), was last asked for

    # -- news ----------------------------------------------------------------------------------------------------------------------
    def _due(self, name: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._looked.get(name, -seconds) < seconds:
            return False
        self._looked[name] = now
        return True

    async def state(self, name: str, *, news: bool = False, certain: bool = False) -> State | None:
        """The newest known state of an artifact; None when there is no version of it. `news`: wait for a refresh, within bounds.

        Raises UnreachableError when nobody can say whether there is a version, or with `certain`, whether this is the newest state.
        """
        try:
            check_artifact(name)
        except UsageError:
            return None
        proven, fresh = self._project.proven(name), True
        if proven is None or not proven.versions or news or certain:
            for _ in range(1 + self._hopper.is_under_way(("state", name))):  # one under way may have looked too early
                fresh = await self._hopper.within(_PATIENCE, ("state", name), partial(self._project.refresh, name))
            proven = self._project.proven(name)
            if proven is None:  # the store does not answer: what was known the last time has to do
                proven = await self._hopper.hop(("known", name), partial(self._project.known, name))
            if proven is not None:
                self._looked[name] = time.monotonic()
        elif self._due(name, _FRESH):
            self._hopper.begin(("state", name), partial(self._project.refresh, name))
        if proven is not None and proven.versions and (fresh or not certain):
            return proven
        if not fresh:
            raise UnreachableError(f"{self._project.url} does not answer")
        return None

    async def names(self) -> list[str]:
        """The artifacts of the project; a deleted one may be among them until somebody looks at it."""
        if self._names is None or self._due("", _FRESH):
            await self._hopper.within(_PATIENCE, "names", self._read_names)
        if self._names is None:
            raise UnreachableError(f"{self._project.url} does not answer")
        return self._names

    def _read_names(self) -> None:
        self._names = self._project.names()

    # -- the root ------------------------------------------------------------------------------------------------------------------
    async def in_root(self, name: str) -> Attributes | None:
        """What stands under a name in the root: an artifact, or `artifact:version` as a link."""
        if ":" in name:
            return await self._reference(name)
        return None if await self.state(name) is None else self._tree.name(ArtifactDirectory(name))

    async def _reference(self, text: str) -> Attributes | None:
        try:
            reference = parse(text)
            state = await self.state(reference.artifact)
            if state is None:
                return None
            try:
                resolve(state, reference)
            except NotFoundError:
                state = await self.state(reference.artifact, certain=True)
                if state is None:
                    return None
                resolve(state, reference)
        except (UsageError, NotFoundError):
            return None
        return self._tree.name(Link(f"{reference.artifact}/{reference.version}".encode()))

    async def list_root(self) -> list[tuple[str, Attributes]]:
        """Every artifact that has versions."""
        found: list[tuple[str, Attributes]] = []
        for name in await self.names():
            known = self._project.proven(name)
            if known is None or known.versions:
                found.append((name, self._tree.name(ArtifactDirectory(name))))
        return found

    # -- an artifact ---------------------------------------------------------------------------------------------------------------
    async def in_artifact(self, artifact: str, name: str) -> Attributes | None:
        """A version's root, or an alias as a link to it."""
        for certain in (False, True):  # an unknown name may be newer than what is known
            state = await self.state(artifact, certain=certain)
            if state is None:
                return None
            number = number_of(name)
            if number is not None and number in state.versions:
                return self._tree.directory(self._tree.version(artifact, state.versions[number]), ROOT_ROW)
            if name in state.aliases:
                return self._tree.name(Link(f"v{state.aliases[name]}".encode()))
        return None

    async def list_artifact(self, artifact: str) -> list[tuple[str, Attributes]]:
        """Versions in order, then aliases."""
        state = await self.state(artifact, news=True)
        if state is None:
            raise NotFoundError(f"no artifact {artifact}")
        found = [(f"v{n}", self._tree.directory(self._tree.version(artifact, v), ROOT_ROW)) for n, v in state.versions.items()]
        return found + [(alias, self._tree.name(Link(f"v{n}".encode()))) for alias, n in sorted(state.aliases.items())]

    async def load(self, slot: VersionSlot) -> None:
        """See to it that a version's table is loaded. Raises GoneError when the version was deleted."""
        if slot.loaded is None:
            work = partial(self._load, slot.artifact, slot.version.n)
            table, runs, state = await self._hopper.hop(("table", slot.artifact, slot.version.n), work)
            self._tree.load(slot, table, runs, state)

    def _load(self, artifact: str, number: int) -> tuple[Table, list[Run], State]:
        catalog = self._project.catalog(artifact)

        def load(state: State) -> tuple[Table, list[Run], State]:
            if number not in state.versions:
                raise GoneError(f"{artifact}:v{number} was deleted")
            table = catalog.table(state, number)
            return table, catalog.runs(state, table), state

        return self._project.reading(artifact, load, self._project.known(artifact))
