"""A store that dies for good, under a mount and under commands: how long until each says so, and until the mount goes on by itself.

    .venv/bin/python scripts/check_outage.py [--how refused|silent] [DIR]

The store is moto's, behind a proxy that refuses connections ("refused"), or takes them and never answers ("silent", three minutes). What is
measured is compared with what artifactmount/docs/mount.md promises; exit code 1 when a bound is broken, a byte is wrong, or something that
is cached cannot be read. Everything is made in DIR (default: a temporary folder) and removed.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuse.mounts import Mount, Project, mounted, write
from tests.store.faults import Fault, Proxy, Rule, proxy
from tests.store.servers import Server, s3_server

#: What docs/mount.md promises, in seconds: until EIO, and until reads succeed again once the store is back.
BOUNDS = {"refused": (10.0, 1.0), "silent": (150.0, 35.0)}
_KNOWN = 1.0  # seconds, for what needs no store
_NUMBERS = random.Random(1)
FILES = {"cached": _NUMBERS.randbytes(3_000_000), "lost": _NUMBERS.randbytes(9_000_000), "later": _NUMBERS.randbytes(9_000_000)}


class Outage:
    """The store, the network before it, and what was found wrong."""

    def __init__(self, server: Server, how: str, root: Path) -> None:
        self.server, self.how = server, how
        self.wrong: list[str] = []
        self._stack, self._port = ExitStack(), 0
        self._hole = Rule(Fault.BLACK_HOLE)
        self._network = self._connect()
        self._port = int(self._network.endpoint.rpartition(":")[2])
        self.writer = Project(root / "writer", f"s3://{server.make_bucket()}/p", server.environment())
        self.reader = Project(root / "reader", self.writer.url, server.environment(self._network.endpoint))

    def _connect(self) -> Proxy:
        return self._stack.enter_context(proxy(self.server.endpoint, port=self._port))

    def begin(self) -> None:
        """The store is gone."""
        if self.how == "refused":
            self._stack.close()
        else:
            self._hole = self._network.add(Rule(Fault.BLACK_HOLE))

    def end(self) -> None:
        """The store is back."""
        if self.how == "refused":
            self._network = self._connect()
        else:
            # Not `heal`, which would end what waits: a store that comes back does not answer what it was asked before.
            self._hole.times = 0

    def reset_after(self, requests: int) -> None:
        """The store is gone for who has asked so often."""
        self._network.add(Rule(Fault.RESET, skip=requests))

    def heal(self) -> None:
        """No more of that."""
        self._network.heal()

    def close(self) -> None:
        """Stop the network."""
        self._network.heal()
        self._stack.close()

    def measure(self, what: str, bound: float, work: Callable[[], object], expected: object) -> None:
        """Do it; say how long it took, and whether it did what is expected, within the bound."""
        begin = time.monotonic()
        try:
            found = work()
        except OSError as error:
            found = errno.errorcode[error.errno or 0]
        took = time.monotonic() - begin
        good = found == expected and took <= bound
        shown = found if isinstance(found, str | int) else ("as it should" if found == expected else "WRONG BYTES")
        print(f"{self.how}: {what}: {shown} after {took:.2f} s (at most {bound:g}){'' if good else '  NOT OK'}", flush=True)
        if not good:
            self.wrong.append(what)


def check_mount(outage: Outage, mount: Mount) -> None:
    """What programs see."""
    dead, back = BOUNDS[outage.how]
    top = mount / "few/v0"
    for name in ("cached", "lost", "later"):
        os.stat(top / name)
    outage.begin()
    for _ in range(2):
        outage.measure("a file that is cached", _KNOWN, (top / "cached").read_bytes, FILES["cached"])
        outage.measure("a listing", _KNOWN, lambda: sorted(os.listdir(top)), sorted(FILES))
    outage.measure("a link that is known", _KNOWN, lambda: os.readlink(mount / "few/latest"), "v0")
    outage.measure("a name that nobody knows", 5, (mount / "few/v7").stat, "EIO")
    outage.measure("a file that is not cached", dead, (top / "lost").read_bytes, "EIO")
    outage.measure("a file that is cached, still", _KNOWN, (mount / "few/latest/cached").read_bytes, FILES["cached"])
    outage.end()
    outage.measure("the store is back, a file", back, (top / "later").read_bytes, FILES["later"])
    outage.measure("the store is back, the other", back, lambda: patiently(back, (top / "lost").read_bytes), FILES["lost"])
    outage.measure("the store is back, a name that is not there", back, lambda: patiently(back, (mount / "few/v7").stat), "ENOENT")


def patiently(seconds: float, work: Callable[[], object]) -> object:
    """Do it until it gives something else than EIO, for so long at most."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except OSError as error:
            if error.errno != errno.EIO or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def check_commands(outage: Outage, root: Path) -> None:
    """What commands say of a store that is gone before they begin."""
    outage.begin()
    for arguments in (("ls",), ("snapshot", str(root / "staging"), "few"), ("delete", "few:v0", "--yes")):

        def run(arguments: tuple[str, ...] = arguments) -> int:
            with outage.reader.start(*arguments) as process:
                process.communicate()
            return process.returncode

        outage.measure(arguments[0], BOUNDS[outage.how][0] + 5, run, 5)
    outage.end()


def check_in_the_middle(outage: Outage, root: Path) -> None:
    """What commands say when every connection is reset from some request on; and that they can be run again."""
    numbers = random.Random(2)
    for requests in (6, 10, 14, 18):
        write(root / "staging", {"cached": numbers.randbytes(3_000_000)})
        for arguments in (("snapshot", str(root / "staging"), "few"), ("delete", "few:v0..v99", "--yes")):
            outage.reset_after(requests)
            begin = time.monotonic()
            with outage.reader.start(*arguments) as process:
                _, said = process.communicate()
            took = time.monotonic() - begin
            print(f"reset from request {requests} on: {arguments[0]}: {process.returncode} after {took:.1f} s: {said.strip()}", flush=True)
            if process.returncode not in (0, 5, 75) or said.count("\n") > 1:
                outage.wrong.append(arguments[0])
            outage.heal()
            outage.writer.do("verify")
            outage.reader.do(*arguments)


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--how", choices=tuple(BOUNDS), action="append")
    parser.add_argument("directory", nargs="?", metavar="DIR")
    options = parser.parse_args()
    wrong: list[str] = []
    for how in options.how or BOUNDS:
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="artifactmount-outage-") as folder, s3_server() as server:
            outage = Outage(server, how, Path(folder))
            try:
                outage.writer.do("init")
                outage.writer.snapshot(write(Path(folder) / "staging", FILES), "few")
                with mounted(outage.reader) as mount:
                    (mount / "few/v0/cached").read_bytes()
                with mounted(outage.reader) as mount:  # of which the kernel remembers nothing
                    check_mount(outage, mount)
                check_commands(outage, Path(folder))
                if how == "refused":  # the other takes a quarter of an hour for each
                    check_in_the_middle(outage, Path(folder))
            finally:
                outage.close()
            wrong += outage.wrong
    print("NOT OK" if wrong else "ok")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
