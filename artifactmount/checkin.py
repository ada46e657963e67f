"""Making what is in a checkout the next version, which is its base from then on."""

from __future__ import annotations

import logging
from contextlib import suppress

from artifactmount.checkout import Checkout, CheckoutBasis, find, locked
from artifactmount.errors import NotFoundError, RefusedError
from artifactmount.progress import Progress, Silent
from artifactmount.project import Project, same_place
from artifactmount.proposal import Options, Result
from artifactmount.snapshot import check_apart, take_staged
from artifactmount.staging import Staging
from artifactmount.state import State
from artifactmount.status import tree_of

_log = logging.getLogger(__name__)


def check_in(project: Project, path: str, options: Options, progress: Progress | None = None, *, force: bool = False) -> Result:
    """Snapshot the checkout in exactly the folder `path`.

    Raises RefusedError where others made a version meanwhile (not with `force`: then theirs is undone), or another command is at work on
    it; what `snapshot.take` raises.
    """
    with locked(path):
        checkout = find(path, inside=False)  # as it is now that nobody else changes it
        if not same_place(project.url, checkout.project):
            raise RefusedError(f"{path} is a checkout of {checkout.project}, not of {project.url}")
        with checkout.staged() as staging:
            check_apart(staging.path, project)
            basis = CheckoutBasis(checkout, force=force)
            state = project.existing(checkout.artifact)
            basis.lower(state)  # where what it lies over is gone, nothing else that could be said is of use
            if basis.moved_on(state) and not force:
                checkout = _adopt(project, checkout, staging, state)
                basis = CheckoutBasis(checkout, force=False)
                basis.check(state)
            result = take_staged(project, staging, checkout.artifact, options, progress, basis)
        _remember(checkout, result.version, project.refresh(checkout.artifact))
    return result


def _adopt(project: Project, checkout: Checkout, staging: Staging, state: State) -> Checkout:
    """The version that came may be what is here: a snapshot that was cut off before it could write down that it was made."""
    with suppress(NotFoundError, RefusedError):
        latest = project.catalog(checkout.artifact).latest(state)
        if state.latest is not None and tree_of(project, checkout, staging, state, Silent()).root == latest.root:
            return checkout.became(state.latest, state)
    return checkout


def _remember(checkout: Checkout, number: int, state: State) -> None:
    """What is committed is committed, also where that cannot be written down (or somebody deleted it already): the next one finds out."""
    if number not in state.versions:
        return
    try:
        checkout.became(number, state)
    except OSError as error:
        _log.warning(
            "%s:v%d is made, but that cannot be written down in %s (%s); free some space and run it again",
            checkout.artifact,
            number,
            checkout.folder,
            error.strerror,
        )
