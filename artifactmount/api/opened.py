"""A project that stays open for a script, and is opened again when somebody goes on with what came from it."""

from __future__ import annotations

import os
from contextlib import ExitStack

from artifactmount.errors import RefusedError
from artifactmount.project import Project
from artifactmount.settings import Settings
from artifactmount.sources.access import Sources


class Opened:
    """A project as `settings` say. `create`: make it when the place is empty. Threads may share one; processes that were forked may not."""

    def __init__(self, settings: Settings, *, create: bool) -> None:
        self.settings = settings
        self._create, self._pid = create, os.getpid()
        self._stack: ExitStack | None = None
        self._project: Project | None = None
        self._sources: Sources | None = None

    @property
    def project(self) -> Project:
        """The project. Raises RefusedError in a forked process: what is open does not survive that."""
        self._check_process()
        if self._project is None:
            self._project = self._enter().enter_context(self.settings.open(create=self._create))
        return self._project

    @property
    def sources(self) -> Sources:
        """Where its references lead, as far as the config file allows."""
        self._check_process()
        if self._sources is None:
            self._sources = self._enter().enter_context(self.settings.sources())
        return self._sources

    @property
    def url(self) -> str:
        """The project's place."""
        return self.project.url

    def _enter(self) -> ExitStack:
        if self._stack is None:
            self._stack = ExitStack()
        return self._stack

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RefusedError(
                f"{self.settings.url} was opened in another process, and a fork cannot go on with it: read from a mount "
                "(`artifact.mounted()` before the fork), or start workers by spawn"
            )

    def close(self) -> None:
        """Let go of files and connections."""
        if self._stack is not None and os.getpid() == self._pid:
            self._project = self._sources = None
            stack, self._stack = self._stack, None
            stack.close()
