"""What a command and a daemon take, contestants by turns, and the lines that are kept of them. Knows no peer and no table.

The machine's noise only ever adds, and comes in waves: so contestants alternate, and a line is kept of every round.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent.parent
OURS = "artifactmount"
_LONG = 120.0  # seconds of a turn: of a peer that takes so long one is enough to see that it does
_COUNT = re.compile(r'^artifactmount_(store_)?request_seconds_count\{operation="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)


class FailedError(Exception):
    """A contestant could not do what it should; the others go on."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds by the clock and of CPU (user and system, all processes); the largest process in MiB, where GNU time is there to tell it."""

    wall: float
    cpu: float
    memory: float | None

    @property
    def facts(self) -> dict[str, Any]:
        """As kept."""
        return {"cpu": round(self.cpu, 3), "memory": self.memory}


@dataclass(frozen=True, slots=True)
class Figure:
    """What a contestant took in one case of a row: in seconds, unless `unit` says otherwise."""

    case: str
    value: float | None
    unit: str = "s"
    facts: Mapping[str, Any] = field(default_factory=dict)


#: Told whether it is counted (then its times are worth nothing), it gives its figures.
Contestant = Callable[[bool], Iterable[Figure]]


def timed(command: str, environment: Mapping[str, str], folder: Path, limit: float) -> Timing:
    """Run a shell command, and all it starts, to its end. Raises FailedError when that is not good, or takes more than `limit` seconds."""
    with tempfile.TemporaryDirectory() as kept, Path(kept, "said").open("w+b") as said:
        # The peak that the kernel tells of a child begins with its parent's, so it is told by a small parent.
        told = Path(kept, "told")
        prefix = ["time", "--quiet", "--format=%M", f"--output={told}"] if shutil.which("time") else []
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*prefix, "sh", "-c", command],
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        late = threading.Timer(limit, _end_group, (process.pid, signal.SIGKILL))
        late.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _end_group(process.pid, signal.SIGTERM)
            raise
        finally:
            late.cancel()
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            why = f"more than {limit:.0f} s" if wall >= limit else said.read().decode(errors="replace").strip()[-600:]
            raise FailedError(f"{command.split(' -')[0][:80]}: exit code {process.returncode}: {why}")
        memory = round(int(told.read_text().split()[-1]) / 1024, 1) if prefix else None
        return Timing(wall, usage.ru_utime + usage.ru_stime, memory)


def _end_group(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, number)


# -- daemons -----------------------------------------------------------------------------------------------------------------------------
class Daemon:
    """A process that serves a mount or a bucket, and its children."""

    def __init__(self, process: int, page: str = "") -> None:
        """`page`: where it serves metrics, if it does."""
        self.process, self._page = process, page

    def cpu(self) -> float:
        """Seconds that it has taken so far, with its children."""
        total = 0.0
        for number in family(self.process):
            with suppress(OSError):
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return total

    def private(self) -> float:
        """MiB that would be free without it."""
        total = 0
        for number in family(self.process):
            with suppress(OSError):
                rolled = Path(f"/proc/{number}/smaps_rollup").read_text()
                total += sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rolled, re.MULTILINE)))
        return round(total / 1024, 1)

    def requests(self) -> dict[str, dict[str, int]]:
        """What it was asked so far, by the kernel, and what it asked the store; nothing where it serves no metrics."""
        if not self._page:
            return {}
        with urlopen(self._page, timeout=30) as answer:  # noqa: S310 - its own page on this machine
            return counts(answer.read().decode())

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """A list of one: the most private memory in MiB that it was seen with, looked at ten times a second."""
        most, ended = [self.private()], threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                most[0] = max(most[0], self.private())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield most
        finally:
            ended.set()
            thread.join()
            most[0] = max(most[0], self.private())


def family(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for number in found:
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found


def counts(page: str) -> dict[str, dict[str, int]]:
    """Requests by name, of a page of metrics: the kernel's, and those to the store."""
    found: dict[str, dict[str, int]] = {"requests": {}, "store": {}}
    for store, operation, number in _COUNT.findall(page):
        of = found["store" if store else "requests"]
        of[operation] = of.get(operation, 0) + int(float(number))
    return found


def since(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """What was asked between two looks at the counts."""
    return {
        what: {
            name: number - before.get(what, {}).get(name, 0) for name, number in of.items() if number > before.get(what, {}).get(name, 0)
        }
        for what, of in after.items()
    }


# -- results -----------------------------------------------------------------------------------------------------------------------------
class Results:
    """Lines of JSON, one for each figure of each round, appended to a file and shown."""

    def __init__(self, path: Path, small: bool, versions: Mapping[str, str]) -> None:
        self._path, self._small, self._versions = path, small, versions
        self._same = machine() | {"run": datetime.now(UTC).isoformat(timespec="milliseconds")}

    def add(self, row: str, who: str, number: int, figure: Figure, **more: Any) -> None:
        """Keep a figure of round `number`."""
        line = {
            "row": row,
            "case": figure.case,
            "who": who,
            "round": number,
            "value": figure.value,
            "unit": figure.unit,
            **figure.facts,
            **more,
        }
        line |= {"small": self._small, "version": self._versions.get(who, ""), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        with self._path.open("a") as file:
            file.write(json.dumps(line | self._same) + "\n")
        shown = "" if figure.value is None else f"{figure.value:.3f} {figure.unit}"
        said = "  ".join(f"{name} {value}" for name, value in {**figure.facts, **more}.items() if value not in (None, {}))
        print(f"row {row:3} {figure.case:32} {who:14} {shown:>14}  {said}", flush=True)

    def rounds(self, row: str, contestants: Mapping[str, Contestant], rounds: int) -> None:
        """Let them compete by turns, and count once what ours asks. Who fails is out of it, with a line that says so."""
        left = dict(contestants)
        for number in range(rounds):
            order = list(left)
            for who in order[number % len(order) :] + order[: number % len(order)] if order else []:
                self._turn(row, who, number, left)
        if OURS in left:
            self._turn(row, OURS, -1, left)

    def _turn(self, row: str, who: str, number: int, left: dict[str, Contestant]) -> None:
        counted, begin = number < 0, time.monotonic()
        try:
            for figure in left[who](counted):
                if not counted:
                    self.add(row, who, number, figure)
                elif any(figure.facts.get(what) for what in ("requests", "store")):
                    self.add(row, who, number, Figure(figure.case, None, figure.unit, figure.facts))
        except (FailedError, OSError, ValueError, subprocess.SubprocessError) as error:
            self.add(row, who, number, Figure("failed", None), error=str(error)[:400])
            if not counted:
                del left[who]
        else:
            if who != OURS and time.monotonic() - begin > _LONG:
                print(f"row {row}: {who} takes no more turns, as one is more than {_LONG:.0f} s", flush=True)
                del left[who]


def machine() -> dict[str, Any]:
    """What the figures of one machine and state of the code have in common."""
    name = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    asked = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu_model": name[1] if name else os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / (1 << 30)),
        "kernel": os.uname().release,
        "commit": asked.stdout.strip(),
    }
