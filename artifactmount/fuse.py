"""The kernel's requests, decoded and answered. Thin on purpose: what a request means is in tree, namespace and reader.

An exception that escapes a handler kills the mount, so one decorator turns every error into an errno; nothing else does.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, RequestContext, StatvfsData

from artifactmount.cache import Cache
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    IsDirectoryError,
    NoAttributeError,
    NoAttributesError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    UsageError,
    errno_of,
)
from artifactmount.namespace import Namespace
from artifactmount.reader import Hopper, Reader
from artifactmount.reference import Referent
from artifactmount.rows import Kind, kind_of
from artifactmount.tree import ArtifactDirectory, Attributes, Directory, File, Link, NamespaceRoot, Place, Tree, as_directory

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_FOREVER = 1e9
_NAMESPACE_SECONDS = 1.0
#: glibc takes its readdir buffer from a directory's st_blksize: 5,000 entries in one request instead of 27.
_DIRECTORY_BLOCK = 1 << 20
_FILE_BLOCK = 4096
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
_PREFIX = b"user.artifactmount."

Handler = Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]


def answered(handler: Handler[P, R]) -> Handler[P, R]:
    """Let only FUSEError out of a handler."""

    @functools.wraps(handler)
    async def answer(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except ArtifactError as error:
            if isinstance(error, (StoreError, CorruptError)) and handler.__name__ != "read":  # `read` has said which file
                _log.error("%s: %s", handler.__name__, error, extra={"operation": handler.__name__})
            raise FUSEError(errno_of(error)) from None
        except Exception as error:  # noqa: BLE001 - the kernel gets EIO, the log the traceback
            _log.exception("%s failed", handler.__name__, extra={"operation": handler.__name__})
            raise FUSEError(errno_of(error)) from None

    return answer


class Operations(pyfuse3.Operations):
    """Requests on one mount. A handle is the inode itself: nothing is kept for an open file or directory."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree, namespace: Namespace, reader: Reader, hopper: Hopper, cache: Cache) -> None:
        super().__init__()
        self._tree, self._namespace, self._reader, self._hopper, self._cache = tree, namespace, reader, hopper, cache
        self._added, self._attributed = 0, True
        #: set when the kernel and this side have agreed on how they speak: what the kernel is told of the mount before, it takes back then
        self.began = trio.Event()
        self.show_as(None, None, 0)

    def init(self) -> None:
        """The first request. Its answer is on its way before any other task has its turn."""
        self.began.set()

    def show_as(self, uid: int | None, gid: int | None, umask: int) -> None:
        """Whose the files are shown to be (None: this process's), and without which permission bits. The kernel enforces what is shown."""
        self._owner = os.getuid() if uid is None else uid, os.getgid() if gid is None else gid
        self._shown = ~umask

    def lie_beneath(self) -> None:
        """Show files as writable, and without extended attributes: an overlay copies both to what is changed in it."""
        self._added, self._attributed = stat.S_IWUSR, False

    async def _place(self, inode: int) -> Place:
        """What an inode stands for, with what it takes to answer for it loaded."""
        place = self._tree.place(inode)
        if isinstance(place, Directory):
            await self._namespace.load(place.slot)
        return place

    def _attributes(self, inode: int) -> Attributes:
        place = self._tree.place(inode)
        match place:
            case Directory(slot, row):
                return self._tree.directory(slot, row)
            case File():
                return self._tree.file(place)
            case _:
                return self._tree.name(place)

    def _fill(self, entry: EntryAttributes, attributes: Attributes) -> EntryAttributes:
        directory = stat.S_ISDIR(attributes.mode)
        entry.st_ino = InodeT(attributes.inode)
        entry.st_mode = attributes.mode if stat.S_ISLNK(attributes.mode) else (attributes.mode | self._added) & self._shown
        entry.st_size = attributes.size
        entry.st_nlink = 2 if directory else 1
        entry.st_blksize = _DIRECTORY_BLOCK if directory else _FILE_BLOCK
        entry.st_blocks = (attributes.size + 511) // 512
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = attributes.mtime
        entry.st_uid, entry.st_gid = self._owner
        entry.entry_timeout = _FOREVER if attributes.lasting else _NAMESPACE_SECONDS
        entry.attr_timeout = _FOREVER if attributes.lasting else _NAMESPACE_SECONDS
        return entry

    # -- names and attributes ------------------------------------------------------------------------------------------------------
    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """What stands under a name; inside a version also its absence is remembered by the kernel."""
        place = as_directory(await self._place(parent_inode))
        match place:
            case Directory():
                found = self._tree.find(place, name)
            case NamespaceRoot():
                found = await self._namespace.in_root(os.fsdecode(name))
            case ArtifactDirectory(artifact):
                found = await self._namespace.in_artifact(artifact, os.fsdecode(name))
        if found is not None:
            return self._fill(EntryAttributes(), found)
        if not isinstance(place, Directory):
            raise NotFoundError(f"no {os.fsdecode(name)}")
        absent = EntryAttributes()
        absent.st_ino = InodeT(0)
        absent.entry_timeout = _FOREVER
        return absent

    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """What stat shows."""
        return self._fill(EntryAttributes(), self._attributes(inode))

    @answered
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """The target of a symlink of a version, or of the namespace."""
        place = self._tree.place(inode)
        if isinstance(place, Link):
            return FileNameT(place.target)
        if not isinstance(place, File):
            raise UsageError("not a symlink")
        return FileNameT(place.slot.run.target(place.row))

    async def forget(self, inode_list: Any) -> None:
        """Inodes are arithmetic: there is nothing to forget."""

    # -- directories ---------------------------------------------------------------------------------------------------------------
    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """The handle is the inode."""
        as_directory(await self._place(inode))
        return FileHandleT(inode)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Names with attributes, from a position on. One attributes value is filled again and again: making one is half of the cost."""
        place, entry = as_directory(await self._place(fh)), EntryAttributes()
        if isinstance(place, Directory):
            for position, name, attributes in self._tree.list(place, start_id):
                if not pyfuse3.readdir_reply(token, FileNameT(name), self._fill(entry, attributes), position):
                    return
            return
        listed = self._namespace.list_root() if isinstance(place, NamespaceRoot) else self._namespace.list_artifact(place.name)
        for position, (text, attributes) in enumerate(await listed):
            if position >= start_id and not pyfuse3.readdir_reply(
                token, FileNameT(os.fsencode(text)), self._fill(entry, attributes), position + 1
            ):
                return

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        """Nothing was kept."""

    # -- files ---------------------------------------------------------------------------------------------------------------------
    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """The handle is the inode; what the kernel has read of it stays, as it can never change."""
        place = await self._place(inode)
        if not isinstance(place, File):
            raise IsDirectoryError("a directory")
        if flags & _WRITE_FLAGS:
            raise ReadOnlyError("versions are immutable")
        self._push(inode, place)
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    def _push(self, inode: InodeT, file: File) -> None:
        """Give the kernel a small file that is opened for the first time, where its content can be had at once: it need not ask then.

        Not when it was opened before: somebody may be waiting for a part of it that is on its way, and hold the page that this would wait
        for, with all answers waiting for this (linux, fs/fuse/dev.c: fuse_notify_store locks each page).
        """
        if file.slot.is_first_open(file.row) and (content := self._reader.at_once(file)) is not None:
            with suppress(OSError):  # then it asks
                pyfuse3.notify_store(inode, 0, content)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Verified bytes."""
        place = self._tree.place(fh)
        assert isinstance(place, File)
        return await self._reader.read(place, off, size)  # type: ignore[return-value]  # any contiguous buffer will do

    @answered
    async def release(self, fh: FileHandleT) -> None:
        """Nothing was kept."""

    # -- the rest ------------------------------------------------------------------------------------------------------------------
    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """The cache's budget stands for the size: of the project's own nobody knows a limit."""
        usage = await self._hopper.hop("usage", self._cache.usage)
        shown = StatvfsData()
        shown.f_bsize = shown.f_frsize = _FILE_BLOCK
        shown.f_blocks = usage.budget // _FILE_BLOCK
        shown.f_bfree = shown.f_bavail = max(usage.budget - usage.chunks, 0) // _FILE_BLOCK
        shown.f_namemax = 255
        return shown

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[Any]:
        """The names of what `getxattr` knows."""
        return list(await self._xattrs(inode))

    @answered
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        """Digest, artifact and version; of a file, whether it can be read without the store."""
        if self._attributed and not name.startswith(_PREFIX):
            raise NoAttributeError("no such attribute")
        found = (await self._xattrs(inode)).get(name)
        if found is None:
            raise NoAttributeError("no such attribute")
        return found

    async def _xattrs(self, inode: int) -> dict[bytes, bytes]:
        if not self._attributed:
            raise NoAttributesError("no attributes")
        place = await self._place(inode)
        match place:
            case Directory(slot, row):
                shown = {b"artifact": slot.artifact.encode(), b"version": b"v%d" % slot.version.n}
                shown[b"digest"] = slot.table.digest(row).hex().encode()
            case File(slot, row):
                shown = {b"artifact": slot.artifact.encode(), b"written": b"v%d" % slot.version.n}
                shown[b"digest"] = slot.run.digest_of(row).hex().encode()
                kind = kind_of(slot.run.mode(row))
                if kind is Kind.REFERENCE:
                    shown |= _reference(slot.run.target(row))
                if kind is not Kind.SYMLINK:
                    shown[b"cached"] = b"yes" if self._reader.cached(place) else b"no"
            case _:
                shown = {}
        return {_PREFIX + name: value for name, value in shown.items()}


def _reference(record: bytes) -> dict[bytes, bytes]:
    referent = Referent.decode(record)
    shown = {b"reference": referent.uri, b"etag": referent.etag, b"pinned": referent.version}
    return {name: value.encode() for name, value in shown.items() if value is not None}


def _refuse(name: str) -> Handler[..., Any]:
    async def refuse(self: Operations, *args: Any, **kwargs: Any) -> None:
        raise ReadOnlyError("versions are immutable")

    refuse.__name__ = name
    return answered(refuse)


for _name in ("setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create", "write", "setxattr", "removexattr"):
    setattr(Operations, _name, _refuse(_name))
