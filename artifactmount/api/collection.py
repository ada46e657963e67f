"""All versions of one name, as the Python API shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from artifactmount.api.opened import Opened
from artifactmount.delete import delete_artifact
from artifactmount.state import RESERVED

T = TypeVar("T")


class Collection(Generic[T]):
    """The artifact `name`. `make` gives one of its versions. Everything asks for the newest state, and raises NotFoundError when there is
    no version."""

    def __init__(self, opened: Opened, name: str, make: Callable[[int], T]) -> None:
        self._opened, self.name, self._make = opened, name, make

    def __repr__(self) -> str:
        return f"<Collection {self.name}>"

    @property
    def type(self) -> str:
        """The one type of its versions."""
        return self._opened.project.existing(self.name).type or "dataset"

    @property
    def aliases(self) -> list[str]:
        """All aliases, `latest` too, in order."""
        return sorted(alias for alias in self._opened.project.existing(self.name).aliases if not RESERVED.fullmatch(alias))

    def artifacts(self) -> list[T]:
        """Its versions, the newest first."""
        return [self._make(number) for number in reversed(self._opened.project.existing(self.name).versions)]

    def is_sequence(self) -> bool:
        """Always: every version was logged here, none is linked."""
        return True

    def delete(self) -> None:
        """Delete all versions and aliases, and every byte, before this returns. Numbers go on where they were, if it is logged again."""
        delete_artifact(self._opened.project, self.name)
