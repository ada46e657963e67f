"""Versions leave, and with them, before the command returns, every byte that no other version uses.

The whole of it is a generator of steps, walked through in docs/protocol.md, "Delete". Liveness is of a place, never of a digest: a chunk
in a pack is live while the run of a live version names it there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from artifactmount.acts import Act, Close, Commit, Counts, DeleteArtifact, DeleteVersion, Move, Op, RemoveAlias, ReplaceRun, SetAlias
from artifactmount.artifact import Artifact, Writer, append, check_end, finish_trash, head, session_keys
from artifactmount.catalog import Catalog
from artifactmount.crypto import copy_chunks
from artifactmount.errors import ArtifactError, CorruptError, KeyMissingError, NotFoundError, RefusedError, StoreError
from artifactmount.garbage import sweep, sweep_checkpoints
from artifactmount.liveness import Plan, live_bytes, plan_deletion
from artifactmount.log import ENTRY_LIMIT
from artifactmount.pack import PACK_BYTES, PACK_LIMIT, PackBuilder
from artifactmount.packer import Packer
from artifactmount.project import Project
from artifactmount.ranges import PackId, PackRanges
from artifactmount.run import Run
from artifactmount.session import Session, complete
from artifactmount.state import LATEST, State, Version
from artifactmount.steps import GetMany, Local, Steps, drive

#: Packs read at once to be written anew, each up to 16 MiB: this bounds the memory.
_AT_ONCE = 4
_PAGE = 1000

#: An entry may have 1 MiB. So much of it does a moved pack take, and a version whose run is replaced, at most.
_MOVE_BYTES, _REPLACE_BYTES = 50, 900


@dataclass(slots=True)
class Deleted:
    """What a deletion did, or would do: versions that go; the bytes of content that leave the store, plain and as they were packed (None: a
    run could not be read); packs that leave it whole, and those that leave after what is still live in them was written anew; and by
    version, the plain bytes that it is charged for from now on."""

    versions: list[int] = field(default_factory=list)
    freed: int | None = 0
    freed_stored: int | None = 0
    packs: int = 0
    rewritten: int = 0
    passed: dict[int, int] = field(default_factory=dict)


Still = Callable[[State], Collection[int]]
"""Which versions may go in a state, asked again on every newer one."""


def delete_versions(
    project: Project,
    name: str,
    numbers: Iterable[int],
    *,
    delete_aliases: bool = False,
    dry_run: bool = False,
    still: Still | None = None,
) -> Deleted:
    """Delete versions. Those that are gone already are no error: what they left is cleaned up. `still`: only those of them that it names
    in the very state that the deletion follows.

    Raises NotFoundError for numbers that never were; RefusedError when other aliases than `latest` point to them (not with
    `delete_aliases`); DeniedError, before anything is done, when these credentials may not delete; StoreError when something could not be
    removed; OutcomeUnknownError.
    """
    deletion = Deletion(project.artifact(name), project.catalog(name), project.writer, set(numbers), delete_aliases, still)
    known = ever(project, name)
    if dry_run:
        return project.reading(name, deletion.preview, known)
    project.check_may_delete(name)
    state, deleted = drive(project.store, deletion.steps(known))
    project.remember(name, state)
    return deleted


def delete_artifact(project: Project, name: str, *, dry_run: bool = False) -> Deleted:
    """Delete all versions of an artifact, its aliases, and everything that sessions left. The log says so, and its numbers go on.

    Raises NotFoundError, StoreError (DeniedError before anything is done), OutcomeUnknownError.
    """
    known = ever(project, name)
    if dry_run:
        return _all_of(known, project.catalog(name))
    project.check_may_delete(name)
    steps = delete_all_steps(project.artifact(name), project.catalog(name), known, project.writer)
    state, deleted = drive(project.store, steps)
    project.remember(name, state)
    return deleted


def ever(project: Project, name: str) -> State:
    """The newest state of an artifact that may have no versions any more. Raises NotFoundError when it never had a log."""
    state = project.refresh(name)
    if state.seq < 0:
        raise NotFoundError(f"no artifact {name} in {project.url}; `artifactmount ls` lists what there is")
    return state


def delete_all_steps(artifact: Artifact, catalog: Catalog, known: State, writer: Writer) -> Steps[tuple[State, Deleted]]:
    """See `delete_artifact`."""
    deleted = Deleted()

    def make(state: State) -> Steps[Act | None]:
        nonlocal deleted
        deleted = yield Local(partial(_all_of, state, catalog))
        return Commit(None, PackRanges(), (DeleteArtifact(),)) if state.versions or state.open or state.parts else None

    yield from check_end(artifact, known)  # "nothing to delete" must not be said of a log that has a hole
    after = (yield from append(artifact, known, make, writer)).state
    state = yield from finish_trash(artifact, after, writer)
    _confirm(artifact, after.trash, state)
    # What sessions left: those just closed, and any that ended before.
    yield from sweep(
        artifact, f"{artifact.prefix}data/", lambda key: (pack := artifact.pack_of(key)) is not None and state.is_garbage(pack)
    )
    state = yield from sweep_checkpoints(artifact, state, writer)
    return state, deleted


def _all_of(state: State, catalog: Catalog) -> Deleted:
    """What the deletion of everything comes to. What cannot be read can be deleted all the same."""
    deleted = Deleted(list(state.versions), None, None, len(state.packs))
    with suppress(ArtifactError):
        deleted.freed, deleted.freed_stored = live_bytes(state, catalog)
    return deleted


def _confirm(artifact: Artifact, trash: PackRanges, state: State) -> None:
    """That what was trash after the commit is none any more: gone, and said to be gone."""
    left = trash - (trash - state.trash)
    if left:
        raise StoreError(f"{artifact.name}: deleted, but {len(left)} packs could not be removed from the store yet; run the command again")


def _confirm_leftovers(artifact: Artifact, session: int | None, state: State) -> Steps[None]:
    """That nothing which this deletion stored for an attempt that lost its slot is left: copies of what may be dead by now.

    What is trash in `state` is not meant: a later commit made it that, and whoever committed is about to take it out.
    """
    if session is None:
        return
    keys = yield from session_keys(artifact, session)
    left = [pack for key in keys if (pack := artifact.pack_of(key)) is not None and state.is_garbage(pack) and pack not in state.trash]
    if left:
        raise StoreError(
            f"{artifact.name}: deleted, but {len(left)} packs of an attempt that was overtaken could not be removed from the store yet; "
            f"`artifactmount gc {artifact.name}` removes them"
        )


#: What a new pack is made from: of each old one what is live.
_Group = list[tuple[PackId, frozenset[bytes]]]


class Deletion:
    """One deletion of versions under way."""

    def __init__(
        self, artifact: Artifact, catalog: Catalog, writer: Writer, numbers: set[int], delete_aliases: bool, still: Still | None = None
    ) -> None:
        self._artifact, self._catalog, self._writer = artifact, catalog, writer
        self._numbers, self._delete_aliases, self._still = numbers, delete_aliases, still
        self._planned: tuple[object, Plan] | None = None
        self.begin_anew(artifact.empty())

    def begin_anew(self, state: State) -> None:
        """See Work."""
        self.session = Session(self._artifact, self._writer, state)
        self._packer = Packer(self._artifact, self.session)
        self._copies: dict[tuple[tuple[PackId, frozenset[bytes]], ...], PackId] = {}
        self._kept: frozenset[PackId] = frozenset()
        self._deleted = Deleted()

    def preview(self, state: State) -> Deleted:
        """What the deletion would do in this state."""
        return self._told(state, self._plan(state, self._gone(state)))

    def steps(self, known: State) -> Steps[tuple[State, Deleted]]:
        """The whole deletion: the state after it, and what it did."""
        state = yield from head(self._artifact, known)
        after, state = yield from complete(self._artifact, self._writer, state, self)
        _confirm(self._artifact, after.trash, state)
        yield from _confirm_leftovers(self._artifact, self.session.id, state)
        return state, self._deleted

    def attempt(self, state: State) -> Steps[tuple[State, State]]:
        """See Work: the states after the commit, and after its trash was taken out."""
        self.session.state = state
        after = (yield from append(self._artifact, state, self._make, self._writer)).state
        self.session.state = after
        yield from self.session.delete_leftovers(self._packer.used, self._kept)
        return after, (yield from finish_trash(self._artifact, after, self._writer))

    # -- the decision --------------------------------------------------------------------------------------------------------------
    def _gone(self, state: State) -> list[int]:
        never = sorted(n for n in self._numbers if n >= state.next)
        if never:
            raise NotFoundError(f"no version {self._artifact.name}:v{never[0]}; `artifactmount ls {self._artifact.name}` lists them")
        meant = self._numbers if self._still is None else self._numbers.intersection(self._still(state))
        gone = [n for n in state.versions if n in meant]
        held = sorted(alias for alias, n in state.aliases.items() if n in meant and alias != LATEST)
        if held and not self._delete_aliases:
            raise RefusedError(
                f"{self._artifact.name}: {', '.join(f'{alias} -> v{state.aliases[alias]}' for alias in held)}: move the aliases first, "
                "or let them go with --delete-aliases"
            )
        return gone

    def _make(self, state: State) -> Steps[Act | None]:
        self.session.check(state)
        gone = self._gone(state)
        self._kept = frozenset()
        if not gone:
            self._deleted = Deleted()
            return None if self.session.id is None else Close(self.session.id)
        plan: Plan = yield Local(lambda: self._plan(state, gone))
        if len(plan.partly) * _MOVE_BYTES + len(plan.runs) * _REPLACE_BYTES > ENTRY_LIMIT:
            raise RefusedError(
                f"{self._artifact.name}: so many versions ({len(gone)}, of {len(plan.partly)} packs that other versions need in part) "
                "cannot go at once; delete some of them at a time"
            )
        moves = yield from self._rewrite(plan.partly)
        ops: list[Op] = [DeleteVersion(n) for n in gone]
        kept = set(moves.values())
        for n, run in plan.runs.items():
            version = state.versions[n]
            card, full = yield Local(partial(self._stored, version))
            metadata = yield from self._packer.store_metadata(card, bytes(run.buffer), full)
            kept |= set(metadata.packs)
            counts = self._counts(version, run, plan.charged.get(n, 0))
            ops.append(ReplaceRun(n, self._below(state, gone, n), counts, metadata, PackRanges.of(run.packs)))
        if moves:
            ops.append(Move(tuple(sorted(moves.items()))))
        ops += self._alias_ops(state, gone)
        self._kept = frozenset(kept)
        self._deleted = self._told(state, plan)
        return Commit(self.session.id, PackRanges.of(kept), tuple(ops))

    def _plan(self, state: State, gone: list[int]) -> Plan:
        """Worked out once for the same live runs: a lost slot to an entry that changes none of them costs no second count."""
        key = (gone, [(n, version.metadata.run) for n, version in state.versions.items()], state.moved)
        if self._planned is None or self._planned[0] != key:
            self._planned = key, plan_deletion(state, self._catalog, gone)
        return self._planned[1]

    def _stored(self, version: Version) -> tuple[bytes, bytes]:
        """Card and whole manifest (or nothing) of a version, to be stored again beside another run."""
        full = bytes(self._catalog.full(version).buffer) if version.metadata.full is not None else b""
        return self._catalog.card(version).encode(), full

    @staticmethod
    def _below(state: State, gone: list[int], n: int) -> int | None:
        return max((m for m in state.versions if m < n and m not in gone), default=None)

    @staticmethod
    def _alias_ops(state: State, gone: list[int]) -> Iterator[Op]:
        yield from (RemoveAlias(alias) for alias, n in sorted(state.aliases.items()) if n in gone and alias != LATEST)
        if state.aliases[LATEST] in gone:
            highest = max((n for n in state.versions if n not in gone), default=None)
            yield RemoveAlias(LATEST) if highest is None else SetAlias(LATEST, highest)

    @staticmethod
    def _told(state: State, plan: Plan) -> Deleted:
        dead = [pack for pack in plan.dead if pack not in plan.partly]
        return Deleted(
            plan.gone,
            sum(sum(chunks.values()) for chunks in plan.dead.values()),
            plan.stored,
            len(dead) + sum(len(state.versions[n].metadata.packs) for n in (*plan.gone, *plan.runs)),
            len(plan.partly),
            plan.passed,
        )

    @staticmethod
    def _counts(version: Version, run: Run, adds: int) -> Counts:
        """A version's counts with its new run."""
        changes = bytes(run.changes)
        return replace(version.counts, added=changes.count(0), changed=changes.count(1), removed=changes.count(2), adds=adds)

    def _rewrite(self, partly: dict[PackId, frozenset[bytes]]) -> Steps[dict[PackId, PackId]]:
        """Copy what is live of packs that die in part into new packs: old -> new. What an earlier attempt copied is used again where all
        of the new pack is still what it must be, as a pack is kept whole or not at all."""
        wanted = set(partly.items())
        moves: dict[PackId, PackId] = {}
        for copied, copy in self._copies.items():
            if wanted.issuperset(copied) and all(pack not in moves for pack, _ in copied):
                moves.update((pack, copy) for pack, _ in copied)
        groups: list[_Group] = []
        failed: Exception | None = None
        try:
            yield from self._send_copies(sorted(pack for pack in partly if pack not in moves), partly, groups)
        except Exception as error:  # noqa: BLE001 - a pack moved by somebody faster, say: what is sent by then is not sent again
            failed = error
        for done, copy in zip(groups, (yield from self._packer.collect()), strict=True):
            self._copies[tuple(done)] = copy
            moves.update((pack, copy) for pack, _ in done)
        if failed is not None:
            raise failed
        return moves

    def _send_copies(self, rest: list[PackId], partly: dict[PackId, frozenset[bytes]], groups: list[_Group]) -> Steps[None]:
        """Send what is live of these packs, and add to `groups` what each new pack was made from, in order."""
        builder, group, held = self._artifact.cipher.builder(), _Group(), set[bytes]()
        for start in range(0, len(rest), _AT_ONCE):
            packs = rest[start : start + _AT_ONCE]
            found = yield GetMany(tuple(self._artifact.pack_key(pack) for pack in packs), PACK_BYTES)
            for pack, stored in zip(packs, found, strict=True):
                if len(builder) and builder.size + len(stored or b"") > PACK_LIMIT:
                    yield from self._packer.send(builder)
                    groups.append(group)
                    builder, group, held = self._artifact.cipher.builder(), [], set()
                self._copy(pack, stored, partly[pack], builder, held)
                group.append((pack, partly[pack]))
        if group:
            yield from self._packer.send(builder)
            groups.append(group)

    def _copy(self, pack: PackId, stored: bytes | None, live: frozenset[bytes], builder: PackBuilder, held: set[bytes]) -> None:
        key = self._artifact.pack_key(pack)
        if stored is None:
            raise KeyMissingError(key)
        cipher = self._artifact.cipher
        rows = [row for row in cipher.whole(pack, stored) if row.digest in live]
        if len({row.digest for row in rows}) != len(live):
            raise CorruptError(f"{key} does not hold all that its runs name; `artifactmount verify {self._artifact.name}` tells more")
        copy_chunks(cipher, pack, stored, (row for row in rows if row.digest not in held), builder)
        held.update(row.digest for row in rows)  # two packs may have one, of snapshots that raced
