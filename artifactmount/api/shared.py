"""A draft as one part of a version that several runs make under an id, and that version, from its parts."""

from __future__ import annotations

import logging
from dataclasses import replace

from artifactmount.api.artifact import Artifact
from artifactmount.api.checks import argument
from artifactmount.api.opened import Opened
from artifactmount.api.stored import Stored
from artifactmount.errors import ArgumentError
from artifactmount.gather import finish
from artifactmount.parts import check_id, take_staged_part

_log = logging.getLogger(__name__)


def upsert(opened: Opened, artifact: Artifact, id_: str, aliases: tuple[str, ...]) -> None:
    """Store a draft as a part. Raises what `Run.upsert_artifact` raises."""
    with argument():
        check_id(id_)
    if artifact.incremental:
        raise ArgumentError(f"{artifact.name} is incremental, and a part stands for itself; make it without incremental=True")
    if aliases:
        _log.warning("%s: aliases are set when the parts become a version: give them to finish_artifact, too", artifact.name)
    with artifact._staging(opened) as staging:
        joined = take_staged_part(opened.project, staging, artifact._name, id_)
    artifact.finalize()
    artifact._shared = id_
    if joined.version is None:
        _log.info("%s: part %s of %s", artifact.name, joined.part, id_)
    else:
        _log.info("%s: %s is v%d already, and has all of this", artifact.name, id_, joined.version)


def gather(opened: Opened, artifact: Artifact, id_: str, aliases: tuple[str, ...]) -> None:
    """Make the parts a version, which the draft becomes; its own files are one more part. Raises what `Run.finish_artifact` raises."""
    with argument():
        check_id(id_)
    if artifact._shared != id_ and next(artifact._rows(), None) is not None:
        upsert(opened, artifact, id_, ())
    artifact._check_type(opened)
    # The digest that `artifactmount.wandb` would keep is of the draft, which is not all of it.
    options = replace(artifact._options(aliases, ()), md5=None)
    result = finish(opened.project, artifact._name, id_, options)
    artifact._become(Stored(opened, artifact._name, result.version))
    artifact._shared = id_
