"""An artifact as a script holds it: a draft that is being put together, then, once logged, a version."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

from artifactmount.alias import remove as remove_aliases
from artifactmount.api.checks import checked_aliases, checked_metadata, checked_path, checked_tags
from artifactmount.api.collection import Collection
from artifactmount.api.current import current
from artifactmount.api.draft import Draft
from artifactmount.api.entry import Entry, Manifest
from artifactmount.api.facts import Facts
from artifactmount.api.opened import Opened
from artifactmount.api.stored import Stored
from artifactmount.assembly import AssembledStaging, Assembly, Kept, Local, Place, Referenced
from artifactmount.delete import delete_versions
from artifactmount.describe import describe
from artifactmount.errors import ArgumentError, ArtifactFinalizedError, MissingEntryError, NotSupportedError
from artifactmount.project import Project
from artifactmount.proposal import Options
from artifactmount.settings import Settings
from artifactmount.snapshot import check_apart, take_staged
from artifactmount.state import LATEST

#: W&B's default; `max_objects` of add_reference.
MAX_OBJECTS = 10_000_000


class Artifact(Facts):
    """Files under one name. Made by a script it is a draft; `run.log_artifact` makes it a version, and from then on it cannot be changed,
    but for what is said of it (`description`, `metadata`, `aliases`, `tags`, `ttl`; then `save()`).

    `name`: letters, digits, `_ . -`, at most 128, not beginning with `.` or `-`. `type`: any text of at most 128 characters, one for all
    versions of a name. `metadata`: what JSON can hold, at most 100 keys and 1 MiB; NaN becomes None. `incremental`: when it is logged, what
    the newest version has and this has not is kept. `use_as`, `storage_region`, `digest_algorithm` are taken and have no meaning here.

    Raises ArgumentError (a ValueError) for a bad name, type or metadata, ArgumentTypeError (a TypeError) for metadata that is no dict.
    """

    @classmethod
    def _of(cls, stored: Stored) -> Artifact:
        """A version that is there."""
        artifact = cls(stored.name, stored.type)
        artifact._become(stored)
        return artifact

    def _become(self, stored: Stored) -> None:
        """The draft was logged, or the version is another now."""
        card = stored.card
        self._description, self._metadata = card.note or None, card.metadata
        self._tags, self._ttl, self._aliases = card.labels.tags, card.labels.ttl, stored.aliases
        if self._draft is not None:
            self._draft.close()
        self._draft, self._stored, self._manifest, self._final = None, stored, None, True

    def _editable(self) -> Draft:
        if self._draft is None or self._final:
            raise ArtifactFinalizedError(f"{self.name} is logged and cannot be changed; new_draft() makes a draft of it")
        self._manifest = None
        return self._draft

    # -- building --------------------------------------------------------------------------------------------------------------------
    def add_file(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        is_tmp: bool | None = False,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        overwrite: bool = False,
    ) -> Entry:
        """Add a file, as `name` (default: its own). It is read where it lies when the artifact is logged, and must be what it is now.

        `is_tmp`, `skip_cache` have no meaning here; neither has `policy`, as nothing is copied. Raises ArgumentError when it is no file, or
        the path has other content already (not with `overwrite`); ArtifactFinalizedError.
        """
        _check_policy(policy)
        path = self._editable().add_file(os.fspath(local_path), name, overwrite=overwrite)
        return self.get_entry(os.fsdecode(path))

    def add_dir(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        merge: bool = False,
    ) -> None:
        """Add all that is in a folder, at the top or below `name`: files, symlinks as they are, empty folders, executable bits.

        It is listed now, and read when the artifact is logged. `merge`: replace what has other content already, and remove nothing. Raises
        ArgumentError when it is no folder, holds what cannot be versioned, or meets other content; ArtifactFinalizedError.
        """
        _check_policy(policy)
        self._editable().add_dir(os.fspath(local_path), name, merge=merge)

    def add_reference(
        self, uri: str | Entry, name: str | None = None, checksum: bool = True, max_objects: int | None = None
    ) -> list[Entry]:
        """Add what lies at `s3://…`, `file://…` or `http(s)://…` without its bytes: one file as `name` (default: its own name), or all that
        is below, at the top or below `name`. An entry of another artifact's version is added as the file that it is.

        `checksum=False`: nothing but the size is kept that would tell a change. Raises ArgumentError for no URI, nothing there, other
        content at a path, or more than `max_objects` (default 10,000,000); SourceError; ArtifactFinalizedError.
        """
        draft = self._editable()
        if isinstance(uri, Entry):
            return [self._add_entry(draft, uri, name)]
        with Settings().sources() as sources:
            paths = draft.add_reference(
                sources, uri, name, checksum=checksum, max_objects=MAX_OBJECTS if max_objects is None else max_objects
            )
        return [self.get_entry(os.fsdecode(path)) for path in paths]

    def _add_entry(self, draft: Draft, entry: Entry, name: str | None) -> Entry:
        parent: Artifact = entry.parent_artifact()
        stored, row = parent._stored_version(), entry.row
        if parent._name == self._name and (self._base is None or self._base.opened.url == stored.opened.url):
            self._base = stored
        elif entry.kind == "symlink":
            raise NotSupportedError(f"{entry.path} is a symlink of another artifact; add the file that it leads to")
        elif entry.referent is not None and isinstance(row, Kept):
            row = Referenced(entry.referent.encode(), row.size, row.run.mtime(row.row))
        else:
            row = stored.foreign(os.fsencode(entry.path))
        path = checked_path(entry.path if name is None else name)
        draft.put(path, row)
        return self.get_entry(os.fsdecode(path))

    def new_file(
        self, name: str, mode: str = "x", encoding: str | None = None, policy: str | None = "mutable"
    ) -> AbstractContextManager[IO[Any]]:
        """`with artifact.new_file("notes.txt") as file:` a file to write, which is added when the block ends without an error.

        `mode`: "x" (the path must be free), "w"; "xb", "wb" for bytes. This is the one thing that is written to a temporary folder, until
        the artifact is logged. Raises ArgumentError, ArtifactFinalizedError.
        """
        _check_policy(policy)
        return self._editable().new_file(name, mode, encoding)

    def remove(self, item: str | os.PathLike[str] | Entry) -> None:
        """Take away a file, or a folder with all below. Raises MissingFileError (a FileNotFoundError), ArtifactFinalizedError."""
        draft = self._editable()
        draft.remove(checked_path(item.path if isinstance(item, Entry) else os.fspath(item).rstrip("/")))

    def new_draft(self) -> Artifact:
        """A draft with all that this version has: files, references, description, metadata; not its aliases, tags and time to live.

        Nothing is downloaded: what stays in it is not read and not stored again. Raises ArtifactNotLoggedError.
        """
        stored = self._stored_version()
        draft = type(self)(self._name, self._type, self._description, self._metadata)
        draft._base = stored
        draft._draft = Draft(stored.opened.project.artifact(self._name).cipher.chunking.digest)
        for path, row in stored.rows():
            draft._draft.assembly.put(path, row)
        return draft

    def finalize(self) -> None:
        """From now on nothing can be added or removed."""
        self._final = True

    # -- reading ---------------------------------------------------------------------------------------------------------------------
    @property
    def manifest(self) -> Manifest:
        """All files, symlinks and references by path: `artifact.manifest.entries["cats/1.png"]`."""
        if self._manifest is None:
            self._manifest = Manifest({os.fsdecode(path): Entry(self, path, row) for path, row in self._rows()})
        return self._manifest

    def files(self, names: Iterable[str] | None = None, per_page: int = 50, start: str | None = None) -> Iterator[Entry]:
        """Its files, symlinks and references; with `names` these alone. `per_page` and `start` have no meaning here."""
        wanted = None if names is None else set(names)
        yield from (entry for path, entry in self.manifest.entries.items() if wanted is None or path in wanted)

    def get_entry(self, name: str | os.PathLike[str]) -> Entry:
        """The entry at a path. Raises MissingEntryError (a KeyError)."""
        path = checked_path(name)
        if self._stored is not None:
            return Entry(self, path, self._stored.find(path))
        assert self._draft is not None
        row = self._draft.assembly.find(path) if self._draft.has(path) else None
        if row is None:
            raise MissingEntryError(f"no file {os.fsdecode(path)} in {self.name}")
        return Entry(self, path, row)

    get_path = get_entry

    def get_added_local_path_name(self, local_path: str) -> str | None:
        """The path in the draft of a file of this machine that was added; None where it was not."""
        path = None if self._draft is None else self._draft.added_as(local_path)
        return None if path is None else os.fsdecode(path)

    def _digest_of(self, entry: Entry) -> str:
        return entry.content_digest

    def _root(self, root: str | os.PathLike[str] | None, *, with_version: bool = True) -> str:
        if root is not None:
            return os.fspath(root)
        return os.path.join(self._folder(), self.name if with_version else self._name)

    def _folder(self) -> str:
        """Where downloads go that name no folder."""
        return os.path.join(".", "artifacts")

    def open(self, path: str | os.PathLike[str], mode: str = "rb", encoding: str | None = None) -> IO[Any]:
        """A file of it to read from, without a download: seekable, verified, cached. `mode`: "rb", or "r" for text.

        Raises ArtifactNotLoggedError, MissingEntryError (a KeyError), IsDirectoryError; while reading GoneError, CorruptError, StoreError.
        """
        if mode not in ("rb", "r", "rt"):
            raise ArgumentError(f'versions do not change; open with mode "rb" or "r", not {mode!r}')
        stream = self._stored_version().stream(checked_path(path))
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding=encoding)

    def mounted(self) -> AbstractContextManager[str]:
        """`with artifact.mounted() as folder:` its files by a path, for programs, without a copy.

        A mount that shows the project is used; else one is made, and taken away at the end. Raises ArtifactNotLoggedError, NotFoundError,
        RefusedError where nothing can be mounted (no /dev/fuse).
        """
        return self._stored_version().mounted()

    def download(
        self,
        root: str | os.PathLike[str] | None = None,
        allow_missing_references: bool = False,
        skip_cache: bool | None = None,
        path_prefix: str | os.PathLike[str] | None = None,
        multipart: bool | None = None,
    ) -> str:
        """Write its files below `root` (default: `./artifacts/NAME:vN`), several at once; where they are then.

        What is there and right is kept, so an interrupted download goes on; what differs is replaced; other files stay. `path_prefix`: only
        paths that begin so. `skip_cache`, `multipart` have no meaning here. Raises ArtifactNotLoggedError; RefusedError when a folder is in
        the place of a file; CorruptError, StoreError; SourceError for a reference that cannot be had (`allow_missing_references` skips it).
        """
        stored, root = self._stored_version(), self._root(root)
        prefix = b"" if path_prefix is None else os.fsencode(path_prefix)
        stored.download(root, prefix=prefix, allow_missing=allow_missing_references)
        return root

    def checkout(self, root: str | os.PathLike[str] | None = None) -> str:
        """Make `root` (default: `./artifacts/NAME`) what the version is: **what is not of it is deleted there**. Returns it.

        Raises what `download` raises; RefusedError for your home folder, and for a folder of the project or cache.
        """
        stored, root = self._stored_version(), self._root(root, with_version=False)
        stored.checkout(root)
        return root

    def verify(self, root: str | os.PathLike[str] | None = None) -> None:
        """Compare the files below `root` (default as `download`) with it, byte by byte; what references lead to by size and time.

        Raises ArgumentError for a file that is not of it, or differs; MissingFileError (a FileNotFoundError) for one that is missing.
        """
        stored, root = self._stored_version(), self._root(root)
        stored.verify(root)

    def file(self, root: str | os.PathLike[str] | None = None) -> str:
        """Download an artifact of one file; where that is then. Raises ArgumentError when there are more, or none."""
        entries = list(self.manifest.entries.values())
        if len(entries) != 1:
            raise ArgumentError(f"{self.name} has {len(entries)} files, not one; download() writes all of them")
        return entries[0].download(None if root is None else os.fspath(root))

    # -- the project -----------------------------------------------------------------------------------------------------------------
    def wait(self, timeout: float | None = None) -> Artifact:
        """Itself: logging returns when it is committed. Raises ArtifactNotLoggedError."""
        self._stored_version()
        return self

    def save(self, project: str | None = None, settings: object = None) -> None:
        """Log a draft in the run that is under way (or one of its own, in `project`); of a version, keep what is said of it now.

        Raises what `Run.log_artifact` raises; NotFoundError when the version was deleted.
        """
        if self._stored is None:
            self._log_somewhere(project)
            return
        self._metadata = checked_metadata(self._metadata)
        stored = self._stored
        new, old = set(checked_aliases(self._aliases)), set(stored.aliases) - {LATEST}
        options = Options(
            tuple(sorted(new - old)),
            self._description or "",
            metadata=self._metadata,
            tags=self._tags,
            ttl=self._ttl or 0,
            latest=False,
        )
        describe(stored.opened.project, stored.reference, options)
        still = {alias for alias in old - new if stored.opened.project.existing(self._name).aliases.get(alias) == stored.number}
        if still:  # an alias that somebody moved to another version meanwhile is theirs
            remove_aliases(stored.opened.project, self._name, sorted(still))
        stored.refresh()
        self._aliases = stored.aliases

    def _log_somewhere(self, project: str | None) -> None:
        opened = current() if project is None else None
        self._log_to(opened or Opened(self._settings(project), create=True), (), ())

    @staticmethod
    def _settings(project: str | None) -> Settings:
        return Settings(project)

    def _log_to(self, opened: Opened, aliases: tuple[str, ...], tags: tuple[str, ...]) -> None:
        """Make the draft a version, or find the version that it is equal to. Raises what `Run.log_artifact` raises."""
        staging, options = self._staging(opened), self._options(aliases, tags)
        with staging:
            result = take_staged(opened.project, staging, self._name, options)
        self._become(Stored(opened, self._name, result.version))

    def _staging(self, opened: Opened) -> AssembledStaging:
        """The draft as a snapshot reads it."""
        draft, project = self._draft, opened.project
        assert draft is not None
        if self._base is not None and self._base.opened.url != project.url:
            raise ArgumentError(f"this draft is of a version in {self._base.opened.url}; it cannot be logged in {project.url}")
        self._check_type(opened)
        _check_apart(draft, project)
        assembly = self._grown(draft, opened) if self.incremental else draft.assembly
        return AssembledStaging(assembly, self._name, project.artifact(self._name).cipher.chunking)

    def _check_type(self, opened: Opened) -> None:
        type_ = opened.project.refresh(self._name).type
        if type_ is not None and type_ != self._type:
            raise ArgumentError(f"artifact {self._name} already exists with type {type_!r}; a name has one type")

    def _grown(self, draft: Draft, opened: Opened) -> Assembly:
        """What the newest version has, with the draft's own rows in its place."""
        highest = opened.project.refresh(self._name).highest
        if highest is None:
            return draft.assembly
        whole = Assembly()
        for path, row in Stored(opened, self._name, highest).rows():
            whole.put(path, row)
        for path, own in draft.assembly.everything():
            whole.put(path, own)
        return whole

    @property
    def collection(self) -> Collection[Artifact]:
        """All versions of its name. Raises ArtifactNotLoggedError."""
        opened = self._stored_version().opened
        return Collection(opened, self._name, lambda number: type(self)._of(Stored(opened, self._name, number)))

    source_collection = collection

    def delete(self, delete_aliases: bool = False) -> None:
        """Delete the version, and every byte that no other version uses, before this returns. It cannot be undone.

        `latest` moves to the newest version that is left. Raises RefusedError naming other aliases that point to it (`delete_aliases` lets
        them go with it), ArtifactNotLoggedError, StoreError.
        """
        stored = self._stored_version()
        delete_versions(stored.opened.project, self._name, [stored.number], delete_aliases=delete_aliases)

    def _options(self, aliases: tuple[str, ...], tags: tuple[str, ...]) -> Options:
        """What is asked of the version that it becomes."""
        self._metadata = checked_metadata(self._metadata)
        both = tuple(dict.fromkeys((*self._tags, *tags)))
        return Options(
            aliases,
            self._description or None,
            self._type,
            self._metadata or None,
            checked_tags(both) or None,
            self._ttl,
            self._wandb_digest(),
        )

    def _wandb_digest(self) -> str | None:
        """What `artifactmount.wandb` keeps beside the version."""
        return None


def _check_policy(policy: str | None) -> None:
    if policy not in (None, "mutable", "immutable"):
        raise ArgumentError(f'policy is "mutable" or "immutable", not {policy!r}')


def _check_apart(draft: Draft, project: Project) -> None:
    """What is added must not lie in the project, its cache, or a mount; nor hold them, where all of a folder is added."""
    seen: set[Place] = set()
    for _, row in draft.assembly.rows():
        if isinstance(row, Local) and row.place not in seen:
            seen.add(row.place)
            if row.place.whole:
                check_apart(row.place.path, project)
            else:
                project.check_apart(os.fsdecode(row.path))
