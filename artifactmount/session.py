"""One writer's uploads between its `open` and its `commit`: opened at the first upload, watched, and cleaned up by whom it belongs to.

Knows the log of its artifact. Must not know what is uploaded.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Protocol, TypeVar

from artifactmount.acts import Act, Close, Open
from artifactmount.artifact import Artifact, Writer, append, finish_trash, head, session_keys
from artifactmount.errors import ArtifactError, KeyMissingError, OutcomeUnknownError, RefusedError, StoreFullError
from artifactmount.journal import Journal
from artifactmount.ranges import PackId
from artifactmount.state import State
from artifactmount.steps import Delete, Join, Steps

T_co = TypeVar("T_co", covariant=True)

#: How often a writer that uploads looks whether its session was closed (by somebody who took it for dead), in seconds.
_LOOK_EVERY = 30
#: How often work begins anew because its session was closed, before it gives up.
_TRIES = 3


class SessionClosedError(Exception):
    """Somebody closed the session: what it uploaded is garbage, and the work begins anew from `state`."""

    def __init__(self, state: State) -> None:
        super().__init__("the session was closed")
        self.state = state


class Session:
    """The session of one command. `state` is the newest that the command knows; `id` is None until something is uploaded.

    `journal`: where what is stored is written down, for a command that goes on with the session of an interrupted one.
    """

    def __init__(self, artifact: Artifact, writer: Writer, state: State, journal: Journal | None = None) -> None:
        self._artifact, self._writer = artifact, writer
        self.state = state
        self.journal = journal or Journal.nowhere()
        self.id: int | None = None
        self._resumed = False
        self._looked = time.monotonic()

    def open(self) -> Steps[int]:
        """The session's id, opening it at the first upload; from time to time a look whether it is still open.

        Raises SessionClosedError.
        """
        if self.id is None:
            salt = self._writer.nonce()

            def begin(_: State) -> Steps[Act | None]:
                yield from ()
                return Open(salt)

            self.state = (yield from append(self._artifact, self.state, begin, self._writer)).state
            self.id = self.state.seq
            self.journal.begin(self.id)
        elif time.monotonic() - self._looked > _LOOK_EVERY:
            self._looked = time.monotonic()
            self.check((yield from head(self._artifact, self.state)))
        return self.id

    def resume(self, state: State) -> bool:
        """Go on with the journal's session, if it is still open in `state`."""
        self.state = state
        if not state.is_working(self.journal.session):
            self.journal.forget()
            return False
        self.id, self._resumed = self.journal.session, True
        return True

    def check(self, state: State) -> None:
        """Take over a newer state. Raises SessionClosedError when the session is not open in it, or a part has it."""
        self.state = state
        if self.id is not None and not state.is_working(self.id):
            raise SessionClosedError(state)

    def delete_leftovers(self, used: Iterable[PackId], kept: Collection[PackId]) -> Steps[None]:
        """What this session uploaded and its own entry did not keep is garbage once that entry stands: it is deleted here."""
        self.journal.forget()
        if self._resumed and self.id is not None and self.id not in self.state.open:
            with suppress(ArtifactError):  # the interrupted command may have sent more than the journal says
                yield from delete_garbage(self._artifact, self.state, self.id)
            return
        leftovers = tuple(self._artifact.pack_key(pack) for pack in used if pack not in kept)
        if leftovers and self.id is not None and self.id not in self.state.open:
            with suppress(ArtifactError):  # a leak that gc sweeps; the commit stands
                yield Delete(leftovers)

    def give_up(self) -> Steps[None]:
        """Close the session of a command that failed, and delete what it uploaded."""
        if self.id is None:
            return
        session = self.id

        def close(state: State) -> Steps[Act | None]:
            yield from ()
            return Close(session) if state.is_working(session) else None

        try:
            with suppress(ArtifactError):
                yield Join()  # an upload under way would land after its session was swept
            try:
                state = (yield from append(self._artifact, self.state, close, self._writer)).state
            except StoreFullError:
                if self._resumed:
                    raise
                yield from self._make_room(session)
                state = (yield from append(self._artifact, self.state, close, self._writer)).state
            self.journal.forget()
            yield from delete_garbage(self._artifact, state, session)
        except ArtifactError:
            pass  # the error that led here is the one to show; gc closes and sweeps what is left

    def _make_room(self, session: int) -> Steps[None]:
        """On a full disk not even the entry that closes the session has room, until its uploads are gone.

        Only a commit of this session could name them, and this is the exception to R3 of docs/protocol.md. Its own was not sent, or had no
        effect, where the session is still open in the head; and there is no later one: the journal goes first, durably, so that nobody
        goes on with what is deleted here. Not where the session was resumed: the interrupted command may have sent a commit that is late.
        """
        self.state = yield from head(self._artifact, self.state)
        keys = yield from session_keys(self._artifact, session)
        if keys and self.state.is_working(session) and self.journal.forget(durably=True):
            yield Delete(tuple(sorted(keys)))


def delete_garbage(artifact: Artifact, state: State, session: int) -> Steps[None]:
    """Delete everything of an ended session that is garbage in `state`. What a commit of it kept is live, and stays."""
    keys = yield from session_keys(artifact, session)
    yield Delete(tuple(key for key in sorted(keys) if (pack := artifact.pack_of(key)) is None or state.is_garbage(pack)))


class Work(Protocol[T_co]):
    """What uploads in a session and commits it. `session` is the one of the attempt under way."""

    session: Session

    def attempt(self, state: State) -> Steps[T_co]:
        """All of it, from a state to its commit."""
        ...

    def begin_anew(self, state: State) -> None:
        """Forget what was uploaded: the session was closed."""
        ...


def complete(artifact: Artifact, writer: Writer, state: State, work: Work[T_co]) -> Steps[T_co]:
    """Attempt the work until its session lives to see the commit, finishing first what others left to be deleted.

    What it uploaded is cleaned up when it fails; not when the commit's outcome is unknown, nor when it is interrupted: the commit may have
    taken effect, or the same work may be run again and go on with the session. Raises what the work raises; RefusedError when its session
    was closed several times.
    """
    closed_before = 0
    try:
        while True:
            try:
                state = yield from finish_trash(artifact, state, writer)
                return (yield from work.attempt(state))
            except SessionClosedError as closed:
                state, closed_before = closed.state, closed_before + 1
                if closed_before == _TRIES:
                    raise RefusedError(
                        f"{artifact.name}: the session was closed {_TRIES} times while it uploaded; is `gc --grace` too short?"
                    ) from closed
                with suppress(ArtifactError):
                    yield Join()  # its uploads under way must not come with the next session's
                with suppress(ArtifactError):  # else gc's
                    if work.session.id is not None:
                        yield from delete_garbage(artifact, state, work.session.id)
                work.begin_anew(state)
            except KeyMissingError as missing:  # a run that a newer state replaced
                newer = yield from head(artifact, state)
                if newer.seq == state.seq:
                    raise artifact.lost(state, missing) from missing
                state = newer
    except (OutcomeUnknownError, KeyboardInterrupt):
        raise
    except (ArtifactError, OSError):
        yield from work.session.give_up()
        raise
