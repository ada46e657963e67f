"""Hostile input: made-up bytes into every decoder, and an enemy's stores through everything that reads one.

    .venv/bin/python scripts/check_hostile.py [--inputs 200000] [--stores 2000] [--seed 1] [--seconds 3600] [--mounts-every 100]

Inputs are valid values of every format, changed and sealed again, so that what lies behind the checksums is reached; each is taken in as
the value it has, or refused with one of our errors, within a second. Stores are whole projects that are well formed and malicious, and
stores that lie, many of them encrypted with a key that the reader has; what references lead to is an enemy, too. Each goes through list,
show, du, log, diff, verify, download, and what a mount is asked; every fourth through the commands as typed; one of `--mounts-every`
through a real kernel. Memory is limited (RLIMIT_DATA) and told. A failure prints the seed that
brings it back: `--seed N --inputs 1 --stores 0` or `--inputs 0 --stores 1`. Exits with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifactmount.cache import Cache
from tests.fuse.mounts import Project, mounted
from tests.unit.enemy import forged
from tests.unit.gauntlet import Told, as_typed, key_file, through_the_library
from tests.unit.hostile import fold_any, hostile_input, take_in
from tests.unit.liars import LyingStore

_DATA = 3 << 30  # of which 8 MiB are each thread's stack
_INPUT_SECONDS = 1.0
_STORE_SECONDS = 300
_MOUNT_SECONDS = 60
_FOLDS_EVERY = 10
_TYPED_EVERY = 4
_LOOK = """
import os, sys
left = 500
for top, _, files in os.walk(os.fsencode(sys.argv[1])):
    for path in (os.path.join(top, name) for name in files):
        left -= 1
        try:
            os.lstat(path)
            os.readlink(path) if os.path.islink(path) else open(path, "rb").read(1 << 16)
        except (OSError, ValueError):
            pass
    if left < 0:
        break
"""


class Watchdog:
    """Ends the program, telling what it was at, when one thing takes too long: a hang is a finding."""

    def __init__(self) -> None:
        self._what, self._until = "", float("inf")
        threading.Thread(target=self._watch, daemon=True).start()

    def at(self, what: str, seconds: float) -> None:
        """The next thing."""
        self._what, self._until = what, time.monotonic() + seconds

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() > self._until:
                print(f"FAILED: {self._what} has not ended", file=sys.stderr, flush=True)
                faulthandler.dump_traceback()
                os._exit(1)


class Campaign:
    """The run."""

    def __init__(self, seed: int, seconds: float, folder: Path, mounts_every: int) -> None:
        self.seed, self.until, self.folder, self.mounts_every = seed, time.monotonic() + seconds, folder, mounts_every
        self.failures: list[str] = []
        self.watchdog = Watchdog()

    def failed(self, what: str) -> None:
        """Note the error that is being handled."""
        self.failures.append(what)
        print(f"FAILED: {what}", file=sys.stderr)
        if len(self.failures) <= 5:
            traceback.print_exc()

    def inputs(self, count: int) -> None:
        """Made-up bytes into the decoders; every tenth time made-up acts into the fold, too."""
        begin, kinds, slowest, acts = time.monotonic(), Counter[str](), 0.0, 0
        for seed in range(self.seed, self.seed + count):
            if time.monotonic() > self.until:
                print(f"no time for more than {seed - self.seed} inputs")
                break
            self.watchdog.at(f"input {seed}", 30)
            try:
                name, data = hostile_input(seed)
                start = time.process_time()
                kinds[f"{name.split()[0]} {'taken' if take_in(name, data) else 'refused'}"] += 1
                slowest = max(slowest, time.process_time() - start)
                assert time.process_time() - start < _INPUT_SECONDS, "too slow"
                if seed % _FOLDS_EVERY == 0:
                    acts += fold_any(seed)
            except Exception:  # noqa: BLE001 - this is what we look for
                self.failed(f"input {seed}")
        told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        print(f"{sum(kinds.values())} inputs in {time.monotonic() - begin:.0f} s, the slowest {slowest * 1000:.0f} ms of CPU: {told}")
        print(f"{acts} made-up acts had an effect, and every state they made is one that a checkpoint may hold")

    def stores(self, count: int) -> None:
        """An enemy's stores through everything that reads."""
        begin, told, twists, done, kernels = time.monotonic(), Told(), Counter[str](), 0, 0
        cache = Cache(str(self.folder / "cache"), 64 << 20)  # one for all: what one store puts into it must not hurt the next
        for seed in range(self.seed, self.seed + count):
            if time.monotonic() > self.until:
                print(f"no time for more than {done} stores")
                break
            self.watchdog.at(f"store {seed}", _STORE_SECONDS)
            try:
                with tempfile.TemporaryDirectory(dir=self.folder) as place:
                    kernels += self._store(seed, Path(place), cache, told, twists)
            except Exception:  # noqa: BLE001 - this is what we look for
                self.failed(f"store {seed}")
            done += 1
        cache.close()
        print(f"{done} stores in {time.monotonic() - begin:.0f} s, {kernels} of them mounted by the kernel")
        print("made with: " + ", ".join(f"{number} {twist}" for twist, number in sorted(twists.items())))
        print("answered: " + ", ".join(f"{number} {what}" for what, number in sorted(told.answers.items())))
        print("refused: " + ", ".join(f"{number} {what}" for what, number in sorted(told.refusals.items())))
        print("slowest: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in sorted(told.slowest.items())))

    def _store(self, seed: int, place: Path, cache: Cache, told: Told, twists: Counter[str]) -> int:
        forge = forged(seed)
        twists.update(set(forge.twists) or {"nothing"})
        if seed % 3 == 0:
            lying = LyingStore(forge.store, seed)
            twists[f"lie: {lying.lie}"] += 1
            through_the_library(lying, cache, place, told, seed)
            return 0
        through_the_library(forge.store, cache, place, told, seed)
        if seed % _TYPED_EVERY:
            return 0
        project = place / "project"
        for item in forge.store.list_keys("", limit=10**6):
            path = project / item.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(forge.store.get(item.key))
        as_typed(project, self.folder, told)
        if seed % self.mounts_every:
            return 0
        self._mount(place, encrypted=forge.key is not None)
        return 1

    def _mount(self, place: Path, *, encrypted: bool) -> None:
        """A real mount, in a process of its own, looked at by another: whatever it answers, it lives, and is unmounted."""
        variables = {"ARTIFACTMOUNT_KEY_FILE": str(key_file(place))} if encrypted else {}
        with mounted(Project(place, environment=variables)) as mount:
            subprocess.run([sys.executable, "-c", _LOOK, str(mount.path)], check=True, timeout=_MOUNT_SECONDS)
            assert not mount.ended(0), "the daemon ended"
            assert "Traceback" not in mount.log, mount.log[-3000:]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--stores", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--mounts-every", type=int, default=100)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(prefix="check-hostile-", ignore_cleanup_errors=True) as folder:
        campaign = Campaign(options.seed, options.seconds, Path(folder), options.mounts_every)
        campaign.inputs(options.inputs)
        campaign.stores(options.stores)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory: {after >> 10} MiB at most, {before >> 10} MiB of them before it began; RLIMIT_DATA {_DATA >> 20} MiB")
    print(f"{len(campaign.failures)} failures, seeds from {options.seed}")
    return int(bool(campaign.failures))


if __name__ == "__main__":
    sys.exit(main())
