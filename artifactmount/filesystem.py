"""The project as an fsspec file system: `artifactmount://animals:latest/cat.png`, for pandas, pyarrow, datasets, dask and their like.

fsspec finds it by the entry point in pyproject.toml and imports this module when such a URL is first used; nothing else here imports it, so
fsspec is an optional dependency. What is in a version is known to `api.stored`, what a path means to `api.url`, what is said of it to
`entries`, and nothing is kept here but manifests of versions, which never change.

Names are answered as they were asked for: below `animals:latest` they begin so, below `animals/latest`, which is how a mount shows it,
they begin with that. Both lead to the same.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn
from weakref import WeakSet

from fsspec.config import apply_config
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from artifactmount.api.opened import Opened
from artifactmount.api.stored import Stored
from artifactmount.api.url import Place
from artifactmount.entries import Entry, artifact_entry, is_through_alias, link_of, listed_entry, row_entry, version_entries
from artifactmount.errors import (
    ArtifactError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    ReadOnlyError,
    errno_of,
)
from artifactmount.manifest import ROOT_ROW
from artifactmount.names import number_of, resolve
from artifactmount.pieces import Pieces
from artifactmount.project import Project, absolute
from artifactmount.reference import Referent
from artifactmount.rows import DEPTH_LIMIT, Kind, path_of
from artifactmount.settings import Settings, key_path, named
from artifactmount.state import State
from artifactmount.vectored import Slice, VectoredReader

_VERSIONS = 64  # manifests that are kept open
_BLOCK = 1 << 20  # bytes that an open file reads ahead
#: What fsspec itself takes, of any file system.
_OPTIONS_OF_FSSPEC = frozenset(
    ("add_aliases", "add_docs", "asynchronous", "listings_expiry_time", "loop", "max_paths", "skip_instance_cache", "use_listings_cache")
)


@contextmanager
def _explained() -> Iterator[None]:
    """Our errors as those that users of any file system expect: OSError, FileNotFoundError, IsADirectoryError, PermissionError."""
    try:
        yield
    except ArtifactError as error:
        raise OSError(errno_of(error), str(error)) from error


class _Process:
    """What one process has open. Threads share it; a forked process begins anew."""

    def __init__(self, settings: Settings) -> None:
        self.pid, self.vectored = os.getpid(), VectoredReader()
        self._opened = Opened(settings, create=False)
        self._kept: OrderedDict[tuple[str, int], Stored] = OrderedDict()
        self._lock = threading.Lock()
        with _processes_lock:
            _processes.add(self)

    @property
    def project(self) -> Project:
        """The project, opened when it is first asked for."""
        with self._lock:
            return self._opened.project

    def state(self, name: str) -> State:
        """The newest state of an artifact: one request. Raises NotFoundError where it has no version."""
        return self.project.existing(name)

    def states(self) -> dict[str, State]:
        """The newest states of all artifacts that have a version, by their names."""
        project = self.project
        states = {name: project.refresh(name) for name in project.names()}
        return {name: state for name, state in states.items() if state.versions}

    def stored(self, place: Place) -> Stored:
        """The version at a place. What an alias means is asked each time; a version, of which this process has not heard that it was
        deleted, is what it was. Raises NotFoundError."""
        number = number_of(place.version)
        state = None if number is None else self.project.proven(place.artifact)
        if state is None or number not in state.versions:
            state = self.state(place.artifact)
        key = place.artifact, resolve(state, place.reference).n
        with self._lock:
            if key not in self._kept:
                self._kept[key] = Stored(self._opened, *key, state)
            self._kept.move_to_end(key)
            while len(self._kept) > _VERSIONS:
                self._kept.popitem(last=False)
            return self._kept[key]


@dataclass(frozen=True, slots=True)
class _File:
    """A file that can be read. `name`: its path by the number of its version."""

    artifact: str
    name: str
    pieces: Pieces


_processes: WeakSet[_Process] = WeakSet()
_processes_lock = threading.Lock()
_abandoned: list[_Process] = []  # a parent's, in a forked child: letting go of them would close what is the parent's


def _before_fork() -> None:
    """Hold on to all: fsspec empties its cache of file systems in the child, and closing there what was in use here may wait for a lock
    that a thread held, which does not exist in the child."""
    _processes_lock.acquire()
    _abandoned.extend(process for process in _processes if process.pid == os.getpid())


def _after_in_parent() -> None:
    held = _abandoned.copy()
    _abandoned.clear()
    _abandoned.extend(process for process in held if process.pid != os.getpid())
    _processes_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_processes_lock.release)


def _resolved(
    project: str | None = None, cache: str | None = None, cache_size: str | None = None, key_file: str | None = None, **options: Any
) -> dict[str, Any]:
    """The options of a file system as they mean the same in any working directory and environment. Raises TypeError for one that nobody
    knows: a `projekt` must not mean the configured project."""
    # A dict is what fsspec's callers hand on for another protocol, by its name: datasets gives each file system that of the Hub.
    if unknown := sorted(name for name, value in options.items() if name not in _OPTIONS_OF_FSSPEC and not isinstance(value, dict)):
        raise TypeError(f"artifactmount:// knows no option {unknown[0]!r}; it knows project, cache, cache_size, key_file")
    with _explained():
        settings = Settings(project, cache)
        size = cache_size or os.environ.get("ARTIFACTMOUNT_CACHE_SIZE")
        key = os.environ.get("ARTIFACTMOUNT_KEY_FILE") if key_file is None else named(key_file, "key_file")
        found = {"project": absolute(settings.url), "cache": settings.cache_path, "cache_size": size, "key_file": key and key_path(key)}
    return options | {name: value for name, value in found.items() if value}


class _Resolving(type(AbstractFileSystem)):  # type: ignore[misc]
    """fsspec keeps file systems by their options, and pickles those: what is not among them, as it is configured, would be another project
    where the configuration is another. So the options are resolved before fsspec sees them."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if cls is not ArtifactFileSystem:  # a subclass has options of its own, and says itself what they mean
            return super().__call__(*args, **options)
        names = ("project", "cache", "cache_size", "key_file")
        given = apply_config(cls, options) | dict(zip(names, args, strict=False))
        return super().__call__(*args[len(names) :], **_resolved(**given))


class ArtifactFileSystem(AbstractFileSystem, metaclass=_Resolving):  # type: ignore[misc]
    """Every version of every artifact of a project, to be read.

    `project`: `s3://bucket/prefix` or a folder, else the configured one, as on the command line. `cache`: a folder; `cache_size`: such as
    "20G"; `key_file`: of an encrypted project. Errors are OSErrors: FileNotFoundError where nothing is, PermissionError where the store
    denies it. It can be pickled, used by several threads, and in a forked process, which opens the project anew. What is configured is
    looked up once, when it is made: it stays with that project wherever it goes.
    """

    protocol = "artifactmount"

    def __init__(
        self,
        project: str | None = None,
        cache: str | None = None,
        cache_size: str | None = None,
        key_file: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._settings = Settings(project, cache, cache_size, key_file)
        self._process = _Process(self._settings)

    @property
    def _here(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(self._settings)
        return self._process

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.strip("/")

    def _place(self, path: str) -> Place:
        return Place.of(self._strip_protocol(path))

    # -- what there is ---------------------------------------------------------------------------------------------------------------
    def info(self, path: str, **_: Any) -> Entry:
        """What stands at a path: `name`, `type` ("file" or "directory"), `size` in bytes, `mtime` in seconds.

        In a version also `version` ("v3"), `digest` (of the content, in hex; of a folder all below it) and, for what compares those,
        `ETag`, the same. Symlinks and aliases are followed, and have `islink` and `destination`; references have their URI in `reference`.
        Raises FileNotFoundError.
        """
        with _explained():
            place = self._place(path)
            if not place.version:
                if not place.artifact:
                    return {"name": "", "type": "directory", "size": 0}
                return artifact_entry(place.artifact, self._here.state(place.artifact))
            stored = self._here.stored(place)
            row = stored.locate(place.path)
            entry = row_entry(stored, place.name(place.path), row)
            typed = stored.table.lookup(place.path)
            if not place.path and number_of(place.version) is None:
                entry |= {"islink": True, "destination": entry["version"]}
            elif typed >= 0 and stored.table.kind(typed) is Kind.SYMLINK:
                entry |= link_of(stored, typed)
            if row >= 0 and stored.table.kind(row) is Kind.REFERENCE:
                kept = stored.row(row)
                entry["reference"] = Referent.decode(kept.run.target(kept.row)).uri
            return entry

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The entries of a folder, as `info` has them, or their names; of a file its own. A symlink in a version that leads to a folder, or
        nowhere, has the type "link" here, so that nothing that descends goes round in circles. Raises FileNotFoundError."""
        with _explained():
            entries = self._listed(self._place(path))
        return entries if detail else [entry["name"] for entry in entries]

    def _listed(self, place: Place) -> list[Entry]:
        if not place.artifact:
            return [artifact_entry(name, state) for name, state in self._here.states().items()]
        if not place.version:
            return version_entries(place.artifact, self._here.state(place.artifact))
        stored = self._here.stored(place)
        table, row = stored.table, stored.locate(place.path)
        if table.kind(row) is not Kind.DIRECTORY:
            return [self.info(place.name(place.path))]
        rows = range(*table.span(table.key_of(row)))
        return [listed_entry(stored, place.name(os.path.join(place.path, table.name(each))), each) for each in rows]

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """What a pattern matches; `*/latest/x` goes through aliases, as in a mount."""
        return super().glob(path, maxdepth, aliases=True, **options)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        aliases: bool = False,
        **options: Any,
    ) -> Any:
        """All files below a path, in order, of one version, whatever happens to an alias meanwhile; symlinks that lead to files too. Of an
        artifact or all of them each version once: not again by its aliases, or `du` and `get` would count and copy it as often."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        with _explained(), suppress(NotFoundError, NotDirectoryError):  # below what is not there is nothing, as in any file system
            place = self._place(path)
            if not place.version:
                found = super().find(path, maxdepth, withdirs, detail=True, **options)
                if not aliases:
                    found = {name: entry for name, entry in found.items() if not is_through_alias(name)}
                return found if detail else sorted(found)
            found = dict(self._found(place, maxdepth or DEPTH_LIMIT, withdirs, detail))
            return dict(sorted(found.items())) if detail else sorted(found)
        return {} if detail else []

    def _found(self, place: Place, depth: int, withdirs: bool, detail: bool) -> Iterator[tuple[str, Entry | None]]:
        """Names, and what is said of them where that is asked for: of a million files it would take half a gigabyte."""
        stored = self._here.stored(place)
        table, row = stored.table, stored.locate(place.path)
        is_folder = table.kind(row) is Kind.DIRECTORY
        if not is_folder or withdirs:
            asked = place.name(place.path)
            yield asked, self.info(asked)
        if is_folder:
            key = table.key_of(row)
            start = len(key) + 1 if key else 0
            for directory, name, each in table.walk(*table.under(key)):
                path = path_of(directory, name)[start:]
                kind = table.kind(each)
                if path.count(b"/") < depth and (withdirs or kind is not Kind.DIRECTORY):
                    shown = place.name(os.path.join(place.path, path))
                    entry = listed_entry(stored, shown, each) if detail or kind is Kind.SYMLINK else None
                    if entry is None or entry["type"] != "link":
                        yield shown, entry

    def exists(self, path: str, **_: Any) -> bool:
        """Whether something is there. Raises OSError where that cannot be known, as the store does not answer."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether a file or reference is there. Raises as `exists`."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether a folder is there: the project, an artifact, a version too. Raises as `exists`."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def ukey(self, path: str) -> str:
        """What changes when the content at a path does: its digest."""
        entry = self.info(path)
        return str(entry["digest"]) if "digest" in entry else str(super().ukey(path))

    def checksum(self, path: str) -> int:
        """The same as a number."""
        return int(self.ukey(path), 16)

    def modified(self, path: str) -> datetime:
        """The time of modification of a file; of a folder that of its version, of an artifact that of its newest one."""
        entry = self.info(path)
        if "mtime" not in entry:
            raise NotImplementedError("a project has no time of modification")
        return datetime.fromtimestamp(entry["mtime"], UTC)

    # -- reading ---------------------------------------------------------------------------------------------------------------------
    def _file(self, path: str) -> _File:
        place = self._place(path)
        stored = self._here.stored(place) if place.version else None
        row = ROOT_ROW if stored is None else stored.locate(place.path)
        if stored is None or stored.table.kind(row) is Kind.DIRECTORY:
            raise IsDirectoryError(f"{path} is a folder")
        return _File(place.artifact, f"{stored.reference}/{os.fsdecode(place.path)}", stored.pieces_of(stored.row(row)))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> ArtifactFile:
        if mode != "rb":
            self._refuse()
        with _explained():
            file = self._file(path)
        options["size"] = file.pieces.size  # what a pickled file says of it is the same
        return ArtifactFile(self, file.name, block_size=block_size or _BLOCK, cache_options=cache_options, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes [start, end) of a file; below zero counts from its end. Several requests at once, where it takes several."""
        content: bytes = self._slices([path], [start], [end])[0]
        return content

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of many files, in order, as `cat_file` gives each; what lies together in the store is fetched once. `max_gap` has no
        meaning here. An error stands in the place of its bytes, unless `on_error` is "raise"."""
        bounds = [each if isinstance(each, list) else [each] * len(paths) for each in (starts, ends)]
        return self._slices(paths, *bounds, raising=on_error == "raise")

    def _slices(self, paths: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None], *, raising: bool = True) -> list[Any]:
        answers: list[bytes | ArtifactError] = [b""] * len(paths)
        files: dict[str, _File | ArtifactError] = {}
        slices: dict[int, Slice] = {}
        for number, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            if path not in files:
                files[path] = self._file_or_error(path)
            file = files[path]
            if isinstance(file, ArtifactError):
                answers[number] = file
            else:
                first, last, _ = slice(start, end).indices(file.pieces.size)
                slices[number] = Slice(file.artifact, file.pieces, first, last)
        for number, content in zip(slices, self._here.vectored.read(list(slices.values())), strict=True):
            answers[number] = content
        return [_raised(answer, raising) if isinstance(answer, ArtifactError) else answer for answer in answers]

    def _file_or_error(self, path: str) -> _File | ArtifactError:
        try:
            return self._file(path)
        except ArtifactError as error:
            return error

    # -- what it does not do ---------------------------------------------------------------------------------------------------------
    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raises OSError: nothing is changed here."""
        raise OSError(ReadOnlyError.errno, "artifactmount:// is read-only; `artifactmount snapshot DIR ARTIFACT` makes a new version")

    mkdir = makedirs = rmdir = touch = _refuse
    put = put_file = pipe = pipe_file = write_text = _refuse
    copy = cp_file = mv = rm = rm_file = _rm = _refuse


class ArtifactFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file. It stays with the version that its alias meant when it was opened, also when it is pickled: `path` says which."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start, end))


def _raised(error: ArtifactError, raising: bool) -> OSError:
    """The error for an answer, or raised."""
    try:
        with _explained():
            raise error
    except OSError as explained:
        if raising:
            raise
        return explained
