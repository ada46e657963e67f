"""What the log of one artifact folds to: live versions, aliases, sessions, packs. Pure values; how they come about is in `fold`."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from blake3 import blake3

from artifactmount.acts import PART_IDS_LIMIT, PARTS_LIMIT, Counts, Metadata
from artifactmount.ranges import PackId, PackRanges

LATEST = "latest"
NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
RESERVED = re.compile(r"v[0-9]+")
_GENESIS_CONTEXT = "artifactmount v1 genesis"


@dataclass(frozen=True, slots=True)
class Version:
    """A live version. `time`, `actor` and `seq` are those of the entry that put it."""

    n: int
    base: int | None
    digest: bytes
    counts: Counts
    metadata: Metadata
    packs: PackRanges
    time: str
    actor: str
    seq: int


@dataclass(frozen=True, slots=True)
class StatePart:
    """A part of a version to be. It is lost when its session is not open. `time`, `actor` and `seq` are those of the entry that said so."""

    session: int
    digest: bytes
    counts: Counts
    metadata: Metadata
    time: str
    actor: str
    seq: int

    def belongs(self) -> bool:
        """Whether what it says of itself lies in its own session, which was opened before."""
        return self.session < self.seq and self.metadata.full is None and all(s == self.session for s, _, _ in self.metadata.packs.ranges)


@dataclass(frozen=True, slots=True)
class State:
    """The log folded up to `seq`; `digest` is of the entry there. Versions are in ascending order of their numbers."""

    seq: int
    digest: bytes
    versions: dict[int, Version] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    next: int = 0
    open: frozenset[int] = frozenset()
    packs: PackRanges = field(default_factory=PackRanges)
    moved: dict[PackId, PackId] = field(default_factory=dict)
    trash: PackRanges = field(default_factory=PackRanges)
    needs: frozenset[str] = frozenset()
    type: str | None = None
    parts: dict[str, tuple[StatePart, ...]] = field(default_factory=dict)

    @staticmethod
    def empty(start: bytes) -> State:
        """Before the first entry; `start` comes from `genesis`."""
        return State(-1, start)

    @property
    def highest(self) -> int | None:
        """The number of the highest live version."""
        return next(reversed(self.versions), None)

    @property
    def latest(self) -> int | None:
        """The number of the version that `latest` names; None where there is none."""
        return self.aliases.get(LATEST)

    def below(self, n: int) -> int | None:
        """The number of the highest live version below `n`."""
        numbers = list(self.versions)
        index = bisect_right(numbers, n - 1)
        return numbers[index - 1] if index else None

    def chain(self, n: int) -> list[int]:
        """The live versions whose runs make version `n`, oldest first: from the newest one with a whole manifest, or the oldest."""
        numbers: list[int] = []
        for m in reversed(self.versions):
            if m <= n:
                numbers.append(m)
                if self.versions[m].metadata.full is not None:
                    break
        return numbers[::-1]

    def writers(self) -> dict[bytes, Version]:
        """The live version behind each run, delta or whole manifest, by the run's digest."""
        found = {version.metadata.run: version for version in self.versions.values()}
        found |= {version.metadata.full: version for version in self.versions.values() if version.metadata.full is not None}
        return found

    def resolve(self, pack: PackId) -> PackId:
        """Where the live chunks of a pack are now."""
        return self.moved.get(pack, pack)

    def contradiction(self) -> str | None:
        """Why no log can fold to this state; None when one may. A checkpoint's own entry proves its bytes, not that they make sense."""
        below = None
        for n, version in self.versions.items():
            if version.base != below or n >= self.next or version.seq > self.seq:
                return f"v{n} does not follow the version below it"
            below = n
        if len({version.digest for version in self.versions.values()}) != len(self.versions):
            return "two versions of one content"
        for alias, n in self.aliases.items():
            if not is_alias(alias) or n not in self.versions:
                return f"an alias that may not be: {alias!r:.140}"
        if (LATEST in self.aliases) != bool(self.versions) or (self.type is None and self.versions):
            return "versions without `latest` or a type"
        if any(session > self.seq for session in self.open) or not self.moved.keys().isdisjoint(self.moved.values()):
            return "sessions or moves that cannot be"
        if self._parts_contradict():
            return "parts that cannot be"
        return None

    def _parts_contradict(self) -> bool:
        sessions = [part.session for parts in self.parts.values() for part in parts]
        return (
            len(self.parts) > PART_IDS_LIMIT
            or len(set(sessions)) != len(sessions)
            or any(NAME.fullmatch(id_) is None or not 0 < len(parts) <= PARTS_LIMIT for id_, parts in self.parts.items())
            or any(not part.belongs() or part.seq > self.seq for parts in self.parts.values() for part in parts)
        )

    def is_working(self, session: int | None) -> bool:
        """Whether a session is open and its writer's own: not closed, and not a part's."""
        return session in self.open and all(part.session != session for parts in self.parts.values() for part in parts)

    def is_garbage(self, pack: PackId) -> bool:
        """R4: computable from the log alone, and once true, true for ever."""
        return pack.session <= self.seq and pack.session not in self.open and pack not in self.packs


def is_alias(name: str) -> bool:
    """Whether an alias may have this name: no version's, and nothing that could lead elsewhere."""
    return NAME.fullmatch(name) is not None and RESERVED.fullmatch(name) is None


def genesis(project_id: str, artifact: str) -> bytes:
    """The `prev` of entry 0: it ties a log to its project and name."""
    return blake3(f"{project_id}/{artifact}".encode(), derive_key_context=_GENESIS_CONTEXT).digest()
