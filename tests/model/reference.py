"""What an artifact is, in a few lines: versions are trees, aliases point to them. What the log comes to is compared with this.

Each operation happens at once, in the order of the commits. Nothing here knows packs, sessions, requests or faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.repository import Tree, with_directories


class Live(NamedTuple):
    """A live version."""

    tree: Tree
    note: str


@dataclass
class Reference:
    """Live versions by number, aliases, and the next number."""

    versions: dict[int, Live] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    next: int = 0

    def snapshot(self, tree: Tree, aliases: tuple[str, ...], note: str | None) -> int:
        """The version that has this tree: an equal live one, or a new one; `latest` and the aliases point to it."""
        whole = with_directories(tree)
        n = next((n for n, live in self.versions.items() if live.tree == whole), self.next)
        if n == self.next:
            self.versions[n] = Live(whole, note or "")
            self.next += 1
        elif note is not None:
            self.versions[n] = Live(whole, note)
        self.aliases |= dict.fromkeys(("latest", *aliases), n)
        return n

    def delete(self, numbers: frozenset[int]) -> list[int]:
        """The versions that went, with the aliases on them; `latest` falls back."""
        gone = sorted(numbers & self.versions.keys())
        for n in gone:
            del self.versions[n]
        fell = self.aliases.get("latest") not in self.versions
        self.aliases = {alias: n for alias, n in self.aliases.items() if n in self.versions}
        if fell and self.versions:
            self.aliases["latest"] = max(self.versions)
        return gone

    def delete_all(self) -> list[int]:
        """Everything goes; numbers go on."""
        return self.delete(frozenset(self.versions))
