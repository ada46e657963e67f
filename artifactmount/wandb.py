"""For scripts written for W&B's artifacts: `import artifactmount.wandb as wandb` is the only line that changes.

What differs from `import artifactmount as am`: a plain name as `project` (and `entity`) is a label, while the configured project is the
place; digests are W&B's; downloads heed $WANDB_ARTIFACT_DIR; errors have W&B's names, too. docs/python.md says the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from typing import Any, NoReturn

from artifactmount.api import current
from artifactmount.api.artifact import Artifact as _Artifact
from artifactmount.api.checks import checked_ttl
from artifactmount.api.collection import Collection
from artifactmount.api.entry import Entry
from artifactmount.api.md5 import file_md5, local_md5, manifest_md5, text_md5
from artifactmount.api.run import Run as _Run
from artifactmount.assembly import Foreign, Kept, Local
from artifactmount.errors import (
    ArgumentError,
    ArtifactError,
    ArtifactFinalizedError,
    ArtifactNotLoggedError,
    NotFoundError,
    NotSupportedError,
)
from artifactmount.names import Reference
from artifactmount.settings import Settings

__all__ = [
    "Api",
    "Artifact",
    "ArtifactFinalizedError",
    "ArtifactNotLoggedError",
    "ArtifactTTL",
    "CommError",
    "Error",
    "Run",
    "finish",
    "finish_artifact",
    "init",
    "log",
    "log_artifact",
    "run",
    "upsert_artifact",
    "use_artifact",
]

#: Every error of ours: `except wandb.Error`, `except wandb.errors.CommError` catch them. Many are a ValueError and the like beside.
Error = CommError = ArtifactError


class errors:  # noqa: N801 - in W&B it is a module
    """`wandb.errors`."""

    Error = CommError = ArtifactError


class ArtifactTTL(Enum):
    """`INHERIT`: no time to live of its own; there is none to inherit here, so it means for ever."""

    INHERIT = 0


class Artifact(_Artifact):
    """As `artifactmount.Artifact`, with W&B's digests. They are worked out from the files when somebody asks, and when the artifact is
    logged: then the version's is kept beside it."""

    def _digest_of(self, entry: Entry) -> str:
        """W&B's: base64 of the MD5 of the file; of a reference its ETag, else its URI. Reads the file. Raises what `open` raises;
        StagingError when a file of a draft is not what it was when it was added."""
        referent, row = entry.referent, entry.row
        if referent is not None:
            return (referent.etag or referent.uri).removeprefix("W/").strip('"')
        if entry.link is not None:
            return text_md5(os.fsencode(entry.link))
        if isinstance(row, Local):
            return local_md5(row)
        if isinstance(row, Foreign):
            with row.read() as stream:
                return file_md5(stream)
        stored = self._stored or self._base
        assert isinstance(row, Kept) and stored is not None
        with stored.stream_of(row, os.fsencode(entry.path)) as stream:
            return file_md5(stream)

    @property
    def digest(self) -> str:
        """W&B's: 32 hex digits, the MD5 over the paths and digests of all files. Reads every file, unless the version was logged by this
        module: then it was kept."""
        if self._stored is not None and self._stored.card.labels.md5:
            return self._stored.card.labels.md5
        return manifest_md5((path, entry.digest) for path, entry in self.manifest.entries.items())

    def _wandb_digest(self) -> str | None:
        """None where it would take reading what earlier versions hold from the store."""
        kept = self.incremental or any(isinstance(row, Kept) for _, row in self._rows())
        return None if kept else self.digest

    def _folder(self) -> str:
        return os.environ.get("WANDB_ARTIFACT_DIR") or super()._folder()

    @staticmethod
    def _settings(project: str | None) -> Settings:
        return Settings(_place(project))

    @property
    def ttl(self) -> timedelta | None:
        """See `artifactmount.Artifact.ttl`; `ArtifactTTL.INHERIT` may be set, and means for ever."""
        return super().ttl

    @ttl.setter
    def ttl(self, ttl: timedelta | ArtifactTTL | None) -> None:
        self._ttl = None if isinstance(ttl, ArtifactTTL) else checked_ttl(ttl)


class Run(_Run):
    """As `artifactmount.Run`. `label` and `entity`: what W&B calls project and entity; `project` gives the label back."""

    artifact_class = Artifact

    def __init__(self, settings: Settings, *, create: bool = False, config: Mapping[str, Any] | None = None, **labels: str | None) -> None:
        super().__init__(settings, create=create, config=dict(config or {}))
        self.entity, self.label = labels.get("entity"), labels.get("label")
        self.name, self.job_type = labels.get("name") or self.id, labels.get("job_type")
        self.group = labels.get("group")

    @property
    def project(self) -> str | None:
        """The label, as W&B's script gave it; without one the place."""
        return self.label or self.url

    def _parse(self, text: str) -> Reference:
        """W&B's `[entity/][project/]name[:alias]`: what stands before the name must be this run's, where it has such labels."""
        head, _, rest = text.partition(":")
        *before, name = head.split("/")
        if len(before) > 2:
            raise ArgumentError(f"not an artifact: {text!r}; write name:alias, project/name:alias or entity/project/name:alias")
        for given, own in zip(reversed(before), (self.label, self.entity), strict=False):
            if own is not None and given != own:
                raise ArgumentError(f"{text!r} is of {given!r}, and this run is of {own!r}; open the other one: init(project=…)")
        return super()._parse(f"{name}:{rest}" if rest else name)


def _place(project: str | None) -> str | None:
    """The place that a script's `project` names: a URL, or a path with a slash. A plain name is none: the configured project is meant."""
    return project if project is not None and ("/" in project or "://" in project) else None


run: Run | None = None


def init(
    entity: str | None = None,
    project: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    job_type: str | None = None,
    name: str | None = None,
    group: str | None = None,
    **_: Any,
) -> Run:
    """Open the configured project ($ARTIFACTMOUNT_PROJECT, …), or the one at `project`, if that is a URL or a path. Other arguments of
    W&B's are taken, and have no meaning here. Raises what `artifactmount.init` raises."""
    global run  # noqa: PLW0603 - in W&B, too, it is the module's
    place = _place(project)
    label = None if place else project
    run = Run(Settings(place), create=True, config=config, entity=entity, label=label, name=name, job_type=job_type, group=group)
    current.begin(run._opened)
    return run


def _current() -> Run:
    return run or init()


def finish(*_: Any, **__: Any) -> None:
    """End the run under way."""
    global run  # noqa: PLW0603 - see init
    if run is not None:
        run.finish()
        run = None


def log_artifact(*arguments: Any, **keywords: Any) -> _Artifact:
    """`run.log_artifact` of the run under way."""
    return _current().log_artifact(*arguments, **keywords)


def use_artifact(*arguments: Any, **keywords: Any) -> _Artifact:
    """`run.use_artifact` of the run under way."""
    return _current().use_artifact(*arguments, **keywords)


def log(*arguments: Any, **keywords: Any) -> NoReturn:
    """Raises NotSupportedError: see `Run.log`."""
    _current().log(*arguments, **keywords)


def upsert_artifact(*arguments: Any, **keywords: Any) -> _Artifact:
    """`run.upsert_artifact` of the run under way."""
    return _current().upsert_artifact(*arguments, **keywords)


def finish_artifact(*arguments: Any, **keywords: Any) -> _Artifact:
    """`run.finish_artifact` of the run under way."""
    return _current().finish_artifact(*arguments, **keywords)


class Api(Run):
    """W&B's public API, as far as artifacts go. It makes no project."""

    def __init__(self, overrides: Mapping[str, Any] | None = None, **_: Any) -> None:
        overrides = overrides or {}
        super().__init__(Settings(_place(overrides.get("project"))), entity=overrides.get("entity"))

    def artifacts(self, type_name: str, name: str, tags: str | Iterable[str] | None = None, **_: Any) -> Iterator[_Artifact]:
        """The versions of a name, the newest first; with `tags`, those that have all of them. Raises NotFoundError."""
        wanted = {tags} if isinstance(tags, str) else set(tags or ())
        for artifact in self.artifact_collection(type_name, name).artifacts():
            if wanted <= set(artifact.tags):
                yield artifact

    def artifact_collection(self, type_name: str, name: str) -> Collection[_Artifact]:
        """All versions of a name. Raises NotFoundError, also when it is of another type."""
        collection = self.collection(name)
        if collection.type != type_name:
            raise NotFoundError(f"{name} is of type {collection.type!r}, not {type_name!r}")
        return collection

    def artifact_collections(self, project_name: str, type_name: str, **_: Any) -> Iterator[Collection[_Artifact]]:
        """All names of a type."""
        for name in self.names():
            collection = self.collection(name)
            if collection.type == type_name:
                yield collection

    def artifact_collection_exists(self, name: str, type: str) -> bool:  # noqa: A002 - W&B's name for it
        """Whether a name of this type has a version. Raises StoreError where the store does not answer."""
        with suppress(NotFoundError):
            return self.collection(name).type == type
        return False

    def artifact_types(self, project: str | None = None) -> list[str]:
        """The types of all artifacts, in order."""
        return sorted({self.collection(name).type for name in self.names()})

    def artifact_type(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotSupportedError."""
        raise NotSupportedError(
            "artifact_type is not supported: a type is a text here; artifact_collections(project, type) lists what has it"
        )
