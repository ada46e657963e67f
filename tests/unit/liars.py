"""What answers and lies: a store around another one, and the sources of references. Made from a number, so a number replays it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from artifactmount.errors import KeyMissingError, NotFoundError, SourceChangedError, SourceDeniedError, SourceError, StoreError
from artifactmount.reference import Referent
from artifactmount.sources import Found
from artifactmount.sources.access import Access, Sources
from artifactmount.store import Listed
from artifactmount.store.memory import MemoryStore
from tests.unit.mutations import TEXTS


class LyingStore:
    """A store that answers from another one, and lies in one way."""

    LIES = ("truncate", "swap", "noise", "longer", "endless names", "endless keys", "strange keys", "everything", "fail", "mixed")

    def __init__(self, store: MemoryStore, seed: int) -> None:
        self._store, self._chance = store, random.Random(seed)
        self.url = self.place = f"{store.url}-lying"
        self.lie = self._chance.choice(self.LIES)
        self.budget = 300_000  # requests: who asks more often than that does not end (verify asks 65 times for each of 1,000 names)

    def _ask(self) -> str:
        self.budget -= 1
        assert self.budget > 0, f"asked without an end ({self.lie})"
        lie = self._chance.choice(self.LIES) if self.lie == "mixed" else self.lie
        return lie if self._chance.random() < 0.5 or lie.startswith(("endless", "every")) else ""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store, and do not believe it."""
        lie = self._ask() if key != "project.json" else ""
        try:
            whole = self._store.get(key)
        except KeyMissingError:
            if lie != "everything":
                raise
            whole = self._store.get(self._chance.choice(self._store.list_keys("")).key)
        chance, value = self._chance, whole[start:stop]
        match lie:
            case "truncate":
                return value[: chance.randrange(len(value) + 1)]
            case "swap":
                return self._store.get(chance.choice(self._store.list_keys("")).key)[start:stop]
            case "noise":
                return chance.randbytes(min(len(value), 5000))
            case "longer":
                return value + bytes(chance.choice((1, 100, 1 << 20)))
            case "fail":
                raise StoreError("the store is out of order\x1b[31m")
        return value

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        return self._store.create(key, data)

    def list_keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[Listed]:
        """See Store."""
        match self._ask():
            case "endless keys":
                return [Listed(f"{prefix}{self.budget:010d}-{n:04d}\x1b", 1, 0.0) for n in range(limit)]
            case "strange keys":
                return [Listed(text, 1, 0.0) for text in TEXTS]
        return self._store.list_keys(prefix, after, limit)

    def list_prefixes(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """See Store."""
        match self._ask():
            case "endless names":
                return [f"{n:04d}" for n in range(limit)]
            case "strange keys":
                return list(TEXTS)
        return self._store.list_prefixes(prefix, after, limit)

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        self._store.delete(keys)

    def clock(self) -> float:
        """See Store."""
        return self._store.clock()

    def close(self) -> None:
        """See Store."""


class HostileSource:
    """Where references lead: a source keeps its promise of lengths, whatever is behind it; nothing else is promised."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def find(self, uri: str) -> Iterator[Found]:
        """See Source."""
        raise NotFoundError(uri)

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source: other bytes each time."""
        assert 0 <= start < stop <= size and stop - start <= 64 << 20, (start, stop, size)
        self.check(referent, size)
        return self._chance.randbytes(stop - start)

    def check(self, referent: Referent, size: int) -> None:
        """See Source."""
        if self._chance.random() < 0.3:
            error = self._chance.choice((SourceError, SourceDeniedError, SourceChangedError))
            raise error(f"{referent.uri} \x1b[2J{self._chance.choice(TEXTS)}")

    def close(self) -> None:
        """See Source."""


def hostile_sources(seed: int) -> Sources:
    """All is allowed, and all leads to an enemy."""
    sources, source = Sources(Access(("http://", "https://", "file://"))), HostileSource(seed)
    sources._sources = dict.fromkeys(("s3", "file", "http", "https"), source)
    return sources
