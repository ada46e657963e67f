"""What became of the parts of an id: read from the log, the newest entries first, as the state forgets an id that ended.

Must not know who asks: a `finish` that is asked again, or a part that comes when its id is a version already.
"""

from __future__ import annotations

from artifactmount.acts import PARTS_WORD, Commit, EndParts
from artifactmount.artifact import Artifact, checkpoint_before, read_entries
from artifactmount.log import CHECKPOINT_EVERY
from artifactmount.state import State
from artifactmount.steps import Steps

#: How many entries are asked what became of an id that the state does not know; so many at once.
LOOK_BACK, _BLOCK = 1024, 64


class Ending:
    """The newest end of one id's parts. Asked on one state and then a newer one, it reads only the entries between them."""

    def __init__(self, artifact: Artifact, id_: str) -> None:
        self._artifact, self._id = artifact, id_
        self._looked = -1  # the last entry that was asked
        self._found: EndParts | None = None

    def of(self, state: State) -> Steps[EndParts | None]:
        """How the parts of the id ended, as far as the last 1,024 entries tell; None where they do not."""
        if PARTS_WORD not in state.needs:  # no entry ever had to do with parts
            return None
        lowest = max(0, state.seq + 1 - LOOK_BACK, self._looked + 1)
        for stop in range(state.seq + 1, lowest, -_BLOCK):
            start = max(lowest, stop - _BLOCK)
            found = yield from read_entries(self._artifact, start, stop)
            for seq in range(stop - 1, start - 1, -1):
                end = self._end(seq, found[seq - start])
                if end is not None and (yield from self._took_effect(seq)):
                    self._looked, self._found = state.seq, end
                    return end
        self._looked = state.seq
        return self._found

    def _end(self, seq: int, stored: bytes | None) -> EndParts | None:
        act = None if stored is None else self._artifact.decode_entry(stored, seq).act
        ops = reversed(act.ops) if isinstance(act, Commit) else ()
        return next((op for op in ops if isinstance(op, EndParts) and op.id == self._id), None)

    def _took_effect(self, seq: int) -> Steps[bool]:
        """Whether an entry did what it says: one that the fold refuses stays in the log, too."""
        start, state = seq // CHECKPOINT_EVERY * CHECKPOINT_EVERY, self._artifact.empty()
        while start > 0:
            checkpoint = yield from checkpoint_before(self._artifact, start)
            if checkpoint is not None:
                state = checkpoint
                break
            start -= CHECKPOINT_EVERY
        refusal: str | None = None
        while state.seq < seq:
            block = yield from read_entries(self._artifact, state.seq + 1, min(state.seq + 1 + _BLOCK, seq + 1))
            for data in block:
                if data is None:
                    return False  # a hole, which `verify` names
                state, refusal = self._artifact.apply(state, data)
        return refusal is None
