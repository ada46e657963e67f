"""Comparing a staging folder with a version: which rows may differ, in the order of rows, so that only their content is read.

Knows staging and manifests. Must not know packs, stores or the log. A directory whose stats are those of the last scan, and whose columns
are those of the version, is compared as slices of bytes: no loop over its rows.
"""

from __future__ import annotations

import builtins
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from artifactmount.digest import DIGEST_LENGTH
from artifactmount.manifest import MISSING, Table
from artifactmount.rows import Kind, child_key, kind_of, mode_of, path_of, rows_of, split_key
from artifactmount.staging import Listing, Staged, Tracked

_REFERENCES = (mode_of(Kind.REFERENCE), mode_of(Kind.REFERENCE, True))


class Found(NamedTuple):
    """One path that may differ: its row in the version (MISSING if it has none) and in the listing (None when it is gone)."""

    key: bytes
    name: bytes
    old: int
    listing: Listing | None
    row: int

    @property
    def path(self) -> bytes:
        """The path below the root."""
        return path_of(self.key, self.name)


@dataclass(slots=True)
class Scan:
    """The listings that differ, or whose content must be read to know; in order, beside the directories that are gone."""

    base: Table
    listings: list[Listing]
    gone: list[bytes]
    files: int = 0  # to be read at most
    bytes: int = 0
    #: Directories of `gone` that stay, because references in or below them do.
    kept: frozenset[builtins.bytes] = frozenset()
    #: Whether what was scanned could have held the base's references, so that those it has not are gone.
    whole: bool = False

    def found(self) -> Iterator[Found]:
        """Every path that may differ, in the order of rows.

        A folder cannot hold a reference, so that there is none in it says nothing: it stays, unless something else is at its path or above.
        """
        if self.whole or not has_references(self.base):
            yield from self._all()
            return
        gone = set(self.gone) - self.kept
        for found in self._all():
            kind = self.base.kind(found.old) if found.listing is None else None
            stays = (kind is Kind.REFERENCE and found.key not in gone) or (
                kind is Kind.DIRECTORY and child_key(found.key, found.name) in self.kept
            )
            if not stays:
                yield found

    def _all(self) -> Iterator[Found]:
        listings, gone = iter(self.listings), iter(self.gone)
        listing, key = next(listings, None), next(gone, None)
        while listing is not None or key is not None:
            if listing is None or (key is not None and key < listing.key):
                assert key is not None
                start, stop = self.base.span(key)
                yield from (Found(key, self.base.name(row), row, None, 0) for row in range(start, stop))
                key = next(gone, None)
            else:
                yield from _differences(self.base, listing) if listing.hidden is None else _laid(self.base, listing)
                listing = next(listings, None)


def scan(staging: Staged, base: Table, remembered: Callable[[bytes], bytes | None]) -> Scan:
    """Walk what is staged against `base`. `remembered(directory key)` is the stat-cache value of the last scan, or None.

    Raises StagingError, naming what cannot be versioned.
    """
    result = Scan(base, [], [], whole=staging.whole)
    index = 0
    for listing in staging.walk(tracked_in(base), base.count):
        while index < base.dirs and base.dir_key(index) < listing.key:
            result.gone.append(base.dir_key(index))
            index += 1
        start = stop = 0
        if index < base.dirs and base.dir_key(index) == listing.key:
            start, stop = base.dir_rows(index)
            index += 1
        value = remembered(listing.key)
        if value is not None:
            listing.trust(value)
        if not _same(base, start, stop, listing):
            result.listings.append(listing)
            _count(result, listing)
    result.gone += [base.dir_key(i) for i in range(index, base.dirs)]
    if not staging.whole and has_references(base):
        result.kept = _kept(result)
    return result


def scan_layer(layer: Staged, lower: Table, tracked: Tracked, remembered: Callable[[bytes], bytes | None]) -> Scan:
    """Walk what lies over a version: only what the layer itself holds is looked at. Arguments and errors as of `scan`.

    What it says is said of references, too: they shine through where nothing hides them.
    """
    result = Scan(lower, [], [], whole=True)
    for listing in layer.walk(tracked):
        value = remembered(listing.key)
        if value is not None:
            listing.trust(value)
        result.listings.append(listing)
        _count(result, listing)
        for name in _covered(lower, listing):
            result.gone += _directories_at(lower, child_key(listing.key, name))
    result.gone.sort()
    return result


def tracked_in(base: Table) -> Tracked:
    """The names that a version has in a directory."""

    def names(key: bytes) -> frozenset[bytes]:
        start, stop = base.span(key)
        lengths, heap = base.slice_of("name_lengths", start, stop), base.slice_of("names", start, stop)
        ends = accumulate(lengths)
        return frozenset(heap[end - length : end] for length, end in zip(lengths, ends, strict=True))

    return names


def _covered(lower: Table, listing: Listing) -> list[bytes]:
    """The directories that a version has in this one and that are gone, or are something else now."""
    folders = {name for name, mode in zip(listing.names, listing.modes, strict=True) if mode == Kind.DIRECTORY}
    whole = listing.hidden is None
    names = [lower.name(row) for row in range(*lower.span(listing.key))] if whole else {*(listing.hidden or ()), *listing.names}
    rows = ((name, lower.find(listing.key, name)) for name in names if name not in folders)
    return [name for name, row in rows if row != MISSING and lower.kind(row) is Kind.DIRECTORY]


def _directories_at(table: Table, key: bytes) -> list[bytes]:
    """The keys of a directory and of all below it, as far as they have rows. (No name byte is below 0x01: see `Table.under`.)"""
    return [table.dir_key(index) for index in range(table.dir_position(key)[0], table.dir_position(key + b"\1")[0])]


def has_references(table: Table) -> bool:
    """Whether any row is a reference."""
    modes = bytes(table.modes)
    return any(mode in modes for mode in _REFERENCES)


def _kept(result: Scan) -> frozenset[bytes]:
    """The directories that the folder has not and that hold references, and those above them; but none where the folder has a file."""
    listings = {listing.key: listing for listing in result.listings}
    gone, kept, blocked = set(result.gone), set[bytes](), set[bytes]()
    for key in result.gone:  # in order, so what is above was decided before
        parent, name = split_key(key)
        if parent in gone:
            if parent in blocked:
                blocked.add(key)
        else:
            names = listings[parent].names  # which differ: the base has a directory there
            at = bisect_left(names, name)
            if at < len(names) and names[at] == name:
                blocked.add(key)
    for key in result.gone:
        modes = result.base.slice_of("modes", *result.base.span(key))
        if key not in blocked and any(mode in modes for mode in _REFERENCES):
            while key in gone and key not in kept:
                kept.add(key)
                key, _ = split_key(key)
    return frozenset(kept)


def _count(result: Scan, listing: Listing) -> None:
    zero = bytes(DIGEST_LENGTH)
    for row, mode in enumerate(listing.modes):
        at = row * DIGEST_LENGTH
        known = result.base.count and listing.digests[at : at + DIGEST_LENGTH] != zero
        if kind_of(mode) is Kind.FILE and not known:
            result.files += 1
            result.bytes += listing.size(row)


def _same(base: Table, start: int, stop: int, listing: Listing) -> bool:
    """Whether a directory's rows are certainly those of the version. A directory's own digest is not known here: it is left out."""
    if stop - start != len(listing.names) or base.slice_of("modes", start, stop) != listing.modes:
        return False
    if base.slice_of("names", start, stop) != b"".join(listing.names):
        return False
    if base.slice_of("name_lengths", start, stop) != bytes(map(len, listing.names)):
        return False
    if base.slice_of("sizes", start, stop) != listing.sizes():
        return False
    digests = base.slice_of("digests", start, stop)
    first = 0
    for directory in rows_of(listing.modes, Kind.DIRECTORY):
        if digests[first * DIGEST_LENGTH : directory * DIGEST_LENGTH] != listing.digests[first * DIGEST_LENGTH : directory * DIGEST_LENGTH]:
            return False
        first = directory + 1
    return digests[first * DIGEST_LENGTH :] == listing.digests[first * DIGEST_LENGTH :]


def _differences(base: Table, listing: Listing) -> Iterator[Found]:
    """Two sorted lists of names, side by side; rows known to be equal are left out."""
    old, stop = base.span(listing.key)
    for row, name in enumerate(listing.names):
        while old < stop and base.name(old) < name:
            yield Found(listing.key, base.name(old), old, None, 0)
            old += 1
        at = MISSING
        if old < stop and base.name(old) == name:
            at, old = old, old + 1
        if at == MISSING or not _equal(base, at, listing, row):
            yield Found(listing.key, name, at, listing, row)
    yield from (Found(listing.key, base.name(row), row, None, 0) for row in range(old, stop))


def _laid(lower: Table, listing: Listing) -> Iterator[Found]:
    """What a listing changes that lies over a version's directory: nothing but its own names, and those that it hides."""
    rows = dict(zip(listing.names, range(len(listing.names)), strict=True))
    for name in sorted({*rows, *(listing.hidden or ())}):
        old, row = lower.find(listing.key, name), rows.get(name)
        if row is None:
            if old != MISSING:
                yield Found(listing.key, name, old, None, 0)
        elif old == MISSING or not _equal(lower, old, listing, row):
            yield Found(listing.key, name, old, listing, row)


def _equal(base: Table, old: int, listing: Listing, row: int) -> bool:
    mode = listing.modes[row]
    if base.mode(old) != mode:
        return False
    if kind_of(mode) is Kind.DIRECTORY:
        return True
    return base.size(old) == listing.size(row) and base.digest(old) == listing.digest(row)
