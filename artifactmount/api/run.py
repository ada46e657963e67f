"""What a script does with a project: log artifacts, use them, look back. `init` opens one; it is called a run, as scripts for W&B do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, TypeVar

from artifactmount.api import current
from artifactmount.api.artifact import Artifact
from artifactmount.api.checks import argument, checked_aliases, checked_path, checked_tags
from artifactmount.api.collection import Collection
from artifactmount.api.opened import Opened
from artifactmount.api.shared import gather, upsert
from artifactmount.api.stored import Stored
from artifactmount.api.unsupported import UnsupportedRun
from artifactmount.difference import differences
from artifactmount.errors import ArgumentError, ArgumentTypeError, ArtifactFinalizedError
from artifactmount.history import of_path
from artifactmount.names import Reference, parse, resolve
from artifactmount.settings import Settings
from artifactmount.sizes import Sizes, sizes

RunT = TypeVar("RunT", bound="Run")


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a version did to a file: "A" added, "M" changed, "D" removed it. As its writer said: `time` in UTC, ISO 8601, and `actor`,
    "user@host"."""

    version: str
    change: str
    time: str
    actor: str


@dataclass(frozen=True, slots=True)
class PathDifference:
    """A path that differs between two versions: "A" only in the second, "M" in both, "D" only in the first. `kind`: "file", "directory",
    "symlink" or "reference"; sizes in bytes."""

    change: str
    path: str
    kind: str
    old_size: int
    new_size: int


class Run(UnsupportedRun):
    """An open project. Use it as a context manager, or call `finish()`. Artifacts that came from it can be read afterwards, too."""

    #: What its artifacts are made of.
    artifact_class: type[Artifact] = Artifact

    def __init__(self, settings: Settings, *, create: bool = False, config: dict[str, Any] | None = None) -> None:
        self._opened = Opened(settings, create=create)
        self.id, self.config = os.urandom(4).hex(), dict(config or {})
        self.url = self._opened.url
        self.group: str | None = None

    def __enter__(self: RunT) -> RunT:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.url}>"

    @property
    def project(self) -> str | None:
        """The place of the project."""
        return self.url

    def finish(self, *_: Any, **__: Any) -> None:
        """Let go of the project."""
        current.end(self._opened)
        self._opened.close()

    # -- logging ---------------------------------------------------------------------------------------------------------------------
    def log_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - W&B's name for it
        aliases: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
    ) -> Artifact:
        """Make a draft the next version of its name; where a live version has the same content, that one. Returns it, committed.

        `latest` moves to it, and `aliases` do; `tags` come to those that it has. A path (file, folder, or URI) is made an artifact first:
        `name` is "run-ID-BASENAME" then, and `type` "unspecified". An artifact that was logged gets the aliases.

        Files are read where they lie; only what the project has not is stored. Raises ArgumentError for another type than the name has, bad
        aliases or tags; StagingError for a file that changed since it was added; RefusedError, StoreError; OutcomeUnknownError when the
        commit was sent and no answer came.
        """
        extra, labels = checked_aliases(aliases), checked_tags(tags)
        artifact = artifact_or_path if isinstance(artifact_or_path, Artifact) else self._of_path(os.fspath(artifact_or_path), name, type)
        if artifact.is_draft():
            artifact._log_to(self._opened, extra, labels)
        elif artifact.project != self.url:
            raise ArtifactFinalizedError(f"{artifact.name} is of {artifact.project}; new_draft(), or download it and log it here")
        else:
            artifact.aliases = [*artifact.aliases, *(alias for alias in extra if alias not in artifact.aliases)]
            artifact.tags = [*artifact.tags, *labels]
            artifact.save()
        return artifact

    def upsert_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - W&B's name for it
        aliases: Iterable[str] | None = None,
        distributed_id: str | None = None,
    ) -> Artifact:
        """Store a draft (or a path, as `log_artifact` takes it) as one part of a version that other runs, on any machines, make too, under
        `distributed_id` (letters, digits, `_ . -`; default: the group of the run). `finish_artifact` makes the version; before that nothing
        of it can be read. The draft cannot be changed any more.

        An id that is a version already takes no more parts: the same files again (of a script run again) are found in it, others are
        refused. `aliases` are set by `finish_artifact` only.

        Raises ArgumentTypeError (a TypeError) without an id or group; ArgumentError for a bad id, another type than the name has, an
        incremental draft; ArtifactFinalizedError for a version; StagingError, RefusedError, StoreError; OutcomeUnknownError: the same draft
        given again is not taken twice.
        """
        artifact = self._draft_of(artifact_or_path, name, type)
        upsert(self._opened, artifact, self._shared_id(distributed_id, "upsert"), checked_aliases(aliases))
        return artifact

    def finish_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - W&B's name for it
        aliases: Iterable[str] | None = None,
        distributed_id: str | None = None,
    ) -> Artifact:
        """Make all parts of `distributed_id` one version, and return it; `latest` and `aliases` move to it. What the draft has is one more
        part; a draft without files just finishes. Description, metadata, tags and ttl are the draft's. An id makes one version: the next
        needs another.

        Asked again (after an OutcomeUnknownError, say), it is the version that was made. Raises what `upsert_artifact` raises;
        NotFoundError when there are no parts; RefusedError when two parts have other content at one path, or a part is lost.
        """
        artifact = self._draft_of(artifact_or_path, name, type)
        gather(self._opened, artifact, self._shared_id(distributed_id, "finish"), checked_aliases(aliases))
        return artifact

    def _draft_of(self, artifact_or_path: Artifact | str | os.PathLike[str], name: str | None, type_: str | None) -> Artifact:
        artifact = artifact_or_path if isinstance(artifact_or_path, Artifact) else self._of_path(os.fspath(artifact_or_path), name, type_)
        if not artifact.is_draft():
            raise ArtifactFinalizedError(f"{artifact.name} is a version already; new_draft() makes a draft of it")
        return artifact

    def _shared_id(self, distributed_id: str | None, what: str) -> str:
        id_ = distributed_id or self.group
        if id_ is None:
            raise ArgumentTypeError(f"{what}_artifact needs a distributed_id, the same one in every run that makes the version")
        return id_

    def _of_path(self, path: str, name: str | None, type_: str | None) -> Artifact:
        base = os.path.basename(path.rstrip("/")) or "root"
        artifact = self.artifact_class(name or f"run-{self.id}-{base}", type_ or "unspecified")
        if "://" in path:
            artifact.add_reference(path)
        elif os.path.isdir(path):
            artifact.add_dir(path)
        else:
            artifact.add_file(path)
        return artifact

    # -- using -----------------------------------------------------------------------------------------------------------------------
    def use_artifact(
        self,
        artifact_or_name: Artifact | str,
        type: str | None = None,  # noqa: A002 - W&B's name for it
        aliases: Iterable[str] | None = None,
        use_as: str | None = None,
    ) -> Artifact:
        """A version: "animals" (the latest), "animals:v3", "animals:best". A draft is logged first, with `aliases`.

        `use_as` has no meaning here, and nothing is recorded. Raises NotFoundError; ArgumentError for what is no name, or a version of
        another type than `type`.
        """
        if isinstance(artifact_or_name, Artifact):
            return self.log_artifact(artifact_or_name, aliases=aliases) if artifact_or_name.is_draft() else artifact_or_name
        return self.artifact(artifact_or_name, type)

    def artifact(self, name: str, type: str | None = None) -> Artifact:  # noqa: A002 - W&B's name for it
        """As `use_artifact` with a name."""
        reference = self._version(name)
        version = resolve(self._opened.project.existing(reference.artifact), reference)
        artifact = self._make(reference.artifact, version.n)
        if type is not None and artifact.type != type:
            raise ArgumentError(f"{name} is of type {artifact.type!r}, not {type!r}")
        return artifact

    def _make(self, name: str, number: int) -> Artifact:
        return self.artifact_class._of(Stored(self._opened, name, number))

    def _version(self, text: str) -> Reference:
        reference = self._parse(text)
        if reference.path:
            raise ArgumentError(f"not a version: {text!r}; write animals, animals:v3 or animals:best")
        return reference

    def _parse(self, text: str) -> Reference:
        with argument():
            return parse(text)

    def artifact_exists(self, name: str, type: str | None = None) -> bool:  # noqa: A002 - W&B's name for it
        """Whether a version is there, of this type if one is named. Raises StoreError where the store does not answer."""
        reference = self._version(name)
        state = self._opened.project.refresh(reference.artifact)
        number = state.aliases.get(reference.version or "latest", -1)
        there = number >= 0 or any(reference.version == f"v{n}" for n in state.versions)
        return there and type in (None, state.type)

    # -- the project -----------------------------------------------------------------------------------------------------------------
    def names(self) -> list[str]:
        """All artifacts that have a version, in order."""
        project = self._opened.project
        return [name for name in project.names() if project.refresh(name).versions]

    def collection(self, name: str) -> Collection[Artifact]:
        """All versions of a name. Raises NotFoundError."""
        self._opened.project.existing(self._version(name).artifact)
        return Collection(self._opened, name, partial(self._make, name))

    def open(self, text: str, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
        """A file of a version to read from: "animals:latest/cats/1.png". See `Artifact.open`."""
        reference = self._parse(text)
        return self.artifact(str(reference)).open(os.fsdecode(reference.path), mode, encoding)

    def history(self, name: str, path: str | os.PathLike[str]) -> list[FileChange]:
        """Which live versions added, changed or removed one file, the newest first. Raises NotFoundError when none ever had it."""
        found = of_path(self._opened.project, self._version(name).artifact, checked_path(path))
        return [FileChange(f"v{version.n}", change, version.time, version.actor) for version, change, _ in found]

    def diff(self, old: str, new: str) -> list[PathDifference]:
        """What differs between two versions, in the order of paths; they may be of different artifacts. Raises NotFoundError."""
        return [
            PathDifference(item.change, os.fsdecode(item.path), item.kind.name.lower(), item.old_size, item.new_size)
            for item in differences(self._opened.project, self._version(old), self._version(new))
        ]

    def sizes(self, name: str) -> list[Sizes]:
        """What each live version costs, in bytes, the oldest first: `tracks` (the sum of its files), `adds` (charged to the oldest version
        that has it), `frees` (what deleting it now gives back), `stored` (in the store, of what it adds). Raises NotFoundError."""
        project, artifact = self._opened.project, self._version(name).artifact
        return project.reading(artifact, partial(sizes, project.catalog(artifact), project.cache))


def init(
    project: str | None = None,
    *,
    cache: str | None = None,
    cache_size: str | None = None,
    key_file: str | None = None,
    config: dict[str, Any] | None = None,
) -> Run:
    """Open a project, and make it when the place is empty.

    `project`: `s3://bucket/prefix` or a folder; default as on the command line: $ARTIFACTMOUNT_PROJECT, the config file, or the folder
    ~/.local/share/artifactmount. `cache`: a folder; `cache_size`: such as "20G"; `key_file`: of an encrypted project (else
    $ARTIFACTMOUNT_KEY_FILE, $ARTIFACTMOUNT_PASSPHRASE, the config file). `config` is kept on the run, and nowhere else.

    Raises UsageError, RefusedError (a place that is no project and not empty), LockedError (encrypted, without its key), StoreError.
    """
    run = Run(Settings(project, cache, cache_size, key_file), create=True, config=config)
    current.begin(run._opened)
    return run
