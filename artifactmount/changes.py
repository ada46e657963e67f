"""What a staging folder changes against a version, as the rows of a run; the content of what is new goes to a packer on the way.

Brings scan, content and packer together. Must not know the log.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable

from artifactmount.content import Chunk, Content, ContentReader, NewFiles, Read
from artifactmount.digest import DIGEST_LENGTH, SINGLE_LIMIT
from artifactmount.listing import FIELDS, stat_record
from artifactmount.manifest import MISSING, Table
from artifactmount.merge import diff
from artifactmount.packer import Packer
from artifactmount.progress import Progress
from artifactmount.rows import KIND_MASK, Change, Kind, kind_of, path_of
from artifactmount.run_builder import RunBuilder
from artifactmount.scan import Found, Scan
from artifactmount.staging import Listing, Staged
from artifactmount.steps import Steps

#: A file from this size on has packs of its own.
LARGE = 8 << 20


class Changes:
    """Makes the delta of one staging folder, first against the version it was scanned with, later perhaps against others.

    Without a packer only to look at it: the `reader` MUST take every chunk for known, and the rows are good for a table, not for a run.
    """

    def __init__(self, staging: Staged, reader: ContentReader, packer: Packer | None, progress: Progress) -> None:
        self._staging, self._reader, self._packer, self._progress = staging, reader, packer, progress
        self._chunk_lists: dict[bytes, bytes] = {}  # of files of several chunks, by content digest: to be made again after a lost slot

    def from_scan(self, scan: Scan) -> Steps[RunBuilder]:
        """Read what must be read and give the rows that differ from `scan.base`. Listings learn the digests found."""
        builder, base = RunBuilder(), scan.base
        for batch in self._reader.small(scan.found(), self._must_read, scan.files):
            if isinstance(batch, NewFiles):
                yield from self._new(builder, batch)
                continue
            for found, read in zip(batch.found, batch.reads, strict=True):
                if read is not None:
                    yield from self._small(builder, base, found, read)
                elif found.listing is None:
                    builder.add(found.key, found.name, Change.REMOVED, base.mode(found.old), base.size(found.old))
                else:
                    yield from self._other(builder, base, found, found.listing)
        return builder

    def _new(self, builder: RunBuilder, files: NewFiles) -> Steps[None]:
        """New files of one folder, by whole columns: of a first snapshot nearly all are. A row by itself costs eight times as much."""
        listing, start, stop = files.found[0].listing, files.found[0].row, files.found[-1].row + 1
        assert listing is not None
        records, digests = array("q", files.reads.records), files.reads.digests
        listing.digests[start * DIGEST_LENGTH : stop * DIGEST_LENGTH] = digests
        sizes, at = records[1::FIELDS], 0
        if self._packer is not None:
            for row, length in enumerate(array("i", files.reads.lengths)):
                digest = digests[row * DIGEST_LENGTH : (row + 1) * DIGEST_LENGTH]
                if length and not self._reader.known(digest):
                    yield from self._packer.add(digest, sizes[row], files.stored[at : at + length])
                at += length
        builder.add_files(listing.key, listing.names[start:stop], listing.modes[start:stop], sizes, records[2::FIELDS], digests)
        self._progress.advance(sum(sizes), len(files.found))

    def _small(self, builder: RunBuilder, base: Table, found: Found, read: Read) -> Steps[None]:
        """A file that was read whole."""
        record, digest, chunk = read
        if chunk is not None:
            yield from self._add(chunk, large=False)
        assert found.listing is not None
        found.listing.learn(found.row, digest, record)
        self._progress.advance(record[1], 1)
        self._row(builder, base, found, record[4], record[1], record[2], digest, chunks=b"" if chunk is None else digest)

    def _other(self, builder: RunBuilder, base: Table, found: Found, listing: Listing) -> Steps[None]:
        """A folder, link or reference, a file of several chunks, or one whose content is known."""
        mode, size, mtime, digest = listing.modes[found.row], listing.size(found.row), listing.mtime(found.row), listing.digest(found.row)
        target = chunks = b""
        kind = kind_of(mode)
        if kind is Kind.SYMLINK:
            target = self._staging.target(found.path)
            size, mtime, digest = len(target), 0, self._reader.chunking.digest(target)
            listing.learn(found.row, digest)
        elif kind is Kind.REFERENCE:
            target = self._staging.target(found.path)
        elif kind is Kind.FILE and (listed := self._listed(found.path, size, digest)) is not None:
            chunks = listed
        elif kind is Kind.FILE:
            content = yield from self._read_large(found.path, size)
            _, size, mtime, _, mode = record = stat_record(content.status)
            digest, chunks = content.digest, content.chunk_digests
            listing.learn(found.row, digest, record)
        self._row(builder, base, found, mode, size, mtime, digest, target, chunks)

    @staticmethod
    def _row(
        builder: RunBuilder,
        base: Table,
        found: Found,
        mode: int,
        size: int,
        mtime: int,
        digest: bytes | None,
        target: bytes = b"",
        chunks: bytes = b"",
    ) -> None:
        """Add a row, unless it is what the base has."""
        change = Change.ADDED if found.old == MISSING else Change.CHANGED
        if mode == Kind.DIRECTORY:
            builder.add(found.key, found.name, change, mode, 0)
            return
        assert digest is not None
        if found.old != MISSING and (base.mode(found.old), base.size(found.old), base.digest(found.old)) == (mode, size, digest):
            return
        builder.add(found.key, found.name, change, mode, size, mtime, digest, target, chunks)

    def between(self, base: Table, table: Table, records: Callable[[bytes], bytes]) -> RunBuilder:
        """The delta from `base` to `table`, the staging folder's own manifest: for a base that is not the one it was scanned with.
        `records` gives a reference's record by its path.

        Raises StagingError when a file that must be read again is not what it was.
        """
        builder = RunBuilder()
        for key, name, old, new in diff(base, table):
            if new == MISSING:
                builder.add(key, name, Change.REMOVED, base.mode(old), base.size(old))
                continue
            change = Change.ADDED if old == MISSING else Change.CHANGED
            mode, size, path = table.mode(new), table.size(new), path_of(key, name)
            if kind_of(mode) is Kind.DIRECTORY:
                builder.add(key, name, change, mode, 0)
                continue
            digest, target, chunks = table.digest(new), b"", b""
            if kind_of(mode) in (Kind.SYMLINK, Kind.REFERENCE):
                target = (records if kind_of(mode) is Kind.REFERENCE else self._staging.target)(path)
                if self._reader.chunking.digest(target) != digest:
                    raise self._staging.changed(path)
            elif size:
                chunks = self._listed(path, size, digest) or self._chunk_list(path, digest)
            builder.add(key, name, change, mode, size, table.mtime(new), digest, target, chunks)
        return builder

    def upload(self, builder: RunBuilder, needed: set[bytes]) -> Steps[None]:
        """Read the files of `builder` again that hold the `needed` chunks, and hand these to the packer.

        For chunks that were counted on elsewhere and are no longer live there, and for packs that would have been kept in part.
        """
        for key, name, size, chunk_digests in builder.files():
            if needed.isdisjoint(chunk_digests):
                continue
            path = path_of(key, name)
            if size > SINGLE_LIMIT:
                content = yield from self._read_large(path, size)
                found = [content.chunk_digests[i : i + 32] for i in range(0, len(content.chunk_digests), 32)]
            else:
                read = self._reader.one(path)
                if read is None or read.chunk is None:
                    raise self._staging.changed(path)
                found = [read.digest]
                yield from self._add(read.chunk, large=False)
            if found != chunk_digests:
                raise self._staging.changed(path)
            needed.difference_update(found)

    def _must_read(self, found: Found) -> bool:
        """Whether a small file's bytes are needed: its digest is unknown, or nobody has its chunk."""
        if found.listing is None or found.listing.modes[found.row] & KIND_MASK != Kind.FILE:
            return False
        size = found.listing.size(found.row)
        if size > SINGLE_LIMIT:
            return False
        digest = found.listing.digest(found.row)
        return digest is None or (size > 0 and not self._reader.known(digest))

    def _read_large(self, path: bytes, size: int) -> Steps[Content]:
        content: Content | None = None
        for part in self._reader.large(path):
            if isinstance(part, Content):
                content = part
                break
            for chunk in part:
                yield from self._add(chunk, large=size >= LARGE)
                self._progress.advance(chunk.plain, 0)
        if self._packer is not None:
            yield from self._packer.end_large()
        assert content is not None  # the reader ends with the content, or raises
        self._progress.advance(0, 1)
        self._chunk_lists[content.digest] = content.chunk_digests
        return content

    def _add(self, chunk: Chunk, *, large: bool) -> Steps[None]:
        if self._packer is not None and chunk.stored is not None and chunk.digest not in self._packer:
            yield from self._packer.add(chunk.digest, chunk.plain, chunk.stored, large=large)

    def _listed(self, path: bytes, size: int, digest: bytes | None) -> bytes | None:
        """The chunk digests of a file of this digest, where they are known without reading it."""
        if digest is None:
            return None
        if size <= SINGLE_LIMIT:
            return digest if size else b""
        return self._staging.chunk_digests(path, digest) if self._packer is not None else b""

    def _chunk_list(self, path: bytes, digest: bytes) -> bytes:
        if digest not in self._chunk_lists:
            (content,) = deque(self._reader.large(path), maxlen=1)  # one window at a time in memory
            if not isinstance(content, Content) or content.digest != digest:
                raise self._staging.changed(path)
            self._chunk_lists[digest] = content.chunk_digests
        return self._chunk_lists[digest]
