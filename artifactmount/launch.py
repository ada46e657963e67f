"""Starting the daemon behind a mount in the background: a fresh process, because LMDB, threads and trio do not survive a fork.

Nothing is imported here that only the daemon needs: trio and pyfuse3 alone take 0.3 s of CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass

from artifactmount.errors import ArtifactError, LockedError, RefusedError
from artifactmount.keys import Keyring
from artifactmount.mountpoint import Record
from artifactmount.private import make_folder

_LOG_LIMIT = 4 << 20
#: Variables that the daemon does not keep: what is in them comes through a pipe.
SECRETS = ("ARTIFACTMOUNT_PASSPHRASE", "ARTIFACTMOUNT_NEW_PASSPHRASE")


@dataclass(frozen=True, slots=True)
class Mount:
    """What to mount where. `mountpoint` is absolute, links resolved; `budget` is the cache's, in bytes.

    `uid` and `gid`: whose the files are shown to be, of this process where None; `umask`: the permission bits they are shown without.
    `source`: what mountinfo shows as mounted there; `noexec`: whether nothing may be run from it. `metrics`: where they are served
    (`address_of`); nothing is counted where it is empty.
    `beneath`: whether an overlay is to lie over it.
    """

    url: str
    cache: str
    budget: int
    mountpoint: str
    state_directory: str
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    source: str = "artifactmount"
    noexec: bool = False
    log_format: str = "text"
    metrics: str = ""
    beneath: bool = False

    @property
    def record(self) -> Record:
        """The record of the daemon that serves it."""
        return Record(self.mountpoint, self.state_directory)


def start(mount: Mount, keyring: Keyring) -> subprocess.Popen[bytes]:
    """Mount in the background; returns the daemon's process when the tree can be listed. Raises what `serve` raises.

    The keys go through a pipe: everybody may read a process's arguments, and its environment stays for as long as it lives.
    """
    record = mount.record
    make_folder(os.path.dirname(record.log))
    with suppress(FileNotFoundError):
        if os.stat(record.log).st_size > _LOG_LIMIT:
            os.replace(record.log, record.log + ".1")
    read_end, write_end = os.pipe()
    with open(os.open(record.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "artifactmount.daemon", str(write_end), json.dumps(asdict(mount))],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )
    os.close(write_end)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(json.dumps([keyring.files, keyring.kms, keyring.passphrase, keyring.insists]).encode())
        with open(read_end, "rb") as pipe:
            answer = pipe.read()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if answer != b"ready":
        process.wait()
        raise _failure(answer, _said_since(record.log, before), record.log)
    os.stat(mount.mountpoint)  # answered by the daemon itself
    return process


def start_asking(mount: Mount, keyring: Keyring) -> subprocess.Popen[bytes]:
    """`start`; the passphrase is asked for here where there is somebody to ask: the daemon has no terminal."""
    try:
        return start(mount, keyring)
    except LockedError:
        if keyring.given or keyring.ask is None:
            raise
        return start(mount, Keyring(passphrase=keyring.ask(), insists=True))


def _failure(answer: bytes, said: str, log: str) -> ArtifactError:
    try:
        fields = json.loads(answer)
        message, exit_code = str(fields["error"]), int(fields["exit_code"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"the daemon ended before anything was mounted; see {log}")
    kind = LockedError if fields.get("locked") else ArtifactError
    error = kind(f"{message} ({said})" if said else message)
    error.exit_code = exit_code
    return error


def _said_since(log: str, before: int) -> str:
    """What libfuse and fusermount3 complained of: they speak to stderr only."""
    with suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        file.seek(before)
        return "; ".join(line.strip() for line in file if line.startswith(("fuse:", "fusermount3:")))
    return ""
