"""Commands over all artifacts of a project: one that cannot be read does not hide the others, as with `ls` of several folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from artifactmount.cli.text import plain
from artifactmount.errors import ArtifactError, CorruptError, NeedsNewerError, ProjectMismatchError

T = TypeVar("T")

#: What is wrong with one artifact. A store that does not answer, or refuses, would say so of each.
_OF_ONE = (CorruptError, NeedsNewerError, ProjectMismatchError)


def attempt(work: Callable[[str], T], name: str) -> T | ArtifactError:
    """What `work` gives for an artifact, or what is wrong with this one. Raises what would be wrong with all."""
    try:
        return work(name)
    except _OF_ONE as error:
        return error


def sort_out(names: Iterable[str], results: Iterable[T | ArtifactError]) -> tuple[dict[str, T], int]:
    """The artifacts that could be read, and the exit code: 0, or that of the worst. Of each that could not, a line on stderr."""
    good: dict[str, T] = {}
    code = 0
    for name, result in zip(names, results, strict=True):
        if isinstance(result, ArtifactError):
            code = max(code, result.exit_code)
            print(f"artifactmount: {plain(' '.join(str(result).splitlines()))}", file=sys.stderr)
        else:
            good[name] = result
    return good, code
