"""An artifact of W&B that lies on this machine becomes a version: the files that its manifest names, each checked against its MD5.

The files are read where they lie, below a folder they were downloaded to or in W&B's cache. Nothing is asked of W&B, nor of what a
reference leads to.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from blake3 import blake3

from artifactmount.assembly import AssembledStaging, Assembly, Local, Place, Referenced
from artifactmount.digest import SINGLE_LIMIT, Chunking
from artifactmount.errors import CorruptError, NotFoundError, RefusedError, StagingError
from artifactmount.listing import stat_record
from artifactmount.progress import Progress
from artifactmount.project import Project
from artifactmount.proposal import Options, Result
from artifactmount.rows import show_path, split_path
from artifactmount.snapshot import take_staged
from artifactmount.staging import Staging
from artifactmount.wandb_manifest import MANIFEST_LIMIT, Untracked, WandbFile, WandbManifest, WandbReference, parse_manifest

#: What a manifest is called that lies with its files.
MANIFESTS = ("wandb_manifest.json", "manifest.json")
_NAMED = 5  # missing files that a message names
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of it. `skipped`: a line for each reference that was left out; `by_size`: how many references have nothing but their
    size that would tell a change; `uris`: where references lead."""

    result: Result
    skipped: tuple[str, ...]
    by_size: int
    uris: tuple[str, ...]


def find_manifest(folder: str) -> str:
    """The manifest in a folder of files. Raises NotFoundError."""
    if not os.path.isdir(folder):
        raise NotFoundError(f"no such folder: {folder}")
    for name in MANIFESTS:
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            return path
    raise NotFoundError(f"no {' or '.join(MANIFESTS)} in {folder}; say where W&B's manifest is: --manifest FILE")


def read_manifest(path: str) -> WandbManifest:
    """Raises NotFoundError, StagingError (no file), CorruptError naming what is wrong with it."""
    try:
        # Without O_NONBLOCK, a FIFO would be waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StagingError(f"not a file: {path}")
            content = file.read(MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}") from None
    except OSError as error:
        raise StagingError(f"cannot read {path}: {error.strerror}") from error
    try:
        return parse_manifest(content)
    except CorruptError as error:
        raise CorruptError(f"{path}: {error}") from None


def default_cache(environment: Mapping[str, str]) -> str:
    """Where W&B keeps what it downloaded."""
    named = environment.get("WANDB_CACHE_DIR")
    return os.path.join(os.path.expanduser(named or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "wandb")), "artifacts")


def import_artifact(
    project: Project,
    manifest: WandbManifest,
    folder: str,
    cache: str,
    name: str,
    options: Options,
    *,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Make what a manifest names the next version of the artifact `name`. A file that is not in `folder` is looked for in W&B's `cache`.

    `allow_missing`: leave out references that cannot be tracked here; then it is not W&B's version, and its digest is not kept.
    Raises RefusedError naming a reference otherwise; StagingError naming files that are missing or no plain files; CorruptError naming one
    that is not what the manifest says; what `snapshot.take` raises. Nothing is committed then.
    """
    untracked = [entry for entry in manifest.entries if isinstance(entry, Untracked)]
    if untracked and not allow_missing:
        more = f" (and {len(untracked) - 1:,} more)" if len(untracked) > 1 else ""
        raise RefusedError(f"{show_path(untracked[0].path)} {untracked[0].why}{more}; --allow-missing-references leaves it out")
    references = [entry for entry in manifest.entries if isinstance(entry, WandbReference)]
    files = [entry for entry in manifest.entries if isinstance(entry, WandbFile)]
    assembly = Assembly()
    _put_files(assembly, files, folder, cache, project)
    for entry in references:
        assembly.put(entry.path, Referenced(entry.referent.encode(), entry.size, 0))
    options = options if untracked else replace(options, md5=manifest.digest)
    digests = {entry.path: entry.md5 for entry in files}
    with _Checked(assembly, name, project.artifact(name).cipher.chunking, digests, manifest.digest) as staging:
        result = take_staged(project, staging, name, options, progress)
    return Imported(
        result,
        tuple(f"{show_path(entry.path)}: it {entry.why}" for entry in untracked),
        sum(not entry.referent.checked for entry in references),
        tuple(entry.referent.uri for entry in references),
    )


def _put_files(assembly: Assembly, files: list[WandbFile], folder: str, cache: str, project: Project) -> None:
    """Find all files, and put them in. Raises StagingError naming those that are missing, CorruptError for one of another size."""
    missing: list[WandbFile] = []
    with ExitStack() as stack:
        downloaded = _Found(stack.enter_context(Staging(folder)))
        cached: _Found | None = None
        with suppress(NotFoundError):
            cached = _Found(stack.enter_context(Staging(os.path.join(cache, "obj", "md5"))))
        for found in filter(None, (downloaded, cached)):
            project.check_apart(found.place.path)
        for entry in files:
            row = downloaded.row(entry.path)
            if row is None and cached is not None:
                row = cached.row(b"%b/%b" % (entry.md5[:1].hex().encode(), entry.md5[1:].hex().encode()))
            if row is None:
                missing.append(entry)
                continue
            if entry.size is not None and row.size != entry.size:
                raise CorruptError(
                    f"{os.fsdecode(row.path)} has {row.size} bytes, and in W&B's manifest {show_path(entry.path)} has {entry.size}; "
                    "nothing was committed"
                )
            assembly.put(entry.path, row)
    if missing:
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        names = ", ".join(show_path(entry.path) for entry in missing[:_NAMED])
        raise StagingError(f"neither in {folder} nor in W&B's cache {cache}: {names}{more}; nothing was committed")


class _Found:
    """The files below a folder, of which nothing else is read. Links in it are not followed."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self.place = Place(staging.path, os.stat(staging.path).st_dev, whole=False)

    def row(self, path: bytes) -> Local | None:
        """The file at a path as it is now; None when nothing is there. Raises StagingError when it is no plain file."""
        try:
            descriptor = self._staging.open(path)
        except StagingError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            why = "it is no plain file, or behind a link"
            if isinstance(error.__cause__, PermissionError):
                why = "permission denied"
            raise StagingError(f"cannot read {show_path(path)} in {self.place.path}: {why}; nothing was committed") from error
        try:
            return Local(self.place, *split_path(path), stat_record(os.fstat(descriptor)))
        finally:
            os.close(descriptor)


class _Checked(AssembledStaging):
    """An assembly whose files are read only as the manifest has them, by its MD5s. `digest`: of the manifest."""

    def __init__(self, assembly: Assembly, name: str, chunking: Chunking, md5s: Mapping[bytes, bytes], digest: str) -> None:
        super().__init__(assembly, name, chunking)
        self._md5s = md5s
        # A file that is as it was when it was last read is not read again; so what was read for another manifest must not count here.
        self.key = blake3(b"imported " + self.key + digest.encode()).digest()[:16]

    def read(self, path: bytes, limit: int) -> tuple[bytes, os.stat_result] | None:
        """See Staged. Raises CorruptError when it is not what the manifest says."""
        found = super().read(path, limit)
        if found is not None:
            self._check(path, hashlib.md5(found[0], usedforsecurity=False).digest())
        return found

    def open(self, path: bytes) -> int:
        """See Staged. What `read` does not take whole is read here once more. Raises CorruptError when it is not what the manifest says."""
        descriptor = super().open(path)
        try:
            status = os.fstat(descriptor)
            if status.st_size > SINGLE_LIMIT:
                self._check(path, _md5_of(descriptor))
                if stat_record(os.fstat(descriptor)) != stat_record(status):
                    raise self.changed(path)
        except OSError as error:
            os.close(descriptor)
            raise self.unreadable(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, path: bytes, md5: bytes) -> None:
        if md5 != self._md5s[path]:
            was, now = (base64.b64encode(each).decode() for each in (self._md5s[path], md5))
            raise CorruptError(
                f"{self.show(path)} is not what W&B stored as {show_path(path)}: its MD5 is {now}, and in the manifest {was}; "
                "nothing was committed; download it again"
            )


def _md5_of(descriptor: int) -> bytes:
    """Of all of a file; where it stands does not move."""
    digest, at = hashlib.md5(usedforsecurity=False), 0
    while part := os.pread(descriptor, _PART, at):
        digest.update(part)
        at += len(part)
    return digest.digest()
