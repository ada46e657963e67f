"""The life of a worker process: do what is asked until nobody is there any more. See `workers` for who asks.

Imports as little as it can: most workers are started to list folders, and end within a second. (Without logging, sockets, hashes and
compression, which come with the first job that needs them, one starts with 20 ms of CPU instead of 43.)
"""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import struct

from artifactmount.version import __version__

LENGTH = struct.Struct("<I")
#: Jobs of one worker that were not answered yet: the one at work, one that waits, and one whose answer is being used.
AHEAD = 3


def work(version: str, connection: int, memory: int, slot: int) -> None:
    """Answer what comes over the descriptor of a socket; nothing for a process that began before the program was updated."""
    if version != __version__:
        return
    gc.disable()  # what is made here goes when it is answered, without cycles
    with mmap.mmap(memory, slot * AHEAD) as shared:
        os.close(memory)
        slots, given = slots_of(shared, slot), 0
        try:
            while True:
                call, arguments = pickle.loads(receive(connection))  # noqa: S301 - our own parent
                answer = pickle.dumps(call(slots[given % AHEAD], *arguments), pickle.HIGHEST_PROTOCOL)
                given += 1
                _send(connection, LENGTH.pack(len(answer)) + answer)
        except (EOFError, ConnectionError):
            return
        finally:
            for each in slots:
                each.release()


def slots_of(memory: mmap.mmap, size: int) -> list[memoryview]:
    """The memory of each job."""
    view = memoryview(memory)
    return [view[at : at + size] for at in range(0, size * AHEAD, size)]


def receive(connection: int) -> bytearray:
    """One message. Raises EOFError at the end, OSError."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return _exactly(connection, length)


def _exactly(connection: int, length: int) -> bytearray:
    content = bytearray(length)
    view, at = memoryview(content), 0
    while at < length:
        got = os.readv(connection, [view[at:]])
        if not got:
            raise EOFError
        at += got
    return content


def _send(connection: int, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(connection, view) :]
