"""FUSE, the user's folders and config file, the cache's disk, and the mounts that stand: what can be looked at without a project."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from artifactmount.config import config_path, read_config
from artifactmount.doctor import Finding, ok, problem, warning
from artifactmount.errors import ArtifactError, RefusedError, is_disconnected
from artifactmount.mountpoint import READ_AHEAD_KIB, Mounted, Record, check_allow_other, mounted, within
from artifactmount.private import close_folder

_DEVICE = "/dev/fuse"
_PATIENCE = 2.0  # seconds
#: Where locks and mapped files of other machines are not what LMDB needs.
_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "afs", "glusterfs", "beegfs")
_SPARE = 1 << 30


def fuse() -> Iterator[Finding]:
    """Whether anything can be mounted."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
        yield ok("fuse", f"{_DEVICE} can be opened")
    except FileNotFoundError:
        yield problem("fuse", f"there is no {_DEVICE}", "modprobe fuse, as root; in a container: --device /dev/fuse --cap-add SYS_ADMIN")
    except OSError as error:
        mend = f"in a container: --device /dev/fuse --cap-add SYS_ADMIN; elsewhere, as root: chmod 666 {_DEVICE}"
        yield problem("fuse", f"{_DEVICE} cannot be opened ({error.strerror})", mend)
    program = shutil.which("fusermount3")
    if program is None:
        yield problem("fusermount3", "it is missing", "install the package fuse3")
    elif os.geteuid() != 0 and not os.stat(program).st_mode & stat.S_ISUID:
        yield problem("fusermount3", f"{program} may not mount: it is not setuid root", f"as root: chmod u+s {program}")
    else:
        yield ok("fusermount3", program)
    try:
        check_allow_other()
        yield ok("allow-other", "you may show a mount to other users (--allow-other)")
    except RefusedError:
        yield ok("allow-other", "your mounts are yours alone; for --allow-other root adds the line user_allow_other to /etc/fuse.conf")


def config(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The config file, which may be missing."""
    path = config_path(environment)
    try:
        read_config(environment)
    except ArtifactError as error:
        yield problem("config", str(error), f"correct what it says of {path}, or move the file away")
        return
    with suppress(OSError):
        yield ok("config", f"{path}, mode {stat.S_IMODE(os.stat(path).st_mode):03o}")
        return
    yield ok("config", f"no {path}; it is not needed")


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The files of variables that the systemd unit reads; systemd does not ask who else can."""
    folder = os.path.dirname(config_path(environment))
    names: list[str] = []
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.endswith(".env"))
    for path in (os.path.join(folder, name) for name in names):
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & 0o077:
                yield warning("variables", f"{path} is open to other users (mode {mode:03o})", f"chmod 600 {shlex.quote(path)}")
            else:
                yield ok("variables", f"{path}, mode {mode:03o}")


def folder(check: str, path: str, mend: str) -> Iterator[Finding]:
    """Whether a folder of ours can be written to, by making a file in it that is removed at once. One that is not there is not made."""
    above = _nearest(path)
    if above != path:
        if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
            yield ok(check, f"{path} is not there yet; it would be made, for you alone")
        else:
            yield problem(check, f"{path} is not there, and cannot be made in {above}", mend)
        return
    try:
        close_folder(path, check, ours=False)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"artifactmount")
            file.flush()
    except RefusedError as error:
        yield problem(check, str(error), mend)
        return
    except OSError as error:
        yield problem(check, f"{path} cannot be written to ({error.strerror})", mend)
        return
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        mend = f"the next command closes it where it is the program's own; else: chmod 700 {path}"
        yield warning(check, f"{path} is open to other users (mode {mode:03o})", mend)
    else:
        yield ok(check, f"{path} can be written to, by you alone")


def _nearest(path: str) -> str:
    """The path, or what is there of it."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def disk(path: str, budget: int) -> Iterator[Finding]:
    """What the cache lies on, and how much room is left for it; or will lie on, where it is not there yet."""
    kind = kind_of(path, mounted())
    if kind in _NETWORKS or kind.startswith("fuse."):
        yield warning("cache disk", f"{path} is on {kind}", "use a local disk: --cache DIR, or ARTIFACTMOUNT_CACHE")
    elif kind in ("tmpfs", "ramfs"):
        yield warning("cache disk", f"{path} is in memory ({kind})", "use a disk: --cache DIR, or a --cache-size that memory can spare")
    else:
        yield ok("cache disk", f"{path} is on {kind or 'a file system that is not known here (a chroot)'}")
    used, status = _held(path), os.statvfs(_nearest(path))
    free = status.f_bavail * status.f_frsize
    wanted = max(budget - used, 0)
    shown = f"{_gigabytes(used)} of at most {_gigabytes(budget)} used, {_gigabytes(free)} free on the disk"
    if free < min(wanted, _SPARE) or free < wanted // 2:
        size = max((used + free) // 2 >> 20, 32)
        yield warning("cache space", shown, f"make room, or keep less: --cache-size {size}M, or ARTIFACTMOUNT_CACHE_SIZE={size}M")
    else:
        yield ok("cache space", shown)


def _held(path: str) -> int:
    """Bytes of chunks in a cache, which is not opened for it: that would make what is not there."""
    with suppress(OSError), os.scandir(os.path.join(path, "segments")) as files:
        return sum(file.stat().st_size for file in files)
    return 0


def kind_of(path: str, mounts: Sequence[Mounted]) -> str:
    """The kind of file system that a path lies on; empty where no mount is known to hold it, as in a chroot."""
    path = os.path.realpath(path)
    holding = [mount for mount in mounts if within(path, mount.path)]
    return max(reversed(holding), key=lambda mount: len(mount.path)).kind if holding else ""


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def mounts(state_directory: str) -> Iterator[Finding]:
    """The mounts of this program, of any user: whether they answer, and in which pieces they are read."""
    ours = [mount for mount in mounted() if mount.ours]
    if not ours:
        yield ok("mounts", "nothing is mounted")
    for mount in ours:
        record = Record(mount.path, state_directory)
        mine = os.path.exists(record.path)
        said = _look(mount.path)
        if said is None:
            mend = f"look at {record.log}; `artifactmount umount --lazy {mount.path}` takes it away" if mine else "tell who mounted it"
            yield (problem if mine else warning)("mounts", f"{mount.path} does not answer within {_PATIENCE:.0f} s", mend)
        elif is_disconnected(said):
            mend = f"artifactmount umount {mount.path}, or mount there again" if mine else f"who mounted it, or root: umount {mount.path}"
            yield (problem if mine else warning)("mounts", f"{mount.path} was left behind: its daemon is gone", mend)
        else:
            yield ok("mounts", f"{mount.path} is mounted" + ("" if mine else ", by somebody else"))
            yield from _read_ahead(mount)


def _look(path: str) -> OSError | None:
    """What a mount says when it is asked for its size: no error, one, or None where nothing came."""
    said: list[OSError] = []

    def ask() -> None:
        try:
            os.statvfs(path)
            said.append(OSError())
        except OSError as error:
            said.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # it may never come back, and must not keep this process
    asking.start()
    asking.join(_PATIENCE)
    return said[0] if said else None


def _read_ahead(mount: Mounted) -> Iterator[Finding]:
    path = f"/sys/class/bdi/{mount.device}/read_ahead_kb"
    with suppress(OSError, ValueError):
        with open(path) as file:
            amount = int(file.read())
        if amount < READ_AHEAD_KIB:
            found = f"{mount.path} is read in pieces of {min(amount, 1024)} KiB, a quarter slower than it could be"
            yield warning("read-ahead", found, f"as root, after each mount: echo {READ_AHEAD_KIB} > {path}")
        else:
            yield ok("read-ahead", f"{mount.path}: {amount} KiB")
