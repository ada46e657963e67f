"""Every schedule of a few clients with a bounded number of preemptions and faults, one after the other, over the real code.

A preemption takes the turn from a client that could go on; whose turn it is when one ends, or waits, is free, and so is when a late request
arrives. Turns change at requests to the store only: what lies between is each client's own business. A small bound finds nearly every bug
that some schedule shows (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007). A generator cannot be copied, so each schedule is
played from the start; one that comes to where another was before (the same store, the same answers heard by each client, as much left of
the bounds) is not played on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from artifactmount.errors import NotFoundError, RefusedError, StoreError
from artifactmount.rows import Kind
from artifactmount.snapshot import Options
from artifactmount.steps import Create, Delete, Local, Pause, Spawn, Step
from artifactmount.store import Listed
from tests.model.repository import Client, Leaf, Repository, Tree, expected
from tests.model.schedules import inline
from tests.model.simulator import Fault, Plain, Process, SimulatedStore, World
from tests.model.test_repository import Folder, knobs
from tests.model.watch import Watch

_CHANGING = (Fault.NONE, Fault.LOST, Fault.DROPPED, Fault.LATE, Fault.CRASH_AFTER)
_READING = (Fault.NONE, Fault.DROPPED)  # a crash before it is one after the request before


class Known(Exception):  # noqa: N818 - it ends a schedule, and is nobody's error
    """Another schedule was here before."""


@dataclass(slots=True)
class Choices:
    """One way through all choices; `advance` goes on to the next, in depth-first order."""

    made: list[tuple[int, int]] = field(default_factory=list)  # of so many, the one taken
    _given: list[int] = field(default_factory=list)

    def below(self, n: int) -> int:
        """See Chance."""
        at = len(self.made)
        taken = self._given[at] if at < len(self._given) else 0
        self.made.append((n, taken))
        return taken

    @property
    def repeating(self) -> bool:
        """Whether all that was chosen so far was chosen before."""
        return len(self.made) < len(self._given)

    def advance(self) -> bool:
        """To the next way; False when there is none."""
        while self.made and self.made[-1][0] == self.made[-1][1] + 1:
            self.made.pop()
        if not self.made:
            return False
        self._given = [taken for _, taken in self.made]
        self._given[-1] += 1
        self.made = []
        return True


class BoundedWorld(World):
    """A world in which whoever has the turn keeps it, but for so many preemptions."""

    def __init__(self, store: SimulatedStore) -> None:
        super().__init__(store, Plain())
        self.choices = Choices()
        self.preemptions = 0
        self.seen: set[int] = set()
        self._heard: dict[str, int] = {}

    def run(self) -> None:
        """See World. Raises Known."""
        current: Process | None = None
        while True:
            ready = [process for process in self._processes if self._ready(process)]
            if not ready and not self._late:
                return
            options: list[Process | int] = [current] if current is not None and current in ready else []
            if not options or self.preemptions:
                options += [process for process in ready if process is not current]
            options += range(len(self._late))
            if len(options) > 1:
                self._be_new(current)
            taken = options[self.choices.below(len(options))]
            if isinstance(taken, int):
                self._do(*self._late.pop(taken))
                self.changed()
            else:
                self.preemptions -= taken is not current and current in ready
                current = taken
                self._go_on(taken)

    def _go_on(self, process: Process) -> None:
        """Up to and with the next request."""
        while tasks := self._ready(process):
            step = tasks[0].pending
            self._advance(process, tasks[0])
            if not isinstance(step, Local | Pause | Spawn):
                return

    def _be_new(self, current: Process | None) -> None:
        """Whether this place was come to before. The values of the store are hashed once each: they never change."""
        if self.choices.repeating:
            return
        stored = hash(frozenset((key, content) for key, (content, _) in self.store.values().items()))
        alive = tuple((process.name, self._heard.get(process.name)) for process in self._processes)
        here = hash((stored, alive, tuple(map(repr, self._late)), current and current.name, self.preemptions, self.faults))
        if here in self.seen:
            raise Known
        self.seen.add(here)

    def _answer(self, process: Process, step: Step) -> Any:
        try:
            answer = super()._answer(process, step)
        except StoreError as error:
            self._hear(process, step, repr(error))
            raise
        if not isinstance(step, Local):
            self._hear(process, step, answer)
        return answer

    def _hear(self, process: Process, step: Step, answer: Any) -> None:
        heard = answer  # of listings without the time, which would make every way a new one, and decides nothing here
        if isinstance(answer, list):
            heard = tuple(item.key if isinstance(item, Listed) else item for item in answer)
        self._heard[process.name] = hash((self._heard.get(process.name), type(step), heard))

    def _fault(self, process: Process, step: Step) -> Fault:
        if self.faults <= 0:
            return Fault.NONE
        faults = _CHANGING if isinstance(step, Create | Delete) else _READING
        fault = faults[self.choices.below(len(faults))]
        self.faults -= fault is not Fault.NONE
        return fault


# -- what is played --------------------------------------------------------------------------------------------------------------------
def _tree(letters: str) -> Tree:
    return {letter: Leaf(Kind.FILE, b"content of " + letter.encode()) for letter in letters}


def _snapshot(letters: str) -> Callable[[Client], Process]:
    return lambda client: client.snapshot(_tree(letters), Options())


def _delete(number: int) -> Callable[[Client], Process]:
    return lambda client: client.delete({number})


#: The versions there are, and what the clients do. What is deleted shares a pack with what lives on, and the snapshots count on it.
SCENES: dict[str, tuple[tuple[str, ...], tuple[Callable[[Client], Process], ...]]] = {
    "two snapshots": (("ab",), (_snapshot("bc"), _snapshot("bcd"))),
    "two snapshots and a delete": (("abc", "bc"), (_snapshot("ad"), _snapshot("be"), _delete(0))),
    "a snapshot, two deletes and a closer": (("abc", "bc", "c"), (_snapshot("abx"), _delete(0), _delete(1), Client.close_sessions)),
}


@dataclass(slots=True)
class Searched:
    """What a search came to: schedules played to their end, and cut short because another was there before; whether it was all."""

    played: int = 0
    cut: int = 0
    complete: bool = False
    seconds: float = 0


def search(scene: str, preemptions: int, faults: int, seconds: float = float("inf")) -> Searched:
    """Play every schedule of a scene within the bounds. Raises AssertionError, whose note has the choices and faults of that schedule."""
    found, choices, seen, start = Searched(), Choices(), set[int](), time.monotonic()
    with Folder() as folder, knobs(small_packs=False, look_always=False), inline():
        stage = _Stage(scene, folder)
        while True:
            world = BoundedWorld(stage.store.copy())
            world.choices, world.seen = choices, seen
            try:
                stage.play(world, preemptions, faults)
                found.played += 1
            except Known:
                found.cut += 1
            except BaseException as error:
                error.add_note(f"{scene}: choices {choices.made}: {'; '.join(world.happened)}")
                raise
            found.seconds = time.monotonic() - start
            if not choices.advance():
                found.complete = True
                return found
            if found.seconds > seconds:
                return found


class _Stage:
    """What is there before a scene, made once; and all ways that were seen for it to end."""

    def __init__(self, scene: str, folder: Folder) -> None:
        before, self._does = SCENES[scene]
        self._folder, self.store = folder, SimulatedStore()
        self._ends: set[int] = set()
        self._repo = Repository(World(self.store, Plain()), folder.another())
        author = self._repo.client()
        for letters in before:
            self._repo.world.finish(author.snapshot(_tree(letters), Options()))
        self._repo.close()

    def play(self, world: BoundedWorld, preemptions: int, faults: int) -> None:
        """Play one schedule, and check it."""
        repo = Repository(world, self._folder.another(), asked=dict(self._repo.asked), writers=self._repo.writers)
        world.deleting = repo.before_deleting
        try:
            with Watch(repo) as watch:
                for do in self._does:
                    do(repo.client())
                world.preemptions, world.faults = preemptions, faults
                world.after_step = world.changed = watch.look
                repo.faithful = not faults
                try:
                    world.run()
                except Known:
                    world.abandon()  # so that they let go of files
                    raise
                world.preemptions = world.faults = 0
                watch.look()
                watch.at_the_end()
            self._judge(repo, faulty=faults > 0)
        finally:
            repo.close()

    def _judge(self, repo: Repository, *, faulty: bool) -> None:
        for asked in repo.asked.values():
            assert expected(asked, closed=True, faulty=faulty), repr(asked.error)
        for removal in repo.removals:
            allowed = (NotFoundError, RefusedError, StoreError) if faulty else (NotFoundError, RefusedError)
            assert removal.error is None or isinstance(removal.error, allowed), repr(removal.error)
        repo.check_told()
        state = repo.history.read()
        versions = tuple((n, version.base, version.packs, version.metadata.packs) for n, version in state.versions.items())
        end = hash((versions, state.packs, tuple(state.moved.items()), state.trash, state.open, frozenset(repo.data_keys())))
        if end not in self._ends:  # all that is left to check depends on the places of packs alone, but for the log's own bytes
            self._ends.add(end)
            repo.check(cold=False)
            repo.check_quiet()
