"""A leaner wait for the kernel's next request than pyfuse3's own. Knows nothing of requests.

pyfuse3 looks up what it needs of trio in a module that can be replaced, as its own support of asyncio does. For each request it takes a
`trio.Lock` and waits in `wait_readable`: two passes of the scheduler and two system calls, though the next request of a busy mount mostly
comes while the answer to the last one is hardly out. So here it first looks whether that is there already.
"""

from __future__ import annotations

import select
import time
from types import SimpleNamespace

import pyfuse3
import trio

#: How long to look before going to sleep, where requests follow each other. Being woken up costs 40 to 60 µs on a virtual machine.
_LOOK_NS = 30_000
#: Who lets so much time pass between two requests is in no hurry: nothing is burnt for him.
_GAP_NS = 200_000
#: After so many requests without a pass of the scheduler all other tasks get their turn.
_TURN = 16


def make_lean() -> None:
    """Let pyfuse3 wait in this way. To be called before `pyfuse3.main`, once for each."""
    lowlevel = SimpleNamespace(
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
        wait_readable=Waiter().wait_readable,
    )
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        ClosedResourceError=trio.ClosedResourceError,
        Lock=Lock,
        from_thread=trio.from_thread,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
    )


class Lock:
    """As `trio.Lock`, used as a context manager; but who finds it free takes it at once."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._held:
            await self._waiting.park()  # until it is handed on, still held
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        if not self._waiting.unpark():
            self._held = False


class Waiter:
    """Waits for one descriptor."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._registered = False
        self._at_once = 0
        self._last = 0

    async def wait_readable(self, descriptor: int) -> None:
        """As `trio.lowlevel.wait_readable`."""
        if not self._registered:
            self._poll.register(descriptor, select.POLLIN)
            self._registered = True
        if self._at_once < _TURN and self._comes_soon():
            self._at_once += 1
        else:
            self._at_once = 0
            await trio.lowlevel.wait_readable(descriptor)
        self._last = time.monotonic_ns()

    def _comes_soon(self) -> bool:
        begin = time.monotonic_ns()
        end = begin + _LOOK_NS if begin - self._last < _GAP_NS else begin
        while not self._poll.poll(0):
            if time.monotonic_ns() >= end:
                return False
        return True
