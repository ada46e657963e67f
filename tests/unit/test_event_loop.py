"""The wait for the kernel's next request: nothing is lost, nobody is forgotten, and what is there already is not waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
import trio.testing

from artifactmount.event_loop import Lock, Waiter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


class Passes:
    """Counts the passes of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


def test_what_is_there_already_is_not_waited_for(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter, lock, passes = Waiter(), Lock(), Passes()
        os.write(pipe[1], b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passes.run)
            async with lock:
                await waiter.wait_readable(pipe[0])
            assert passes.count == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_others_get_their_turn_however_much_there_is(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter, lock, passes = Waiter(), Lock(), Passes()
        os.write(pipe[1], b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passes.run)
            for _ in range(340):
                async with lock:
                    await waiter.wait_readable(pipe[0])
            assert passes.count >= 15  # 340 / 17, less those that did not fall between two waits
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_what_comes_later_is_waited_for(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter, order = Waiter(), list[str]()

        async def wait() -> None:
            await waiter.wait_readable(pipe[0])
            order.append("read")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            order.append("write")
            os.write(pipe[1], b"x")
        assert order == ["write", "read"]

    trio.run(main)


def test_a_descriptor_that_ends_is_readable(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter()
        os.close(pipe[1])
        await waiter.wait_readable(pipe[0])

    trio.run(main)


def test_one_at_a_time_and_in_turn() -> None:
    async def main() -> None:
        lock, inside, order = Lock(), 0, list[int]()

        async def work(number: int) -> None:
            nonlocal inside
            for _ in range(3):
                async with lock:
                    inside += 1
                    assert inside == 1
                    await trio.lowlevel.checkpoint()
                    inside -= 1
                    order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(work, number)
        assert sorted(order) == sorted([0, 1, 2, 3] * 3) and set(order[:4]) == {0, 1, 2, 3}

    trio.run(main)


def test_who_gives_up_waiting_does_not_take_it_along() -> None:
    async def main() -> None:
        lock, got = Lock(), list[str]()

        async def take(name: str, scope: trio.CancelScope) -> None:
            with scope:
                async with lock:
                    got.append(name)

        async with trio.open_nursery() as nursery:
            given_up = trio.CancelScope()
            async with lock:
                nursery.start_soon(take, "given up", given_up)
                nursery.start_soon(take, "patient", trio.CancelScope())
                await trio.testing.wait_all_tasks_blocked()
                given_up.cancel()
                await trio.testing.wait_all_tasks_blocked()
        assert got == ["patient"]
        async with lock:
            pass

    trio.run(main)
