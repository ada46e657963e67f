"""The wait for the kernel's next request: nothing is lost, nobody is forgotten, and what is there already is not waited for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.testing

from artifactmount import event_loop
from artifactmount.event_loop import Lock, Waiter, lean


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


class Clock:
    """The time in ns, which stands still unless somebody looks at it; then it goes on by `step`."""

    def __init__(self, step: int) -> None:
        self.now, self.step = 10**12, step

    def monotonic_ns(self) -> int:
        self.now += self.step
        return self.now


class Passes:
    """Counts the passes of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


def test_everything_that_pyfuse3_takes_of_trio_was_looked_at() -> None:
    # A name that is new here: does it wait for the kernel, or share the lock? Then it belongs in `lean`, too.
    folder = Path(pyfuse3.__file__).parent
    sources = [folder / name for name in ("__init__.pyx", "internal.pxi", "handlers.pxi")]
    if not all(path.exists() for path in sources):
        pytest.skip("this pyfuse3 came without its sources")
    code = (line.partition("#")[0] for path in sources for line in path.read_text().splitlines())
    names = {name for line in code for name in re.findall(r"(?<![\w.`/])trio\.([A-Za-z_]\w*(?:\.\w+)*)", line)}
    assert names - {"from_thread.run_sync", "run_sync_in_worker_thread"} == {  # those are in docstrings
        "ClosedResourceError",
        "Lock",
        "lowlevel.current_task",
        "lowlevel.current_trio_token",
        "lowlevel.notify_closing",
        "lowlevel.wait_readable",
        "open_nursery",
    }


def test_pyfuse3_finds_everything_and_afterwards_trio_itself() -> None:
    with suppress(ZeroDivisionError), lean():
        replaced = pyfuse3.trio  # type: ignore[attr-defined]
        assert replaced.Lock is Lock and isinstance(replaced.lowlevel.wait_readable.__self__, Waiter)
        assert replaced.open_nursery is trio.open_nursery
        assert replaced.lowlevel.current_task is trio.lowlevel.current_task
        raise ZeroDivisionError
    assert pyfuse3.trio is trio  # type: ignore[attr-defined]


def test_what_is_there_already_is_not_waited_for(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(event_loop, "time", Clock(1))
        waiter, lock, passes = Waiter(), Lock(), Passes()
        os.write(pipe[1], b"x")
        await waiter.wait_readable(pipe[0])  # the first time all others get their turn
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passes.run)
            for _ in range(100):
                async with lock:
                    await waiter.wait_readable(pipe[0])
            assert passes.count == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_others_get_their_turn_however_much_there_is(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(event_loop, "time", Clock(20_000))
        waiter, lock, passes = Waiter(), Lock(), Passes()
        os.write(pipe[1], b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passes.run)
            for _ in range(1000):  # 40 µs each
                async with lock:
                    await waiter.wait_readable(pipe[0])
            assert 30 <= passes.count <= 100
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_busy_wait_heeds_a_cancellation(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter()
        os.write(pipe[1], b"x")
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                await waiter.wait_readable(pipe[0])
        assert scope.cancelled_caught

    trio.run(main)


@pytest.mark.parametrize("processors", [1, 2])
def test_looked_is_only_after_a_short_wait_and_where_there_is_another_processor(
    processors: int, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        clock = Clock(1000)
        monkeypatch.setattr(event_loop, "time", clock)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors))
        waiter = Waiter()

        async def looked() -> int:
            """How long, in µs, until it slept; then something comes."""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiter.wait_readable, pipe[0])
                before = clock.now
                await trio.testing.wait_all_tasks_blocked()
                after = clock.now
                os.write(pipe[1], b"x")
            os.read(pipe[0], 1)
            return (after - before) // 1000

        await looked()
        assert await looked() == (2 if processors == 1 else 81)
        clock.step = 60_000  # a long wait
        await looked()
        clock.step = 1000
        assert await looked() == 2

    trio.run(main)


def test_a_descriptor_that_ends_is_readable(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter()
        os.close(pipe[1])
        for _ in range(2):
            await waiter.wait_readable(pipe[0])

    trio.run(main)


def test_who_does_not_wait_comes_first_and_who_waits_is_not_forgotten() -> None:
    async def main() -> None:
        lock, order = Lock(), list[str]()

        async def work(name: str) -> None:
            async with lock:
                order.append(name)

        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(work, "first")
                nursery.start_soon(work, "second")
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                async with lock:
                    order.append("at once")
        assert order[:3] == ["at once"] * 3 and sorted(order[3:]) == ["first", "second"]

    trio.run(main)


def test_one_at_a_time_in_any_order() -> None:
    async def main() -> None:
        lock, inside, done = Lock(), 0, 0

        async def work(pauses: int) -> None:
            nonlocal inside, done
            for _ in range(20):
                async with lock:
                    inside += 1
                    assert inside == 1
                    for _ in range(pauses):
                        await trio.lowlevel.checkpoint()
                    inside -= 1
                done += 1
                if pauses % 2:
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for pauses in range(6):
                nursery.start_soon(work, pauses)
        assert done == 120

    trio.run(main)


@pytest.mark.parametrize("woken", [False, True])
def test_who_gives_up_waiting_does_not_take_it_along(woken: bool) -> None:
    async def main() -> None:
        lock, got = Lock(), list[str]()

        async def take(name: str, scope: trio.CancelScope) -> None:
            with scope:
                async with lock:
                    await trio.lowlevel.checkpoint()
                    got.append(name)

        async with trio.open_nursery() as nursery:
            given_up = trio.CancelScope()
            async with lock:
                nursery.start_soon(take, "given up", given_up)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(take, "patient", trio.CancelScope())
                await trio.testing.wait_all_tasks_blocked()
                if not woken:
                    given_up.cancel()
                    await trio.testing.wait_all_tasks_blocked()
            if woken:  # it was told that the lock is free, which is taken again before it looks
                async with lock:
                    given_up.cancel()
                    await trio.testing.wait_all_tasks_blocked()
        assert got == ["patient"]
        async with lock:
            pass

    trio.run(main)
