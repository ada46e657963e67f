"""What a disk may hold after a power cut: the writes of a program, recorded, and every state that a cut may leave of them.

    with recorder(folder) as record:           # `folder` is empty
        record([sys.executable, "-m", "artifactmount", …])
    disk = Disk()
    for event in record.events:
        disk.advance(event)
        disk.crash(Loss.ALL, Loss.ALL, numbers)  # path -> content (None: a folder)

The recording is strace's, so it holds what the process really asked of the kernel, LMDB's pages included (it writes no mapped data here;
its lock file is mapped, and made anew by who opens it first after a crash). What is modelled:

- `fsync` and `fdatasync` of a file make its content durable, not its name; `fsync` of a folder its names, not what they lead to.
- What was not synced may be there, or not, or in part: of content an ordered beginning of the writes, and of the next one any sectors of
  512 bytes (the others are zeros, or what was there); of a folder's names any ordered beginning, or any of the changes.
- A rename within a folder happens or does not; a sector is written whole or not at all. Files depend on each other in nothing.

That is weaker than what ext4 or xfs promise (they keep a folder's changes in order), so what holds here holds there.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

SECTOR = 512
ROOT = 0
_SECONDS = 120
_CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,"
    "sendfile,fsync,fdatasync,mkdir,mkdirat,rmdir,unlink,unlinkat,link,linkat,symlink,symlinkat,rename,renameat,renameat2"
)
_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(?:(-?\d+)|AT_FDCWD)(?:<([^>]*)>)?(?:\(deleted\))?(?=[, \])]|$)|([A-Z][A-Z_|0-9]*)')
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True, slots=True)
class Write:
    """Content of a file."""

    inode: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Length:
    """A file is cut, or made longer with zeros."""

    inode: int
    length: int


@dataclass(frozen=True, slots=True)
class Names:
    """In one folder, all at once: name -> inode, None where the name goes."""

    inode: int
    changes: tuple[tuple[bytes, int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """What was done to a file, or to the names of a folder, is durable now."""

    inode: int


@dataclass(frozen=True, slots=True)
class Made:
    """A new inode; no name leads to it yet."""

    inode: int
    folder: bool


Event = Write | Length | Names | Sync | Made
Tree = dict[bytes, bytes | None]


class Loss(Enum):
    """What a power cut takes of what was not synced."""

    ALL = auto()
    NOTHING = auto()
    SOME = auto()


# -- what a cut leaves -------------------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Length] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    durable: dict[bytes, int] = field(default_factory=dict)
    pending: list[Names] = field(default_factory=list)


class Disk:
    """A disk, and what was done to it since its last syncs."""

    def __init__(self) -> None:
        self._inodes: dict[int, _File | _Folder] = {ROOT: _Folder()}

    def advance(self, event: Event) -> None:
        """The next thing happens."""
        if isinstance(event, Made):
            self._inodes[event.inode] = _Folder() if event.folder else _File()
            return
        inode = self._inodes[event.inode]
        if isinstance(event, Names):
            assert isinstance(inode, _Folder)
            inode.pending.append(event)
        elif not isinstance(event, Sync):
            assert isinstance(inode, _File)
            inode.pending.append(event)
        elif isinstance(inode, _Folder):
            inode.durable = _renamed(inode.durable, inode.pending)
            inode.pending = []
        else:
            inode.durable = _written(inode.durable, inode.pending)
            inode.pending = []

    def crash(self, content: Loss, names: Loss, numbers: random.Random) -> Tree:
        """What is there after a cut now: path -> content, None for a folder. `numbers` decides where only some is lost."""
        found: Tree = {}
        waiting = [(b"", ROOT)]
        while waiting:
            path, number = waiting.pop()
            inode = self._inodes[number]
            if isinstance(inode, _File):
                found[path] = bytes(_after_cut(inode, content, numbers))
                continue
            if path:
                found[path] = None
            pending = _some_names(inode.pending, numbers) if names is Loss.SOME else inode.pending if names is Loss.NOTHING else []
            entries = sorted(_renamed(inode.durable, pending).items())
            waiting += [(path + b"/" + name if path else name, child) for name, child in entries]
        return found


def _renamed(names: Mapping[bytes, int], changes: Sequence[Names]) -> dict[bytes, int]:
    after = dict(names)
    for change in changes:
        for name, inode in change.changes:
            if inode is None:
                after.pop(name, None)
            else:
                after[name] = inode
    return after


def _written(content: bytearray, writes: Sequence[Write | Length]) -> bytearray:
    after = bytearray(content)
    for write in writes:
        end = write.length if isinstance(write, Length) else write.offset + len(write.content)
        if len(after) < end:
            after += bytes(end - len(after))
        if isinstance(write, Length):
            del after[end:]
        else:
            after[write.offset : end] = write.content
    return after


def _after_cut(file: _File, loss: Loss, numbers: random.Random) -> bytearray:
    if loss is not Loss.SOME or not file.pending:
        return file.durable if loss is Loss.ALL else _written(file.durable, file.pending)
    whole = numbers.randint(0, len(file.pending))
    after = _written(file.durable, file.pending[:whole])
    torn = file.pending[whole] if whole < len(file.pending) else None
    if not isinstance(torn, Write):
        return after
    if numbers.random() < 0.5:  # its place was taken already: what is not written there is zeros
        after = _written(after, [Length(torn.inode, max(len(after), torn.offset + len(torn.content)))])
    for start in range(torn.offset // SECTOR * SECTOR, torn.offset + len(torn.content), SECTOR):
        if numbers.random() < 0.5:
            first = max(start, torn.offset)
            after = _written(after, [Write(torn.inode, first, torn.content[first - torn.offset : start + SECTOR - torn.offset])])
    return after


def _some_names(pending: Sequence[Names], numbers: random.Random) -> Sequence[Names]:
    if numbers.random() < 0.5:
        return pending[: numbers.randint(0, len(pending))]
    return [change for change in pending if numbers.random() < 0.5]


def restore(top: Path, left: Tree) -> None:
    """Make a folder what a power cut left of it."""
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(0o700)  # a program says something about folders of its own that others may read
    for path, content in sorted(left.items()):
        if content is None:
            os.mkdir(os.fsencode(top) + b"/" + path, 0o700)
        else:
            with open(os.fsencode(top) + b"/" + path, "wb") as file:
                file.write(content)


# -- recording ---------------------------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Opened:
    """An open file description. `inode` is None for what lies elsewhere."""

    inode: int | None
    append: bool
    direct: bool  # O_SYNC or O_DSYNC
    position: int = 0


class Recorder:
    """Records what programs do below the empty folder `top`, one after the other, into `events`. One process each; threads are fine."""

    def __init__(self, top: Path) -> None:
        self.events: list[Event] = []
        self._top = os.fsencode(os.path.realpath(top))
        self._names: dict[int, dict[bytes, int]] = {ROOT: {}}  # of each folder
        self._lengths: dict[int, int] = {}  # of each file
        self._open: dict[int, _Opened] = {}

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str], trace: Path) -> str:
        """Run a program to its end, which must be good; what it printed. `trace`: a file for strace."""
        strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", str(64 << 20), "-e", "signal=none", "-e", f"trace={_CALLS}")
        done = subprocess.run(
            [*strace, "-o", trace, "--", *command], env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
        self._open = {}
        begun: dict[str, tuple[str, str, _Opened | None]] = {}
        with trace.open() as lines:
            for line in lines:
                self._take(line.rstrip("\n"), begun)
        trace.unlink()
        return done.stdout

    def _take(self, line: str, begun: dict[str, tuple[str, str, _Opened | None]]) -> None:
        """A line of the trace. What a call is about is settled where it begins, what it does where it ends."""
        match = _LINE.fullmatch(line)
        if match is None:
            return  # a process ended
        process, resumed, called, rest = match.groups()
        if resumed:
            call, before, about = begun.pop(process)
            rest = before + rest
        else:
            call = called
            number = re.match(r"\d+", rest)
            about = self._open.get(int(number[0])) if number else None
            if call == "close" and number:
                self._open.pop(int(number[0]), None)  # at its beginning: another thread may be given the number before it ends
            if rest.endswith(_UNFINISHED):
                begun[process] = call, rest.removesuffix(_UNFINISHED), about
                return
        end = re.search(r"\) += (-?\d+)(?:<([^>]*)>)?[^\"]*$", rest)
        if end is None or int(end[1]) < 0:
            return  # it failed, or the process ended in it
        self._do(call, rest[: end.start()], int(end[1]), _plain(end[2] or ""), about)

    def _do(self, call: str, text: str, result: int, path: bytes, about: _Opened | None) -> None:
        if call in ("openat", "open", "creat"):
            self._opened(text, result, path)
        elif call in ("dup", "dup2", "dup3") or (call == "fcntl" and "F_DUPFD" in text):
            if about is not None:
                self._open[result] = about
        elif call in ("mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "link", "linkat", "rename", "renameat", "renameat2"):
            self._named(call.removesuffix("2").removesuffix("at"), _paths(text))
        elif about is None or about.inode is None:
            return
        elif call == "lseek":
            about.position = result
        elif call in ("fsync", "fdatasync"):
            self.events.append(Sync(about.inode))
        elif call in ("write", "pwrite64", "writev", "pwritev", "pwritev2"):
            self._wrote(call, text, result, about, about.inode)
        elif call in ("ftruncate", "fallocate"):
            numbers = [int(number) for number in re.findall(r", (\d+)", text)]
            length = numbers[-1] if call == "ftruncate" else max(self._lengths[about.inode], sum(numbers[-2:]))
            self._resize(about.inode, length)
        elif call not in ("close", "fcntl"):
            raise NotImplementedError(f"{call} of {self._top.decode()}")

    def _opened(self, text: str, result: int, path: bytes) -> None:
        inode = self._find(path)
        if inode is None and "O_CREAT" in text and (place := self._place(path)) is not None:
            inode = self._make(False, *place)
        if inode is not None and "O_TRUNC" in text:
            self._resize(inode, 0)
        self._open[result] = _Opened(inode, "O_APPEND" in text, "SYNC" in text)

    def _wrote(self, call: str, text: str, result: int, about: _Opened, inode: int) -> None:
        content = b"".join(_plain(part) for part in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', text))[:result]
        assert len(content) == result, (call, result, len(content))
        if call.startswith("pwrite"):
            offset = int(re.findall(r", (\d+)", text)[-2 if call == "pwritev2" else -1])
        else:
            offset = self._lengths[inode] if about.append else about.position
            about.position = offset + result
        self.events.append(Write(inode, offset, content))
        self._lengths[inode] = max(self._lengths[inode], offset + result)
        if about.direct:
            self.events.append(Sync(inode))

    def _resize(self, inode: int, length: int) -> None:
        if self._lengths[inode] != length:
            self.events.append(Length(inode, length))
            self._lengths[inode] = length

    def _named(self, call: str, paths: list[bytes]) -> None:
        places = [self._place(path) for path in paths]
        first, last = places[0], places[-1]
        if first is None or last is None:
            assert first is last, f"{call} out of {self._top.decode()}"
            return
        if call == "mkdir":
            self._make(True, *first)
        elif call in ("unlink", "rmdir"):
            self._change(first[0], {first[1]: None})
        elif call == "link":
            self._change(last[0], {last[1]: self._names[first[0]][first[1]]})
        elif first != last:
            inode = self._names[first[0]][first[1]]
            if first[0] == last[0]:
                self._change(first[0], {first[1]: None, last[1]: inode})
            else:
                self._change(last[0], {last[1]: inode})
                self._change(first[0], {first[1]: None})

    def _make(self, folder: bool, parent: int, name: bytes) -> int:
        inode = len(self._names) + len(self._lengths)
        if folder:
            self._names[inode] = {}
        else:
            self._lengths[inode] = 0
        self.events.append(Made(inode, folder))
        self._change(parent, {name: inode})
        return inode

    def _change(self, folder: int, changes: dict[bytes, int | None]) -> None:
        self.events.append(Names(folder, tuple(changes.items())))
        self._names[folder] = _renamed(self._names[folder], [Names(folder, tuple(changes.items()))])

    def _place(self, path: bytes) -> tuple[int, bytes] | None:
        """The folder and the name that a path means; None when it lies elsewhere."""
        if not path.startswith(self._top + b"/"):
            return None
        folder, name = os.path.split(path)
        inode = self._find(folder)
        assert inode is not None, path
        return inode, name

    def _find(self, path: bytes) -> int | None:
        if path != self._top and not path.startswith(self._top + b"/"):
            return None
        inode = ROOT
        for name in filter(None, path[len(self._top) :].split(b"/")):
            child = self._names.get(inode, {}).get(name)
            if child is None:
                return None
            inode = child
        return inode


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _paths(text: str) -> list[bytes]:
    """The paths that a call names, each after the folder it is relative to."""
    found: list[bytes] = []
    folder = b""
    for path, _, at, _ in _ARGUMENT.findall(text):
        if at:
            folder = _plain(at)
        elif path:
            found.append(os.path.normpath(os.path.join(folder, _plain(path))))
            folder = b""
    return found
