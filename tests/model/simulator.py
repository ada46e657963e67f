"""Several clients' steps over one store, one step at a time in an order that the test chooses, with crashes and lost requests.

The same generators that `artifactmount.steps.drive` runs against a real store run here. Deterministic: whatever may happen in more than
one way is asked of a `Chance`, and no clock is waited for. Knows steps and stores only; what a run must not break is the test's business.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from hypothesis import strategies as st

from artifactmount.errors import ArtifactError, DeniedError, KeyMissingError, StoreError, StoreFullError, UnreachableError
from artifactmount.steps import Clock, Create, Delete, Get, GetMany, Join, ListKeys, Local, Pause, Spawn, Step, Steps, perform
from artifactmount.store import Listed
from artifactmount.store.memory import MemoryStore

_ENDLESS = 20_000  # steps of one run: more would be a livelock


class Chance(Protocol):
    """Whatever may happen in more than one way. 0 is the plain case: no fault, the first in line."""

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        ...


class Plain:
    """No faults; whoever is first in line goes on until it is done."""

    def below(self, n: int) -> int:
        """See Chance."""
        return 0


class Last:
    """No faults; the last in line goes first: a spawned step before the one that spawned it."""

    def below(self, n: int) -> int:
        """See Chance."""
        return n - 1


class Drawn:
    """From hypothesis, so that a failing schedule shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def below(self, n: int) -> int:
        """See Chance."""
        return self._draw(st.integers(0, n - 1)) if n > 1 else 0


class Fault(IntEnum):
    """What goes wrong with one request.

    A status of 409, 500 or 503, a reset, a body cut short: to who asked each is LOST, DROPPED or LATE, an error that does not say what
    became of the request. A 412 is the answer "exists"; after LOST or LATE it may be about one's own first attempt.
    """

    NONE = 0
    LOST = 1  # done, and the answer lost
    DROPPED = 2  # not done, and nobody can tell
    LATE = 3  # the answer lost, and done some time later
    REFUSED = 4  # not done, and surely so
    CRASH_BEFORE = 5
    CRASH_AFTER = 6
    OUTAGE = 7  # no connection, for this request and the next ones of this process
    SILENCE = 8  # the same, and nobody can tell which were done
    PARTIAL = 9  # some of the keys to delete are deleted
    STALE = 10  # a listing as it was a while ago
    SHUFFLED = 11  # a listing in another order
    JUMP = 12  # the store's clock jumps by years
    EXISTS = 13  # done, and the answer is that the key exists: an attempt before was done, and its answer lost
    DENIED = 14  # not done, and no use to try again
    FULL = 15  # not done: no room


#: What goes wrong with some kinds of requests only.
_ONLY: dict[Fault, tuple[type[Step], ...]] = {
    Fault.PARTIAL: (Delete,),
    Fault.STALE: (ListKeys,),
    Fault.SHUFFLED: (ListKeys,),
    Fault.JUMP: (Create, Clock),
    Fault.EXISTS: (Create,),
    Fault.DENIED: (Create, Delete),
    Fault.FULL: (Create,),
}
_YEARS = 365 * 86400.0
_REMEMBERED = 12  # changes that a listing may be behind


class SimulatedStore(MemoryStore):
    """A store in memory whose clock is set, and whose reads by Locals (of runs, of chunks) can be seen, and fail: see `reading`."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        super().__init__(now=lambda: self.time)
        self.reading: Callable[[str], None] = lambda _: None
        self.changes = 0  # keys created, and keys deleted

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store."""
        self.reading(key)
        return super().get(key, start, stop)

    def create(self, key: str, data: bytes) -> bool:
        """See Store."""
        created = super().create(key, data)
        self.changes += created
        return created

    def delete(self, keys: Sequence[str]) -> None:
        """See Store."""
        self.changes += len(keys)
        super().delete(keys)

    def copy(self) -> SimulatedStore:
        """Another store that holds the same."""
        other = SimulatedStore()
        other.time, other.changes = self.time, self.changes
        other._values, other._keys = dict(self._values), list(self._keys)
        return other


@dataclass(eq=False, slots=True)
class _Task:
    """One generator, at a step that is not done yet."""

    steps: Steps[Any]
    pending: Step | None = None  # None: over
    result: Any = None
    error: Exception | None = None


@dataclass(eq=False, slots=True)
class Process:
    """One operation of a client, from its start to its end or crash. `calls`: the requests it made to the store;
    `steps`: these and its local steps."""

    name: str
    main: _Task
    ended: Callable[[Process], None]
    children: list[_Task] = field(default_factory=list)  # spawned since the last Join
    running: list[_Task] = field(default_factory=list)  # spawned and not over, whoever waits for them
    crashed: bool = False
    calls: int = 0
    steps: int = 0
    outage: int = 0  # requests still to fail
    silent: bool = False
    alive: bool = True

    @property
    def result(self) -> Any:
        """What the operation returned."""
        return self.main.result

    @property
    def error(self) -> Exception | None:
        """What it raised."""
        return self.main.error


class World:
    """The store, the processes at work, and the requests that are still on their way.

    `faults`: how many may happen by chance. `planned`: the fault of the n-th call of a process, instead of chance. `after_step` is told of
    each step that is done (Spawn and Join apart), before its answer arrives; `changed`, that a late request arrived, or one whose process
    crashed. `deleting` is told the keys right before any are deleted, and the name of the process that asked for it. `local_faults`: reads
    by Locals may fail, too; they must not come from threads then.
    """

    def __init__(self, store: SimulatedStore, chance: Chance, faults: int = 0) -> None:
        self.store, self._chance, self.faults = store, chance, faults
        self._processes: list[Process] = []
        self._late: list[tuple[str, Step]] = []
        self._past: deque[list[Listed]] = deque(maxlen=_REMEMBERED)
        self.local_faults = False
        self.changed: Callable[[], None] = lambda: None
        self._graveyard: list[Process] = []  # kept, so that no generator of a killed process is closed and runs on
        self.planned: Callable[[str, int], Fault] | None = None
        self.after_step: Callable[[str, int], None] = lambda *_: None
        self.deleting: Callable[[tuple[str, ...], str], None] = lambda *_: None
        self.happened: list[str] = []
        self.counts: Counter[Fault] = Counter()
        self.steps = 0  # of all processes

    def start(self, name: str, steps: Steps[Any], ended: Callable[[Process], None] = lambda _: None) -> Process:
        """A process that runs these steps; `ended` is told when it is over, however."""
        process = Process(name, _Task(steps), ended)
        self._processes.append(process)
        self._resume(process, process.main, None, None)
        return process

    def run(self) -> None:
        """Until every process is over and every late request has arrived."""
        for _ in range(_ENDLESS):
            ready = [(process, task) for process in self._processes for task in self._ready(process)]
            if not ready and not self._late:
                return
            choice = self._chance.below(len(ready) + len(self._late))
            if choice < len(ready):
                self._advance(*ready[choice])
            else:
                self._do(*self._late.pop(choice - len(ready)))
                self.changed()
        raise AssertionError("the processes do not come to an end")

    def finish(self, process: Process, until: Callable[[Step], bool] = lambda _: False) -> Process:
        """Run only this process, to its end, or `until` its next step is so, and without faults, while the others stand still."""
        faults, planned, after = self.faults, self.planned, self.after_step
        self.faults, self.planned, self.after_step = 0, None, lambda *_: None
        try:
            while process.alive and not until((task := self._ready(process)[0]).pending or Join()):
                self._advance(process, task)
        finally:
            self.faults, self.planned, self.after_step = faults, planned, after
        return process

    def run_one(self, name: str, steps: Steps[Any]) -> Any:
        """Start and finish a process; returns what it returns, raises what it raises."""
        process = self.finish(self.start(name, steps))
        if process.error is not None:
            raise process.error
        return process.result

    def abandon(self) -> None:
        """Kill every process, and those that begin because one ended."""
        while self._processes:
            self._crash(self._processes[0])

    # -- processes -----------------------------------------------------------------------------------------------------------------
    def _ready(self, process: Process) -> list[_Task]:
        tasks = [process.main] if process.main.pending is not None else []
        if tasks and isinstance(process.main.pending, Join) and any(child.pending is not None for child in process.children):
            tasks = []
        return tasks + process.running

    def _advance(self, process: Process, task: _Task) -> None:
        step = task.pending
        assert step is not None
        if isinstance(step, Spawn):
            child = _Task(step.steps)
            process.children.append(child)
            process.running.append(child)
            self._resume(process, child, None, None)
            self._resume(process, task, None, None)
            return
        if isinstance(step, Join):
            children, process.children = process.children, []
            failed = next((child.error for child in children if child.error is not None), None)
            self._resume(process, task, [child.result for child in children], failed)
            return
        process.steps += 1
        self.steps += 1
        answer, error = None, None
        try:
            answer = self._answer(process, step)
        except (ArtifactError, OSError) as failure:
            error = failure
        if not process.crashed:
            self.after_step(process.name, process.steps)
            self._resume(process, task, answer, error)

    def _resume(self, process: Process, task: _Task, answer: Any, error: Exception | None) -> None:
        try:
            task.pending = task.steps.send(answer) if error is None else task.steps.throw(error)
        except StopIteration as end:
            task.pending, task.result = None, end.value
        except (ArtifactError, OSError) as failure:  # anything else is a bug, and ends the run
            task.pending, task.error = None, failure
        if task.pending is None:
            process.running = [other for other in process.running if other is not task]
        if process.alive and process.main.pending is None and not process.running:
            self._end(process)

    def _crash(self, process: Process) -> None:
        self.happened.append(f"{process.name} crashes at call {process.calls}")
        process.crashed = True
        self._graveyard.append(process)
        self._end(process)

    def _end(self, process: Process) -> None:
        process.alive = False
        self._processes.remove(process)
        process.ended(process)

    # -- requests ------------------------------------------------------------------------------------------------------------------
    def _answer(self, process: Process, step: Step) -> Any:
        if isinstance(step, Pause):
            return None
        if isinstance(step, Local):
            return self._locally(process, step)
        process.calls += 1
        self.store.time += 1
        fault = self._fault(process, step)
        if fault is not Fault.NONE:
            self.counts[fault] += 1
            self.happened.append(f"{process.name} call {process.calls}: {fault.name} {step!r:.100}")
        match fault:
            case Fault.CRASH_BEFORE:
                self._crash(process)
                return None
            case Fault.CRASH_AFTER:
                self._do(process.name, step)
                self.changed()
                self._crash(process)
                return None
            case Fault.LOST:
                self._do(process.name, step)
                raise StoreError("the answer was lost")
            case Fault.DROPPED:
                raise StoreError("the request was lost")
            case Fault.LATE:
                if isinstance(step, Create | Delete):
                    self._late.append((process.name, step))
                raise StoreError("the request takes its time")
            case Fault.REFUSED | Fault.OUTAGE | Fault.SILENCE:
                raise UnreachableError("no connection")
            case Fault.DENIED:
                raise DeniedError("denied")
            case Fault.FULL:
                raise StoreFullError("no room")
        return self._do_badly(process, step, fault) if fault in _ONLY else self._do(process.name, step)

    def _do_badly(self, process: Process, step: Step, fault: Fault) -> Any:
        if isinstance(step, Delete):
            self._do(process.name, Delete(step.keys[: self._chance.below(len(step.keys) + 1)]))
            raise StoreError("not all keys were deleted")
        if fault is Fault.JUMP:
            self.store.time += (self._chance.below(21) - 10) * _YEARS
            return self._do(process.name, step)
        if fault is Fault.EXISTS:
            self._do(process.name, step)
            return False
        assert isinstance(step, ListKeys)
        if fault is Fault.SHUFFLED or not self._past:
            return self._do(process.name, step)[::-1]
        then = self._past[self._chance.below(len(self._past))]
        return [item for item in then if item.key.startswith(step.prefix) and item.key > step.after][: step.limit]

    def _locally(self, process: Process, step: Local) -> Any:
        def reading(key: str) -> None:
            if self.local_faults and self.faults > 0 and self._chance.below(40) == 39:
                self.faults -= 1
                self.counts[Fault.DROPPED] += 1
                self.happened.append(f"{process.name} step {process.steps}: its reading of {key} is cut short")
                raise StoreError("the answer was cut short")

        self.store.reading = reading
        try:
            return step.call()
        finally:
            self.store.reading = lambda _: None

    def _fault(self, process: Process, step: Step) -> Fault:
        if self.planned is not None:
            fault = self.planned(process.name, process.calls)
            return fault if isinstance(step, _ONLY.get(fault, object)) else Fault.NONE
        if process.outage > 0:
            process.outage -= 1
            return Fault(self._chance.below(Fault.REFUSED + 1)) if process.silent else Fault.REFUSED
        if self.faults <= 0:
            return Fault.NONE
        kinds = [fault for fault in Fault if isinstance(step, _ONLY.get(fault, object))]
        index = self._chance.below(40) - 40 + len(kinds)
        if index <= 0:
            return Fault.NONE
        self.faults -= 1
        if kinds[index] in (Fault.OUTAGE, Fault.SILENCE):
            process.outage, process.silent = 4 + self._chance.below(28), kinds[index] is Fault.SILENCE
        return kinds[index]

    def _do(self, name: str, step: Step) -> Any:
        match step:
            case GetMany(keys, limit):
                return [self._get(key, limit) for key in keys]
            case Delete(keys):
                self.deleting(keys, name)
                self._remember()
                return self.store.delete(keys)
            case Create():
                self._remember()
                return perform(self.store, step)
            case Get() | ListKeys() | Clock():
                return perform(self.store, step)
        raise TypeError(f"not a request: {step!r}")

    def _remember(self) -> None:
        if self.faults > 0:
            self._past.append(self.store.list_keys("", limit=1 << 30))

    def _get(self, key: str, limit: int) -> bytes | None:
        try:
            return self.store.get(key, 0, limit)
        except KeyMissingError:
            return None
