"""Processes beside this one, for many short pieces of work that each let go of the interpreter's lock.

Threads lose more than they win there: whoever wants the lock back waits up to 5 ms for a thread that computes (the "convoy effect",
bugs.python.org/issue7946): 100,000 files of 10 KB took 28 s of CPU to snapshot in two threads, and 12 s in two processes.

Not `multiprocessing`: what it starts imports the user's main script again, or is a fork of a process that has threads and open databases.
These are fresh interpreters that know one job at a time and hold nothing, so that they can be killed, and what they did not answer be done
here. Must not know what the work is.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from artifactmount.version import __version__
from artifactmount.worker import AHEAD, LENGTH, receive, slots_of

_log = logging.getLogger(__name__)

#: All jobs of a worker must fit into a socket's buffer, so that giving one never waits for a worker that waits to be listened to.
_JOB_LIMIT = 48 << 10
_BUFFER = 256 << 10
#: More would only wait for the process that gives out the work.
_MOST = 4
_START = "import sys; sys.path[:] = {}; from artifactmount.worker import work; work({!r}, {}, {}, {})"
#: What a worker has no use for: what opens a store or a key.
_SECRETS = ("ARTIFACTMOUNT_", "AWS_")


class WorkerLostError(Exception):
    """A worker ended, or would not start. What it was given must be done here."""


class Job:
    """Work that was given to a worker."""

    def __init__(self, worker: _Worker, slot: memoryview) -> None:
        self._worker, self.slot = worker, slot
        self.answer: Any = None
        self.done = False

    def wait(self) -> Any:
        """The answer. `slot` holds what was written beside it until `room` more jobs were given. Raises WorkerLostError."""
        while not self.done:
            self._worker.listen()
        return self.answer


class Workers:
    """Some processes. `slot` bytes of shared memory are there for each job. Jobs are answered in the order they were given."""

    def __init__(self, count: int, slot: int) -> None:
        """Raises WorkerLostError where none can be started."""
        self._workers: list[_Worker] = []
        self._given = 0
        try:
            for _ in range(count):
                self._workers.append(_Worker(slot))
        except OSError as error:
            self.close()
            raise WorkerLostError(str(error)) from error

    @staticmethod
    def start(slot: int) -> Workers | None:
        """As many as are of use here; None where none can be started."""
        if not sys.executable or getattr(sys, "frozen", False):
            return None  # an interpreter inside another program
        try:
            return Workers(min(len(os.sched_getaffinity(0)), _MOST), slot)
        except WorkerLostError:
            return None

    @property
    def room(self) -> int:
        """How many jobs may be given and not waited for."""
        return len(self._workers) * AHEAD

    def give(self, call: Callable[..., Any], *arguments: Any, content: Sequence[bytes] = ()) -> Job:
        """Have `call(slot, *arguments)` done, a function of a module. `content` is written to the slot, one part behind the other.

        Raises WorkerLostError, also for a job that is too large.
        """
        worker = self._workers[self._given % len(self._workers)]
        self._given += 1
        return worker.give(call, arguments, content)

    def close(self) -> None:
        """End them, whatever they are at."""
        while self._workers:
            self._workers.pop().close()


class _Worker:
    """One process, and the memory that is shared with it."""

    def __init__(self, slot: int) -> None:
        self._waiting: deque[Job] = deque()
        self._given = 0
        with ExitStack() as passed, ExitStack() as kept:
            descriptor = os.memfd_create("artifactmount", os.MFD_CLOEXEC)
            passed.callback(os.close, descriptor)
            os.ftruncate(descriptor, slot * AHEAD)
            here, there = socket.socketpair()
            kept.enter_context(here)
            passed.enter_context(there)
            here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            self._limit = min(_JOB_LIMIT, here.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // (2 * AHEAD))
            self._memory = mmap.mmap(descriptor, slot * AHEAD)
            self._process = _start(there.fileno(), descriptor, slot)
            kept.pop_all()
        self._socket, self._slots = here, slots_of(self._memory, slot)

    def give(self, call: Callable[..., Any], arguments: tuple[Any, ...], content: Sequence[bytes]) -> Job:
        job = Job(self, self._slots[self._given % AHEAD])
        message = pickle.dumps((call, arguments), pickle.HIGHEST_PROTOCOL)
        while len(self._waiting) == AHEAD:  # nobody wants the answer any more
            self.listen()
        if len(message) > self._limit or sum(map(len, content)) > len(job.slot):
            raise WorkerLostError(f"a job of {len(message)} bytes, and {sum(map(len, content))} beside")
        at = 0
        for part in content:
            job.slot[at : at + len(part)] = part
            at += len(part)
        try:
            self._socket.sendall(LENGTH.pack(len(message)) + message)
        except OSError as error:
            raise WorkerLostError(str(error)) from error
        self._given += 1
        self._waiting.append(job)
        return job

    def listen(self) -> None:
        """Take the next answer."""
        try:
            job = self._waiting[0]
            job.answer = pickle.loads(receive(self._socket.fileno()))  # noqa: S301 - our own child, over a socket without a name
        except (OSError, EOFError) as error:
            _log.info("a worker process ended (%s); what it had is done here", self._process.poll())
            raise WorkerLostError(str(error)) from error
        self._waiting.popleft()
        job.done = True

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
        with suppress(BufferError):  # an error's traceback may still hold a piece of it: then it goes with that
            for slot in self._slots:
                slot.release()
            self._memory.close()


def _start(connection: int, memory: int, slot: int) -> subprocess.Popen[bytes]:
    """An interpreter that imports from where this one does, but for what depends on the folder that somebody is in just now.

    A module that lies among a user's data must not run. In a process group of its own, ^C is not for it; it ends when the socket is closed,
    also by our death.
    """
    paths = [str(path) for path in sys.path if os.path.isabs(path)]
    return subprocess.Popen(
        (sys.executable, "-P", "-c", _START.format(paths, __version__, connection, memory, slot)),
        env={name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(connection, memory),
        process_group=0,
    )
