"""What each command asks of the store, as formulas: the tables of docs/scale.md say what these say, and the tests count the same.

Words: `entries` of an artifact's log; `behind`: entries that this machine has not seen; `packs` of content; `metadata`: packs of one
version's card and run; `versions` that are live. A process asks for `project.json` first, once.
"""

from __future__ import annotations

from itertools import pairwise

from artifactmount.artifact import _AHEAD
from artifactmount.filling import _BATCH_BYTES, _BATCH_FILES, _JOB_FILES
from artifactmount.log import CHECKPOINT_EVERY
from artifactmount.pack import PACK_LIMIT, TARGET, table_length
from artifactmount.proposal import _FULL_CHAIN
from tests.scale.counted import Requests

CHUNK = table_length(1) - table_length(0)
"""Bytes that a chunk takes in its pack's table of contents."""
ROW = 60
"""Bytes that a file takes in the stored list of a version, at most, where names are short: a digest does not get smaller."""
_PAGE = 1000

START = Requests(get=1)
"""A process begins: project.json."""
FIRST_WRITE = Requests(put=1)
"""The first write of a process: whether the store refuses to overwrite."""
ENTRY = Requests(put=1, list=1)
"""An entry outside of a session: one listing shows that the log has no hole."""
DELETES = Requests(get=1, delete=1)
"""A process that deletes asks whether the bucket keeps old versions, and whether it may delete."""
COLLISION = Requests(put=1, get=2)
"""A slot was taken: the refused attempt, the slot, and whether there are more."""


def pages(keys: int) -> int:
    """Requests that list or delete so many keys."""
    return -(-keys // _PAGE)


# -- how much there is -----------------------------------------------------------------------------------------------------------------
def _in_one(size: int) -> int:
    """Files of this stored size that a pack holds."""
    return 1 + (TARGET - table_length(0) - size) // (size + CHUNK)


def content_packs(files: int, size: int) -> int:
    """Packs of files of this stored size, of up to 1 MiB each."""
    return -(-files // _in_one(size))


def metadata_packs(stored: int) -> int:
    """Packs of a run of so many stored bytes: its pieces have up to 4 MiB."""
    return max(1, -(-stored // (PACK_LIMIT - (4 << 20))))


def chain(versions: int) -> int:
    """Runs that make the newest version, where no delta is heavy: those since the last whole manifest."""
    return min(versions, (versions - 1) % _FULL_CHAIN + 1)


def checkpoint(versions: int) -> int:
    """Bytes of the checkpoint of so many versions that each changed a little."""
    return 470 * versions


def checkpoints(versions: int) -> int:
    """Bytes of all checkpoints of an artifact: one each 32 versions, of all that there were."""
    return sum(checkpoint(n) for n in range(CHECKPOINT_EVERY // 2, versions, CHECKPOINT_EVERY // 2))


# -- the log -----------------------------------------------------------------------------------------------------------------------
def news(behind: int) -> int:
    """GETs of a process whose cache knows the artifact: its last entry again, and the news."""
    return 1 + look(behind)


def look(behind: int) -> int:
    """GETs of a process that looks again: the next entry, the next 2, 4, 8, and then 16 at a time, until one is missing."""
    asked, ahead = 0, 1
    while True:
        asked += ahead
        if behind < ahead:
            return asked
        behind, ahead = behind - ahead, min(2 * ahead, _AHEAD)


def from_nothing(entries: int) -> int:
    """GETs of a machine that knows nothing: the first 17 entries; or the newest checkpoint, by searching, and the entries after it."""
    if entries <= 1:
        return 1 if entries == 0 else 1 + _AHEAD
    if entries <= _AHEAD:
        return 1 + _AHEAD
    there = (entries - 1) // CHECKPOINT_EVERY  # the last k for which entry 64k is there
    asked, low = 1 + _AHEAD, 0
    while True:
        probes = [max(low, 1) << i for i in range(_AHEAD)]
        asked += _AHEAD
        low = max((k for k in probes if k <= there), default=0)
        if low < probes[-1]:
            high = next(k for k in probes if k > there)
            break
    while high - low > 1:
        probes = sorted({low + (high - low) * i // (_AHEAD + 1) for i in range(1, _AHEAD + 1)} - {low})
        asked += len(probes)
        low, high = max((k for k in probes if k <= there), default=low), min((k for k in probes if k > there), default=high)
    rest = entries - (low * CHECKPOINT_EVERY if low else 1 + _AHEAD)
    return asked + (2 if low else 0) + _AHEAD * (rest // _AHEAD + 1)


# -- snapshot ----------------------------------------------------------------------------------------------------------------------
def unchanged(behind: int = 0) -> Requests:
    """A snapshot of what was not changed: nothing is written."""
    return START + Requests(get=news(behind) + 1)


def snapshot(packs: int, metadata: int = 1, *, behind: int = 0, checkpoints: int = 0) -> Requests:
    """A snapshot that sends packs of content. `checkpoints`: how many of its two entries are a 64th one.

    It reads its own run back, to index its places (where more than 200,000 rows changed the next one does).
    """
    written = FIRST_WRITE + ENTRY + Requests(put=packs + metadata + 1 + checkpoints)
    return unchanged(behind) + written + Requests(get=metadata)


def first_snapshot(packs: int, metadata: int = 1) -> Requests:
    """The first snapshot of an artifact, in a project that is there."""
    return START + Requests(get=2) + FIRST_WRITE + ENTRY + Requests(put=packs + metadata + 1, get=metadata)


MAKING = Requests(put=1, list=1)
"""The project itself, where it is made by that: what is there, and project.json."""


def first_on_machine(entries: int, versions: int, metadata: int = 1) -> Requests:
    """What the first snapshot on another machine reads beside: where the chunks of every live version lie."""
    return Requests(get=from_nothing(entries) + versions * metadata)


# -- reading -----------------------------------------------------------------------------------------------------------------------
def open_version(entries: int, links: int, metadata: int = 1) -> Requests:
    """A version's list of files on a machine that knows nothing, by a chain of so many runs. All of `find` and `ls -l` is in it."""
    return START + Requests(get=from_nothing(entries) + links * metadata)


def read_through_mount(files_by_pack: list[int]) -> int:
    """GETs for files of up to 1 MiB, none of them cached: one chunk, and at the second miss the pack."""
    return sum(min(files, 2) for files in files_by_pack)


def stretches(files: int, size: int) -> int:
    """GETs for the content of such files in a download: one for each pack that a batch has to do with, and so many files of it."""
    batch = min(_BATCH_FILES, -(-_BATCH_BYTES // size))
    begins = sorted({*range(0, files, _in_one(size)), *range(0, files, batch), files})  # a new one begins with each pack, and each batch
    return sum(-(-(end - start) // _JOB_FILES) for start, end in pairwise(begins))


# -- deleting ----------------------------------------------------------------------------------------------------------------------
def delete(*, sessions: int, trash: int, rewritten: int = 0, new: int = 0, replaced: int = 0, metadata: int = 1) -> Requests:
    """Delete versions, every run being cached. `sessions` stored the packs that go, and `trash` of them; `rewritten` packs die in part, and
    come to `new` ones; `replaced` versions above get another run, which is read back."""
    asked = unchanged() + DELETES + FIRST_WRITE + Requests(delete=pages(trash), list=sessions) + ENTRY
    if not new and not replaced:
        return asked + ENTRY
    stored = Requests(put=new + replaced * metadata, get=rewritten + replaced * metadata)
    # Its session opens while it decides, so the first attempt always finds its own `open` in the slot.
    return asked + ENTRY + stored + COLLISION + Requests(put=1, list=1)


def collect(keys: int, garbage: int = 0) -> Requests:
    """`gc`: lists all that an artifact stores; what is garbage is deleted a page at a time."""
    return unchanged() + DELETES + Requests(head=1, list=keys // _PAGE + 1, delete=min(garbage, keys // _PAGE + 1))


# -- many at once ------------------------------------------------------------------------------------------------------------------
def contended(writers: int) -> Requests:
    """`writers` want to append one entry each at the same moment, and nobody is lucky: one of them wins each round. Entry 64k takes a
    checkpoint along, which all who want that slot send."""
    attempts = writers * (writers + 1) // 2
    lost = attempts - writers
    proving = sum(writers - slot for slot in range(CHECKPOINT_EVERY, writers, CHECKPOINT_EVERY))
    twice = sum(writers - slot - 1 for slot in range(CHECKPOINT_EVERY, writers, CHECKPOINT_EVERY))
    return Requests(put=attempts + proving, get=2 * lost + twice, list=writers)


def snapshots_at_once(writers: int) -> Requests:
    """At most, after each has read the head.

    A slot is lost to each entry of another once, two of each: 1 PUT. It is read, and with 1 GET, or 2 for each entry that came meanwhile,
    whether there is more: so 4 GETs for each other writer, however the entries fall. The run of the version that he made is read, and
    one's own stored anew; what was stored in vain is deleted.
    """
    others = writers - 1
    each = FIRST_WRITE + ENTRY + Requests(put=3 + 3 * others, get=1 + 5 * others, delete=1 if others else 0)
    return each * writers


POLL = Requests(get=1)
"""A mount looks for news of an artifact: at most once a second, while somebody looks names up in it."""
