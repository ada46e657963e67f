"""Checkouts made, put back after a reboot, and ended: writable folders of a version.

Where it may be done, the kernel's overlay is laid over a mount of ours that nobody else sees, so that nothing is copied;
else the files are copied. Whatever is cut off is continued by the same command: the record comes first, and each step may be done again.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace

from artifactmount.checkout import COPY, OVERLAY, Checkout, CheckoutBasis, Lived, hidden_folder, locked, mark, read
from artifactmount.download import download
from artifactmount.errors import ArtifactError, RefusedError, UsageError
from artifactmount.launch import Mount, start_asking
from artifactmount.mountpoint import Record, mount_at, mounted, unmount, within
from artifactmount.names import Reference, resolve
from artifactmount.progress import Progress
from artifactmount.project import Project, same_place
from artifactmount.settings import Settings
from artifactmount.status import status, trust

#: What makes an upper directory say all by itself, as `layer` reads it; relative paths, as options know no way to write a comma or colon.
_OPTIONS = "lowerdir=lower/{artifact}/v{number},upperdir=upper,workdir=work"
_KERNEL_OPTIONS = ",redirect_dir=nofollow,metacopy=off,index=off,xino=off"
_PROGRAM_SECONDS = 60  # for a mount or unmount, which takes milliseconds


@dataclass(frozen=True, slots=True)
class Made:
    """A checkout that is ready. `why`: why it is a copy, where one had to be made; `left_out`: references, which no copy is made of."""

    checkout: Checkout
    why: str = ""
    left_out: int = 0


class Workspace:
    """What checkouts of one project are made with."""

    def __init__(self, settings: Settings, project: Project, progress: Progress) -> None:
        self._settings, self._project, self._progress = settings, project, progress

    # -- making --------------------------------------------------------------------------------------------------------------------
    def check_out(self, reference: Reference, path: str, *, copy: bool = False) -> Made:
        """Make a checkout in the folder `path`, which must be absent or empty; or put back the one that is there. `copy`: no overlay.

        Raises NotFoundError, UsageError; RefusedError where something else is there; CorruptError, StoreError.
        """
        path = os.path.realpath(path)
        self._project.check_apart(path)
        with locked(path):
            present = read(path)
            if present is not None:
                self._check_same(present, reference)
                return self._put_back(present)
            try:
                _check_empty(path)
                if mount_at(path) is not None:
                    raise RefusedError(f"{path} is a mountpoint; choose a folder in it, or another one")
                return self._make(reference, path, copy=copy)
            finally:
                if read(path) is None:
                    with suppress(OSError):
                        os.rmdir(hidden_folder(path))

    def put_back(self, checkout: Checkout) -> Made:
        """See to it that a checkout's files are there: after a reboot, when the daemon died, or when making it was cut off.

        Raises RefusedError when it is in use, or the version that it lies over was deleted; CorruptError, StoreError.
        """
        with locked(checkout.path):
            return self._put_back(checkout)

    def _check_same(self, present: Checkout, reference: Reference) -> None:
        same = reference.artifact == present.artifact and same_place(self._project.url, present.project)
        if same and reference.version is not None:
            wanted = resolve(self._project.existing(reference.artifact), reference).n
            same = wanted in (present.lower.number, present.base.number)  # also the command that made it
        if not same:
            raise RefusedError(
                f"{present.path} is a checkout of {present.named(present.base)}; choose another folder, "
                f"or end that one: artifactmount checkout --remove {present.path}"
            )

    def _make(self, reference: Reference, path: str, *, copy: bool) -> Made:
        state = self._project.existing(reference.artifact)
        version = resolve(state, reference)
        lived = Lived(version.n, version.digest.hex())
        checkout = Checkout(path, self._project.url, reference.artifact, COPY, lived, lived, state.latest, whole=False)
        _check_nothing_left(checkout)
        why = ""
        if not copy:
            # Not fuse-overlayfs for who is not root: some random changes left an upper directory there (1.10) that does not tell the tree.
            overlay = replace(checkout, method=OVERLAY, whole=True)
            try:
                if os.geteuid() != 0:
                    raise RefusedError("only root may mount one")
                overlay.write()
                self._mount(overlay)
                return Made(overlay)
            except (ArtifactError, OSError) as error:
                why = f"{OVERLAY}: {error}"
                self._unmount(overlay)
        shutil.rmtree(checkout.below("work"), ignore_errors=True)
        for name in ("lower", "upper"):  # both are empty, or somebody wrote there
            with suppress(FileNotFoundError):
                os.rmdir(checkout.below(name))
        checkout.write()
        try:
            made = self._copy(checkout)
        except RefusedError:  # no room, and nothing was written: then nothing is left
            with suppress(OSError):
                os.rmdir(path)
                checkout.end()
            raise
        return replace(made, why=why)

    def _copy(self, checkout: Checkout) -> Made:
        reference = Reference(checkout.artifact, f"v{checkout.base.number}")
        done = download(self._project, reference, checkout.path, allow_missing=True, progress=self._progress)
        trust(self._project, checkout)
        whole = replace(checkout, whole=True)
        whole.write()
        return Made(whole, left_out=len(done.skipped))

    def _go_on(self, checkout: Checkout) -> Made:
        try:
            return self._copy(checkout)
        except RefusedError as error:
            raise RefusedError(
                f"{checkout.path} is half a copy, and cannot go on as it is ({error}); move away what was changed in it, "
                f"or end it: artifactmount checkout --remove --force {checkout.path}"
            ) from error

    def _put_back(self, checkout: Checkout) -> Made:
        if checkout.method == COPY:
            return Made(checkout) if checkout.whole else self._go_on(checkout)
        if checkout.mounted and self._lower_lives(checkout):
            return Made(checkout)
        self._unmount(checkout)
        _check_empty(checkout.path, "take out what was written there while the checkout was not mounted")
        CheckoutBasis(checkout, force=True).lower(self._project.existing(checkout.artifact))
        self._mount(checkout)
        return Made(checkout)

    # -- mounting ------------------------------------------------------------------------------------------------------------------
    def _record(self, checkout: Checkout) -> Record:
        return Record(checkout.below("lower"), self._settings.state_directory)

    def _lower_lives(self, checkout: Checkout) -> bool:
        return mount_at(checkout.below("lower")) is not None and self._record(checkout).pid() is not None

    def _mount(self, checkout: Checkout) -> None:
        """Mount the project, and the overlay over the version's folder in it. Raises RefusedError, ArtifactError of the daemon, OSError."""
        settings = self._settings
        os.makedirs(checkout.path, exist_ok=True)
        upper = checkout.below("upper")
        for name in ("upper", "work", "lower"):
            _make_real(checkout.below(name))
        if not os.listdir(upper):  # else its mode is the user's
            os.chmod(upper, stat.S_IMODE(os.stat(checkout.path).st_mode))  # the overlay's top shows it in the place of the folder's own
        mark(upper)
        if not self._lower_lives(checkout):
            lower = checkout.below("lower")
            mount = Mount(self._project.url, settings.cache_path, settings.budget, lower, settings.state_directory)
            start_asking(replace(mount, umask=_umask(), beneath=True), settings.keyring)
        lay_over(checkout)

    def _unmount(self, checkout: Checkout) -> None:
        """Take away the overlay and the mount beneath, as far as they are there. Raises RefusedError when it is in use."""
        present = mount_at(checkout.path)
        if present is not None and checkout.mounted:
            command = ["umount", "--", checkout.path]
            done = _run(command)
            if done.returncode:
                raise RefusedError(
                    f"{checkout.path} is in use, or cannot be unmounted ({' '.join(done.stderr.split())}); "
                    f"`fuser -vm {checkout.path}` shows what uses it"
                )
        if mount_at(checkout.below("lower")) is not None:
            unmount(checkout.below("lower"), self._record(checkout), lazy=False)

    # -- ending --------------------------------------------------------------------------------------------------------------------
    def remove(self, checkout: Checkout, *, force: bool = False) -> None:
        """End a checkout: its folder goes, with what is ignored in it.

        Raises RefusedError when anything in it was changed since its base (not with `force`: then that is lost), or when it is in use.
        """
        with locked(checkout.path):
            if not force:
                changes = len(status(self._project, checkout, self._progress).changes)
                if changes:
                    raise RefusedError(
                        f"{checkout.path} has {changes:,} changes that are in no version (`artifactmount status {checkout.path}`); "
                        "snapshot them, or --force loses them"
                    )
            _check_no_mounts(checkout)
            self._unmount(checkout)
            if checkout.method == COPY:
                replace(checkout, whole=False).write()  # cut off here, what is left is no version
                with suppress(FileNotFoundError):
                    shutil.rmtree(checkout.path)
            else:
                with suppress(FileNotFoundError):
                    os.rmdir(checkout.path)
            checkout.end()


def lay_over(checkout: Checkout) -> None:
    """Mount the overlay alone. Raises RefusedError with what was said against it."""
    options = _OPTIONS.format(artifact=checkout.artifact, number=checkout.lower.number)
    command = ["mount", "-t", "overlay", "-o", options + _KERNEL_OPTIONS, "artifactmount", checkout.path]
    done = _run(command, checkout.folder)
    if done.returncode:
        raise RefusedError(" ".join((done.stderr or done.stdout).split()) or f"{command[0]} ended with {done.returncode}")


def _run(command: list[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that mounts or unmounts. Raises RefusedError where it is missing, or does not end.

    It gets none of our environment, where passphrases and keys of stores may be.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=_PROGRAM_SECONDS
        )
    except FileNotFoundError:
        raise RefusedError(f"{command[0]} is missing; install it") from None
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{command[0]} did not end within {_PROGRAM_SECONDS} s") from None


def _check_empty(path: str, advice: str = "choose another folder, or an empty one") -> None:
    """Raises UsageError for a file; RefusedError for a folder in which something is."""
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(f"{path} is no folder") from None
    if entries:
        raise RefusedError(f"{path} is not empty; {advice}")


def _check_no_mounts(checkout: Checkout) -> None:
    """Raises RefusedError where something else is mounted in a checkout: what lies there would be deleted with it."""
    own = {checkout.below("lower")} | (set() if checkout.method == COPY else {checkout.path})
    for mount in mounted():
        if mount.path not in own and (within(mount.path, checkout.path) or within(mount.path, checkout.below("upper"))):
            raise RefusedError(
                f"something is mounted at {mount.path}, in the checkout {checkout.path}; unmount it first: umount {mount.path}"
            )


def _check_nothing_left(checkout: Checkout) -> None:
    """Raises RefusedError where changes of a checkout lie whose record is gone: over which version they were made nobody knows."""
    upper = checkout.below("upper")
    if mount_at(upper) is not None or (os.path.lexists(upper) and (not os.path.isdir(upper) or os.listdir(upper))):
        raise RefusedError(
            f"{upper} holds what was changed in an earlier checkout, whose record is gone; move what you need of it elsewhere, "
            f"then remove {checkout.folder}"
        )


def _make_real(path: str) -> None:
    """Make a folder, where it is not there. Raises RefusedError where something else is, a link, too: what lies elsewhere is not ours."""
    if mount_at(path) is not None:  # which no link is, and which is not asked: its daemon may be stopped
        return
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise RefusedError(f"{path} is no folder, but a link or file: refused; remove it") from None


def _umask() -> int:
    """The bits that files of this process are made without."""
    bits = os.umask(0o077)
    os.umask(bits)
    return bits
