"""Every byte of a project, or of one version, read from the store and checked; what is wrong is listed, not raised.

What is checked: project.json; the log, entry by entry from the first, with what each refused act says; the checkpoints; every live pack
(table, stored bytes, each chunk's digest); each live version's card, run and manifest; that every place a run names holds that chunk;
that every reference's record can be read, and, where that is asked for, that its source is what was recorded; and that the log accounts for
every key of an artifact. Garbage that a later sweep takes away is not looked at.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from artifactmount.artifact import STORED_CHECKPOINT_LIMIT, Artifact, read_entries
from artifactmount.card import Card
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    KeyMissingError,
    NeedsNewerError,
    NotFoundError,
    ProjectMismatchError,
    SourceError,
)
from artifactmount.fold import fold
from artifactmount.log import CHECKPOINT_EVERY, encode_checkpoint, entry_digest
from artifactmount.names import Reference, resolve
from artifactmount.pack import HEAD_LENGTH, PACK_BYTES, TableRow
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.ranges import PackId, PackRanges
from artifactmount.reference import Referent
from artifactmount.rows import Change, Kind, kind_of, path_of, show_path
from artifactmount.run import ChunkRef, Run
from artifactmount.sources.access import Sources
from artifactmount.state import State, Version
from artifactmount.steps import drive

_ENTRIES = 64
_AHEAD = 8  # packs read at once
_SOURCES = 16  # sources of references asked at once
_TABLES = 64
_TABLE_ROWS = 1 << 19  # of all tables kept but the last few: 300 bytes each
_PAGE = 1000
_ENTRY = re.compile(r"[0-9]{16}")
_TRIES = 3
#: Who finds so many in an artifact has found enough: a few bytes of a log can name a hundred million packs that are not there.
_PROBLEMS = 1000
#: What is wrong with one artifact's log, and ends its check, not that of the others.
_OF_A_LOG = (CorruptError, NeedsNewerError, ProjectMismatchError)


@dataclass(slots=True)
class Report:
    """What was read, and what is wrong: a line each that says what and where."""

    packs: int = 0
    bytes: int = 0
    references: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    project: Project,
    reference: Reference | None,
    progress: Progress | None = None,
    *,
    quick: bool = False,
    sources: Sources | None = None,
) -> Report:
    """Check a whole project, an artifact, or one version. `quick`: of packs only the tables of contents are read.

    `sources`: ask there, too, whether what references lead to is what was recorded. Raises NotFoundError, and StoreError when the store
    cannot be asked.
    """
    report = Report()
    project.check_document()
    report.problems += project.key_problems()
    names = project.names() if reference is None else [reference.artifact]
    if reference is None:
        gone = project.vanished(names)
        report.problems += [f"{name}: this machine saw it, and the store has nothing of it any more, not even its log" for name in gone]
    for name in names:
        found = Report()
        for _ in range(_TRIES):
            found = Report()
            seq = _Verification(project, name, found, progress or Silent(), quick, sources).run(reference)
            # What was deleted or moved while it was looked at is no damage: the newer state is looked at instead.
            if not found.problems or _newest(project, name) == seq:
                break
        report.packs, report.bytes = report.packs + found.packs, report.bytes + found.bytes
        report.references += found.references
        report.problems += found.problems
    return report


def _newest(project: Project, name: str) -> int:
    """The number of an artifact's newest entry; −1 where the log cannot be read, which is a problem that was found already."""
    try:
        return project.refresh(name).seq
    except _OF_A_LOG:
        return -1


class _Verification:
    """The check of one artifact."""

    def __init__(self, project: Project, name: str, report: Report, progress: Progress, quick: bool, sources: Sources | None) -> None:
        self._project, self._artifact, self._report, self._progress = project, project.artifact(name), report, progress
        self._sources = sources
        self._referents: set[tuple[bytes, int]] = set()  # (digest of the record, size) looked at
        self._packs = _Packs(project, self._artifact, report, progress, quick)

    def run(self, reference: Reference | None) -> int:
        """Fill the report; the number of the last entry that was looked at."""
        name = self._artifact.name
        try:
            state = self._replay()
        except _OF_A_LOG as error:
            self._report.problems.append(f"{name}: {error}")
            return -1
        try:
            self._look(state, reference)
        except _EnoughError:
            self._report.problems.append(f"{name}: more than {_PROBLEMS} problems; nothing further was looked at")
        self._progress.end()
        return state.seq

    def _look(self, state: State, reference: Reference | None) -> None:
        name = self._artifact.name
        if reference is None:
            reference = Reference(name)
        elif state.seq < 0:
            raise NotFoundError(f"no artifact {name}; `artifactmount ls` lists what there is")
        chosen = list(state.versions) if reference.version is None else state.chain(resolve(state, reference).n)
        self._progress.begin(f"verifying {name}", 0, len(state.packs))
        with self._packs:
            for n in chosen:
                self._version(state, state.versions[n])
            if reference.version is None:
                self._packs.check(state.packs)
                self._account(state.seq)

    def _account(self, seq: int) -> None:
        """Every key is an entry, a checkpoint that was due, or content: live, trash, garbage to sweep, or of an open session."""
        after = ""
        while True:
            page = self._project.store.list_keys(self._artifact.prefix, after, _PAGE)
            strange = [item.key for item in page if not self._explains(seq, item.key)]
            if strange:  # perhaps of a later entry, written while this was at work
                seq = max(seq, self._project.refresh(self._artifact.name).seq)
            for key in strange:
                if not self._explains(seq, key):
                    self._report.problems.append(f"{key}: no entry of the log accounts for it")
                    _check_enough(self._report)
            if len(page) < _PAGE or page[-1].key <= after:
                return
            after = page[-1].key

    def _explains(self, seq: int, key: str) -> bool:
        """Whether a log up to entry `seq` accounts for a key."""
        kind, _, rest = key.removeprefix(self._artifact.prefix).partition("/")
        if kind == "data":
            pack = self._artifact.pack_of(key)
            return pack is not None and pack.session <= seq
        number = int(rest) if rest.isdecimal() else seq + 1
        if kind == "state":
            return number <= seq and (number + 1) % CHECKPOINT_EVERY == 0 and key == self._artifact.checkpoint_key(number)
        return number <= seq and key == self._artifact.log_key(number)

    # -- the log -------------------------------------------------------------------------------------------------------------------
    def _replay(self) -> State:
        """The state folded from the first entry on; checkpoints are compared on the way. Raises CorruptError."""
        state, read_again = self._artifact.empty(), -2
        while True:
            found = drive(self._project.store, read_entries(self._artifact, state.seq + 1, state.seq + 1 + _ENTRIES))
            for data in found:
                if data is None:
                    if not self._goes_on(state):
                        return state
                    if read_again == state.seq:
                        raise CorruptError(f"the log has a hole at entry {state.seq + 1}")
                    read_again = state.seq  # it may have been written just now
                    break
                if (state.seq + 1) % CHECKPOINT_EVERY == 0:
                    self._checkpoint(state)
                entry = self._artifact.decode_entry(data, state.seq + 1)
                if entry.prev != state.digest:
                    raise CorruptError(f"entry {entry.seq} does not follow entry {state.seq}")
                state, _ = fold(state, entry, entry_digest(data))

    def _checkpoint(self, state: State) -> None:
        if state.seq < 0:
            return
        key = self._artifact.checkpoint_key(state.seq)
        try:
            stored = self._project.store.get(key, 0, STORED_CHECKPOINT_LIMIT)
        except KeyMissingError:
            return  # derived: it costs readers time only
        try:
            good = self._artifact.open_checkpoint(stored, state.seq) == encode_checkpoint(state)
        except CorruptError:
            good = False
        if not good:
            self._report.problems.append(f"{key}: not the log up to entry {state.seq}")

    def _goes_on(self, state: State) -> bool:
        """Whether there are entries behind a missing one: a listing tells, and what this machine has seen before."""
        prefix, last = f"{self._artifact.prefix}log/", self._artifact.log_key(state.seq)
        behind = self._project.store.list_keys(prefix, last, _PAGE)
        if any(_ENTRY.fullmatch(item.key.removeprefix(prefix)) for item in behind):  # what is called else is no entry: see `_account`
            return True
        return self._project.refresh(self._artifact.name).seq > state.seq

    # -- versions ------------------------------------------------------------------------------------------------------------------
    def _version(self, state: State, version: Version) -> None:
        where = f"{self._artifact.name}:v{version.n}"
        self._packs.check(version.metadata.packs)
        try:
            card, delta, full = self._project.catalog(self._artifact.name).read_stored(version)
            Card.decode(card)
            name = self._artifact.cipher.chunking.digest
            runs = [Run(delta, version.metadata.run, name=name)]
            if version.metadata.full is not None:
                runs.append(Run(full, version.metadata.full, name=name))
            table = self._project.catalog(self._artifact.name).table(state, version.n)
        except (CorruptError, KeyMissingError) as error:
            self._report.problems.append(f"{where}: {error}")
            return
        counts = version.counts
        if table.count != counts.files + counts.directories + counts.symlinks + counts.references:
            self._report.problems.append(f"{where}: its files are not as many as its log entry says")
        if PackRanges.of(runs[0].packs) != version.packs:
            self._report.problems.append(f"{where}: its log entry does not name the packs that its run names")
        for run in runs:
            self._report.problems += [
                f"{where}: names {self._artifact.pack_key(pack)}, which is not live"
                for pack in run.packs
                if state.resolve(pack) not in state.packs
            ]
            self._places(state, where, run)
            self._references(where, run)

    def _references(self, where: str, run: Run) -> None:
        """Whether each record can be read, and if sources are to be asked, whether each says what it said then."""
        rows = self._new_references(run)
        with ThreadPoolExecutor(_SOURCES) as pool:
            while window := list(islice(rows, 8 * _SOURCES)):
                found = pool.map(self._reference, [(run.target(row), run.size(row)) for row, _ in window])
                for (_, path), problem in zip(window, found, strict=True):
                    self._report.references += 1
                    if problem is not None:
                        self._report.problems.append(f"{where} {show_path(path)}: {problem}")

    def _new_references(self, run: Run) -> Iterator[tuple[int, bytes]]:
        """(row, path) of references not looked at yet."""
        names, modes, at = run.names, bytes(run.modes), run.name_offsets()
        for key, start, stop in run.directories():
            for row in range(start, stop):
                if kind_of(modes[row]) is Kind.REFERENCE and run.changes[row] != Change.REMOVED:
                    which = run.digest_of(row), run.size(row)
                    if which not in self._referents:
                        self._referents.add(which)
                        yield row, path_of(key, bytes(names[at[row] : at[row + 1]]))

    def _reference(self, what: tuple[bytes, int]) -> ArtifactError | None:
        record, size = what
        try:
            referent = Referent.decode(record)
            if self._sources is not None:
                self._sources.check(referent, size)
        except (CorruptError, NeedsNewerError, SourceError) as error:
            return error
        return None

    def _places(self, state: State, where: str, run: Run) -> None:
        """Whether each chunk is where the run says. Rows are taken pack by pack, so that each pack is read once."""
        rows: dict[PackId, list[int]] = {}
        for row in range(run.count):
            if refs := run.chunks(row):
                rows.setdefault(state.resolve(refs[0].place.pack), []).append(row)
        order = iter(sorted(rows))
        while window := list(islice(order, _AHEAD)):
            self._packs.check(window)
            for row in (row for pack in window for row in rows[pack]):
                for ref in run.chunks(row):
                    if not self._is_there(state, ref):
                        key = self._artifact.pack_key(state.resolve(ref.place.pack))
                        self._report.problems.append(f"{where} {show_path(run.path(row))}: chunk {ref.digest.hex()[:16]} is not in {key}")
                        _check_enough(self._report)

    def _is_there(self, state: State, ref: ChunkRef) -> bool:
        pack, place = state.resolve(ref.place.pack), ref.place
        found = (self._packs.table(pack) or {}).get(ref.digest)
        if found is None or pack != place.pack:  # what was moved is found by the new pack's own table
            return found is not None
        return (found.offset, found.stored, found.plain) == (place.offset, place.stored, place.plain)


class _EnoughError(Exception):
    """Looking further would tell nothing new."""


def _check_enough(report: Report) -> None:
    if len(report.problems) > _PROBLEMS:
        raise _EnoughError


class _Packs:
    """Live packs, each read and checked once; the tables of the last few, chunks that are right only."""

    def __init__(self, project: Project, artifact: Artifact, report: Report, progress: Progress, quick: bool) -> None:
        self._project, self._artifact, self._report, self._progress, self._quick = project, artifact, report, progress, quick
        self._tables: OrderedDict[PackId, dict[bytes, TableRow] | None] = OrderedDict()
        self._checked: set[PackId] = set()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Packs:
        self._pool = ThreadPoolExecutor(_AHEAD)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(cancel_futures=True)

    def check(self, packs: Iterable[PackId]) -> None:
        """Read packs, several at once, unless that was done before."""
        assert self._pool is not None
        order = iter(pack for pack in packs if pack not in self._checked)
        while window := list(islice(order, _AHEAD)):
            for pack, result in zip(window, self._pool.map(self._read, window), strict=True):
                self._checked.add(pack)
                self._keep(pack, result)

    def _keep(self, pack: PackId, read: _Read) -> None:
        self._remember(pack, read)
        self._report.problems += read.problems
        _check_enough(self._report)
        self._report.packs += 1
        self._report.bytes += read.size
        self._progress.advance(read.size, 1)

    def _remember(self, pack: PackId, read: _Read) -> None:
        self._tables[pack] = read.good
        while len(self._tables) > _TABLES or (len(self._tables) > _AHEAD and sum(map(_rows, self._tables.values())) > _TABLE_ROWS):
            self._tables.popitem(last=False)

    def table(self, pack: PackId) -> dict[bytes, TableRow] | None:
        """The chunks of a pack that are right, by digest; None when the pack cannot be read."""
        if pack not in self._checked:
            self.check([pack])
        if pack not in self._tables:
            self._remember(pack, self._read(pack))
        self._tables.move_to_end(pack)
        return self._tables[pack]

    def _read(self, pack: PackId) -> _Read:
        key, cipher = self._artifact.pack_key(pack), self._artifact.cipher
        try:
            if self._quick:
                head = self._project.store.get(key, 0, HEAD_LENGTH)
                table = self._project.store.get(key, 0, cipher.front_length(cipher.count(head)))
                return _Read({row.digest: row for row in cipher.table(pack, table)}, [], len(table))
            stored = self._project.store.get(key, 0, PACK_BYTES)
            rows = cipher.table(pack, stored)
        except (CorruptError, KeyMissingError) as error:
            return _Read(None, [f"{key}: {error}"], 0)
        good: dict[bytes, TableRow] = {}
        problems: list[str] = []
        for row in rows:
            try:
                cipher.chunk(pack, row.offset, stored[row.offset : row.offset + row.stored], row.plain, row.digest)
                good[row.digest] = row
            except CorruptError as error:
                problems.append(f"{key}: {error}")
        if not problems:
            try:
                cipher.whole(pack, stored)  # a frame has bits that unpacking ignores; the pack's own checksum does not
            except CorruptError as error:
                problems.append(f"{key}: {error}")
        return _Read(good, problems, len(stored))


def _rows(table: dict[bytes, TableRow] | None) -> int:
    return len(table) if table is not None else 0


@dataclass(frozen=True, slots=True)
class _Read:
    """A pack as it was read: its right chunks, what is wrong, its bytes."""

    good: dict[bytes, TableRow] | None
    problems: list[str]
    size: int
