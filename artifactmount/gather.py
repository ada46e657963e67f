"""The parts of one version, from many writers, become that version: one entry makes it, and ends the sessions they waited in.

A generator of steps, walked through in docs/protocol.md, "Parts of one version". What a part's own packs hold is kept as it is; what it
counted on elsewhere is only a digest by now, and looked up again as at every commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain

from blake3 import blake3

from artifactmount.acts import Act, Commit, EndParts, Op
from artifactmount.artifact import Artifact, Writer, append, head, session_keys
from artifactmount.catalog import Catalog
from artifactmount.ending import Ending
from artifactmount.errors import ArtifactError, CorruptError, KeyMissingError, NotFoundError, RefusedError
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.pack import PACK_BYTES, Place
from artifactmount.packer import Packer
from artifactmount.parts import check_id
from artifactmount.project import Project
from artifactmount.proposal import Options, Proposal, Result, live
from artifactmount.ranges import PackId, PackRanges
from artifactmount.rows import path_of, show_path
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder
from artifactmount.session import Session, complete
from artifactmount.state import State, StatePart
from artifactmount.steps import Delete, GetMany, Join, Local, Spawn, Steps, drive
from artifactmount.union import ConflictError, between, unite

#: Packs read at once to be copied from, each up to 16 MiB: this bounds the memory.
_AT_ONCE = 4
#: Sessions whose keys are listed side by side before any are deleted, and keys of one request.
_LISTED_AT_ONCE, _DELETED_AT_ONCE = 64, 1000


def finish(project: Project, name: str, id_: str, options: Options, parts: int | None = None) -> Result:
    """Make the parts of `id_` the next version of artifact `name`, or find them equal to a live one.

    `parts`: only where there are exactly so many. Asked again, it does to the version that they became what `options` ask, but `latest`
    stays where it is.

    Raises NotFoundError when there are no parts; RefusedError when two differ at one path, one must be run again, or it is another
    number; StoreError; OutcomeUnknownError when the commit was sent and no answer came: then ask again.
    """
    check_id(id_)
    options.check()
    work = Gathering(project.artifact(name), project.catalog(name), project.writer, id_, options, parts)
    state, result = drive(project.store, work.steps(project.refresh(name)))
    project.remember(name, state)
    return result


def drop(project: Project, name: str, id_: str, part: int | None = None) -> list[int]:
    """Give up the parts of `id_`, or one of them, and delete what they stored; returns which. Raises NotFoundError, StoreError."""
    check_id(id_)
    steps = drop_steps(project.artifact(name), project.writer, project.refresh(name), id_, part)
    state, dropped = drive(project.store, steps)
    project.remember(name, state)
    return dropped


def drop_steps(artifact: Artifact, writer: Writer, known: State | None, id_: str, part: int | None) -> Steps[tuple[State, list[int]]]:
    """See `drop`."""
    sessions: list[int] = []

    def make(state: State) -> Steps[Act | None]:
        nonlocal sessions
        yield from ()
        sessions = [one.session for one in state.parts.get(id_, ()) if part in (None, one.session)]
        if not sessions:
            what = "parts" if part is None else f"part {part}"
            raise NotFoundError(f"{artifact.name} has no {what} of {id_}; `artifactmount log {artifact.name}` tells more")
        return Commit(None, PackRanges(), (EndParts(id_, tuple(sessions), None),))

    state = yield from head(artifact, known)
    state = (yield from append(artifact, state, make, writer)).state
    yield from _sweep(artifact, state, sessions)
    return state, sessions


def _sweep(artifact: Artifact, state: State, sessions: list[int]) -> Steps[None]:
    """Delete what ended sessions leave. What cannot be deleted now is a leak that `gc` sweeps; the entry stands."""
    for start in range(0, len(sessions), _LISTED_AT_ONCE):
        with suppress(ArtifactError):
            for session in sessions[start : start + _LISTED_AT_ONCE]:
                yield Spawn(session_keys(artifact, session))
            found: list[set[str]] = yield Join()
            keys = [key for key in sorted(chain(*found)) if (pack := artifact.pack_of(key)) is None or state.is_garbage(pack)]
            for at in range(0, len(keys), _DELETED_AT_ONCE):
                yield Delete(tuple(keys[at : at + _DELETED_AT_ONCE]))


class _BecameError(Exception):
    """The parts are a version already."""

    def __init__(self, state: State, number: int) -> None:
        super().__init__(number)
        self.state, self.number = state, number


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Parts merged: all rows, their tree, and of each pack of theirs the offsets of the chunks that the parts name in it."""

    parts: tuple[StatePart, ...]
    runs: list[Run]
    run: Run
    table: Table
    named: dict[PackId, set[int]]


class Gathering:
    """The parts of one id under way to a version. It is what is proposed (`proposal.Tree`), and whose packs are kept (`proposal.Gift`)."""

    def __init__(
        self, artifact: Artifact, catalog: Catalog, writer: Writer, id_: str, options: Options, expected: int | None = None
    ) -> None:
        self._artifact, self._catalog, self._writer, self._id, self._options = artifact, catalog, writer, id_, options
        self._expected = expected
        self._ending = Ending(artifact, id_)
        self._gathered: _Gathered | None = None
        self._built: tuple[object, RunBuilder] | None = None
        self.begin_anew(artifact.empty())

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state)
        self._packer = Packer(self._artifact, self.session)
        about = self._artifact, self._catalog, self._writer, self._options
        self._proposal = Proposal(*about, self.session, self._packer, self, self)

    def steps(self, known: State | None) -> Steps[tuple[State, Result]]:
        """The whole of it: the state after it, and what it did."""
        state = yield from head(self._artifact, known)
        return (yield from complete(self._artifact, self._writer, state, self))

    def attempt(self, state: State) -> Steps[tuple[State, Result]]:
        """See Work."""
        try:
            yield from self._parts(state)
            yield from self._proposal.look(state)
            state, result = yield from self._proposal.commit()
        except _BecameError as became:
            yield from self.session.give_up()
            return (yield from self._adopt(became.state, became.number))
        yield from _sweep(self._artifact, state, sorted(self.sessions))
        yield Local(lambda: self._catalog.forget_parts(self._now.parts))
        return state, result

    @property
    def _now(self) -> _Gathered:
        assert self._gathered is not None
        return self._gathered

    # -- what is proposed ----------------------------------------------------------------------------------------------------------
    def on(self, state: State) -> Steps[tuple[Table, RunBuilder]]:
        """See Tree."""
        parts = yield from self._parts(state)
        if self._gathered is None or self._gathered.parts != parts:
            self._gathered = yield Local(partial(self._gather, parts))
            self._built = None
        now, key = self._now, live(state)
        if self._built is None or self._built[0] != key:  # else the same builder, by which the proposal knows that it decided this before
            base: Table = yield Local(lambda: self._catalog.newest(state))
            builder: RunBuilder = yield Local(lambda: between(base, now.table, now.run))
            self._built = key, builder
        return now.table, self._built[1]

    def _parts(self, state: State) -> Steps[tuple[StatePart, ...]]:
        parts = state.parts.get(self._id, ())
        if not parts:
            yield from self._look_back(state)
        self._count(len(parts), "wait")
        lost = [part for part in parts if part.session not in state.open]
        if lost:
            raise RefusedError(
                f"{self._artifact.name}: {_named(lost[0])} of {self._id} is lost, as it was closed ({len(lost)} of {len(parts)} are); "
                f"run it again, or give it up: artifactmount snapshot --drop {self._id}:{lost[0].session} {self._artifact.name}"
            )
        return parts

    def _count(self, parts: int, verb: str) -> None:
        if self._expected not in (None, parts):
            raise RefusedError(
                f"{self._artifact.name}: {parts} parts of {self._id} {verb}, not {self._expected}; nothing was committed; "
                f"`artifactmount log {self._artifact.name}` shows them"
            )

    def _gather(self, parts: tuple[StatePart, ...]) -> _Gathered:
        runs = self._catalog.parts(parts)
        try:
            columns = unite(runs)
        except ConflictError as conflict:
            one, other = parts[conflict.one], parts[conflict.other]
            raise RefusedError(
                f"{self._artifact.name}: {show_path(conflict.path)} differs between {_named(one)} and {_named(other)} of {self._id}; "
                f"nothing was committed; give one up: artifactmount snapshot --drop {self._id}:{other.session} {self._artifact.name}"
            ) from None
        run = Run(columns, blake3(columns).digest(), check=False)
        named: dict[PackId, set[int]] = {}
        for part, own in zip(parts, runs, strict=True):
            for pack, offset in _own_places(own, part.session):
                named.setdefault(pack, set()).add(offset)
        return _Gathered(parts, runs, run, Table(memoryview(merge(None, [run])), check=False), named)

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """See Tree: from packs of the parts, which are not kept. Raises RefusedError for what none of them has."""
        now = self._now
        wanted: dict[PackId, set[bytes]] = {}
        rest = set(needed)
        for part, run in zip(now.parts, now.runs, strict=True):
            for chunk in run.all_chunks():
                if chunk.digest in rest and chunk.place.pack.session == part.session:
                    rest.remove(chunk.digest)
                    wanted.setdefault(chunk.place.pack, set()).add(chunk.digest)
        if rest:
            raise self._gone(rest)
        packs = sorted(wanted)
        for start in range(0, len(packs), _AT_ONCE):
            some = packs[start : start + _AT_ONCE]
            found = yield GetMany(tuple(self._artifact.pack_key(pack) for pack in some), PACK_BYTES)
            for pack, stored in zip(some, found, strict=True):
                yield from self._copy(pack, stored, wanted[pack])

    def _copy(self, pack: PackId, stored: bytes | None, wanted: set[bytes]) -> Steps[None]:
        key, cipher = self._artifact.pack_key(pack), self._artifact.cipher
        if stored is None:
            raise KeyMissingError(key)
        rows = [row for row in cipher.whole(pack, stored) if row.digest in wanted]
        if len({row.digest for row in rows}) != len(wanted):
            raise CorruptError(f"{key} does not hold all that its part names; run that part again")
        for row in rows:
            bare = cipher.bare(pack, row.offset, memoryview(stored)[row.offset : row.offset + row.stored])
            yield from self._packer.add(row.digest, row.plain, bytes(bare))

    def _gone(self, digests: set[bytes]) -> RefusedError:
        """What a part counted on in others' packs went with the last version that had it."""
        for part, run in zip(self._now.parts, self._now.runs, strict=True):
            at = run.name_offsets()
            for key, start, stop in run.directories():
                for row in range(start, stop):
                    if any(chunk.digest in digests for chunk in run.chunks(row)):
                        path = show_path(path_of(key, bytes(run.names[at[row] : at[row + 1]])))
                        return RefusedError(
                            f"{self._artifact.name}: {path} of {_named(part)} of {self._id} lay in a version that was deleted "
                            f"meanwhile; nothing was committed; give the part up and run it again: artifactmount snapshot --drop "
                            f"{self._id}:{part.session} {self._artifact.name}"
                        )
        raise AssertionError("they are of some part")

    # -- what is kept --------------------------------------------------------------------------------------------------------------
    @property
    def sessions(self) -> frozenset[int]:
        """See Gift."""
        return frozenset(part.session for part in self._now.parts)

    def places(self, builder: RunBuilder) -> list[Place | None]:
        """See Gift. A chunk that is in no such pack, but also in another that is kept, is taken from there."""
        left = {pack: set(offsets) for pack, offsets in self._now.named.items()}
        given = list(builder.given_places())
        for place in given:
            if place.pack in left:
                left[place.pack].discard(place.offset)
        whole = {pack for pack, offsets in left.items() if not offsets}
        kept = {digest: place for digest, place in zip(builder.chunk_digests(), given, strict=True) if place.pack in whole}
        return [place if place.pack in whole else kept.get(digest) for digest, place in zip(builder.chunk_digests(), given, strict=True)]

    def end(self, number: int) -> Op:
        """See Gift."""
        return EndParts(self._id, tuple(part.session for part in self._now.parts), number)

    # -- what became of it ---------------------------------------------------------------------------------------------------------
    def _look_back(self, state: State) -> Steps[None]:
        """Raises _BecameError where the parts are a version, for who asks again; else NotFoundError."""
        name, end = self._artifact.name, (yield from self._ending.of(state))
        if end is None:
            raise NotFoundError(f"{name} has no parts of {self._id}; artifactmount snapshot --part {self._id} DIR {name} stores one")
        if end.n is None:
            raise NotFoundError(f"{name}: the parts of {self._id} were given up (`artifactmount log {name}`)")
        if end.n not in state.versions:
            raise NotFoundError(f"{name}: the parts of {self._id} became v{end.n}, which was deleted since")
        self._count(len(end.sessions), f"became v{end.n}")
        raise _BecameError(state, end.n)

    def _adopt(self, state: State, number: int) -> Steps[tuple[State, Result]]:
        self.begin_anew(state)
        about = self._artifact, self._catalog, self._writer, self._options
        return (yield from Proposal(*about, self.session, self._packer, self).adopt(number))


def _named(part: StatePart) -> str:
    """How a part is called in messages."""
    return f"part {part.session} (by {part.actor}, {part.time})"


def _own_places(run: Run, session: int) -> Iterator[tuple[PackId, int]]:
    """(pack, offset) of each chunk that a part's run names in packs of its own session."""
    packs = run.packs
    return ((packs[index], offset) for _, _, index, offset, _, _ in run.places() if packs[index].session == session)
