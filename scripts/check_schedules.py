"""Play schedules of several clients over the real protocol code: random ones, or every one within bounds.

    .venv/bin/python scripts/check_schedules.py random --schedules 100000 --seed 0
    .venv/bin/python scripts/check_schedules.py every --preemptions 2 --faults 1

Runs on a store in memory; nothing is waited for. What must hold is said in tests/model/repository.py. A failure names its seed:
`random --seed SEED --schedules 1` plays that one again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.model.exhaustive import SCENES, search
from tests.model.schedules import Played, play


def random_schedules(schedules: int, seed: int, seconds: float) -> int:
    """Play seeds from `seed` on; 1 when any of them broke a rule."""
    total, start, broken, count = Played(), time.monotonic(), [], 0
    while count < schedules and time.monotonic() - start < seconds:
        try:
            total.add(play(seed + count))
        except Exception as error:  # noqa: BLE001 - whatever it is, the schedule is the finding
            broken.append(seed + count)
            print(f"seed {seed + count}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}", flush=True)
        count += 1
        if count % 1000 == 0:
            print(f"{count} schedules, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    faults = ", ".join(f"{fault.name.lower()} {times}" for fault, times in sorted(total.faults.items()))
    print(f"{count} schedules from seed {seed} in {time.monotonic() - start:.0f} s: {total.steps} steps, {total.entries} entries, ", end="")
    print(f"{total.versions} versions, {total.looks} looks at all of it, {total.reads} reads of a version; ", end="")
    print(f"faults: {faults or 'none'}; broken: {broken or 'none'}")
    return int(bool(broken))


def every_schedule(scenes: Collection[str], preemptions: int, faults: int, seconds: float) -> int:
    """Play every schedule of each scene within the bounds; 1 when time ran out before all were played."""
    incomplete = 0
    for scene in scenes:
        found = search(scene, preemptions, faults, seconds)
        how = "all" if found.complete else "NOT all"
        print(f"{scene}, at most {preemptions} preemptions and {faults} faults: {how} schedules played, ", end="")
        print(f"{found.played} to their end, {found.cut} up to where another had been, {found.seconds:.0f} s; broken: none", flush=True)
        incomplete |= not found.complete
    return incomplete


def main() -> int:
    """See the text above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    random = commands.add_parser("random", help="random schedules with all kinds of faults")
    random.add_argument("--schedules", type=int, default=100_000)
    random.add_argument("--seed", type=int, default=0)
    every = commands.add_parser("every", help="every schedule of small scenes within bounds")
    every.add_argument("--preemptions", type=int, default=1)
    every.add_argument("--faults", type=int, default=0)
    every.add_argument("--scene", choices=SCENES, help="one of them (default: all)")
    for command in (random, every):
        command.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long (each scene)")
    arguments = parser.parse_args()
    if arguments.command == "random":
        return random_schedules(arguments.schedules, arguments.seed, arguments.seconds)
    return every_schedule(
        [arguments.scene] if arguments.scene else list(SCENES), arguments.preemptions, arguments.faults, arguments.seconds
    )


if __name__ == "__main__":
    sys.exit(main())
