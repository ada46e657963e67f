"""What was changed in a checkout since its base.

Of an overlay only what was changed is looked at; of a copy every stat, and the content of what is not as the last look left it.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifactmount.cache.stats import StatCache
from artifactmount.changes import Changes
from artifactmount.checkout import Checkout, CheckoutBasis
from artifactmount.content import ContentReader
from artifactmount.difference import Difference, between
from artifactmount.errors import NotFoundError
from artifactmount.manifest import MISSING, Table
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project
from artifactmount.proposal import changed_by
from artifactmount.rows import Kind
from artifactmount.snapshot import scan_staged
from artifactmount.staging import Listing, Staging
from artifactmount.state import State
from artifactmount.steps import drive


@dataclass(frozen=True, slots=True)
class Status:
    """What was changed. `latest`: the number of the artifact's latest version now; `ignored`: how many entries were left out."""

    checkout: Checkout
    changes: tuple[Difference, ...]
    latest: int | None
    ignored: int

    @property
    def behind(self) -> bool:
        """Whether somebody made another version the latest since."""
        return self.latest != self.checkout.latest


def status(project: Project, checkout: Checkout, progress: Progress | None = None) -> Status:
    """What was changed in a checkout since its base.

    Raises RefusedError where it is not mounted, or the version that it lies over is gone; NotFoundError where its base is; StagingError.
    """
    with checkout.staged() as staging:

        def look(state: State) -> Status:
            CheckoutBasis(checkout, force=True).lower(state)
            if not checkout.base.alive(state):
                raise NotFoundError(
                    f"{checkout.named(checkout.base)}, the base of {checkout.path}, was deleted: there is nothing to tell changes against; "
                    f"`artifactmount snapshot --force {checkout.path}` makes a version of what is there"
                )
            base = project.catalog(checkout.artifact).table(state, checkout.base.number)
            tree = tree_of(project, checkout, staging, state, progress or Silent())
            return Status(checkout, tuple(between(base, tree)), state.latest, staging.ignored)

        return project.reading(checkout.artifact, look)


def tree_of(project: Project, checkout: Checkout, staging: Staging, state: State, progress: Progress) -> Table:
    """What a snapshot of it would be, as a table; nothing is stored."""
    artifact, catalog = project.artifact(checkout.artifact), project.catalog(checkout.artifact)
    reader = ContentReader(staging, lambda _: True, chunking=artifact.cipher.chunking)
    key, clock = artifact.cipher.chunking.own(staging.key), staging.clock()
    basis = CheckoutBasis(checkout, force=True)
    with StatCache(project.cache.path) as stats:

        def remembered(directory: bytes) -> bytes | None:
            return stats.get(key, directory)

        try:
            found = scan_staged(catalog, staging, state, basis, remembered)
            progress.begin("reading", found.bytes, found.files)
            builder = drive(project.store, Changes(staging, reader, None, progress).from_scan(found))
            progress.end()
        finally:
            reader.close()
        stats.put_many(key, ((listing.key, listing.encode(clock)) for listing in found.listings))
    return changed_by(found.base, builder)


def trust(project: Project, checkout: Checkout) -> None:
    """Remember the stats of a copy that was made just now, so that the next look reads only what changed: each file was verified then."""
    artifact = project.artifact(checkout.artifact)
    table = project.catalog(checkout.artifact).table(project.existing(checkout.artifact), checkout.base.number)

    def known(listing: Listing) -> Listing:
        for row, name in enumerate(listing.names):
            at = table.find(listing.key, name)
            if at != MISSING and table.kind(at) is Kind.FILE:
                facts = listing.modes[row], listing.size(row), listing.mtime(row)
                if facts == (table.mode(at), table.size(at), table.mtime(at)):
                    listing.learn(row, table.digest(at))
        return listing

    with StatCache(project.cache.path) as stats, Staging(checkout.path) as staging:
        clock = staging.clock()
        values = ((listing.key, known(listing).encode(clock)) for listing in staging.walk())
        stats.put_many(artifact.cipher.chunking.own(staging.key), values)
