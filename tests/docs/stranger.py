"""A person who follows a page: a new home and nothing in it, one shell for the whole page, and one Python beside it.

Whatever the page leaves mounted is taken away in the end, and its daemons with it.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Step, fits
from tests.fuse.mounts import is_mounted
from tests.store.servers import Server

_SECONDS = 60
_END = "\0end of a step "
_ERROR = re.compile(r"\S.*: ")  # whose or what, and what is the matter


class Stranger:
    """Somebody at a terminal, in a home of his own below `root`."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.folder = self.home / "work"
        self.folder.mkdir(parents=True)
        programs = root / "bin"
        programs.mkdir()
        for name, module in {"artifactmount": ["-m", "artifactmount"], "python": []}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(module)} "$@"\n')
            (programs / name).chmod(0o755)
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",  # as on a terminal, where lines of both streams come in their order
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "USER": "ann",
            "LOGNAME": "ann",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.names: dict[str, Any] = {}
        self.printed = ""

    def configure_aws(self, server: Server) -> None:
        """Credentials for a server in ~/.aws, for each profile that the pages name."""
        folder = self.home / ".aws"
        folder.mkdir()
        profiles = ["default", "profile me", "profile ann", "profile hospital"]
        keys = "aws_access_key_id = tester\naws_secret_access_key = made-up\nregion = us-east-1\n"
        (folder / "config").write_text("".join(f"[{name}]\nendpoint_url = {server.endpoint}\n{keys}" for name in profiles))

    def type(self, command: str) -> tuple[list[str], int]:
        """What a command line prints, both streams as they come on a terminal, and its exit code."""
        assert self.shell.stdin is not None
        # The shell goes on with the exit code that it had, so that `echo $?` says it.
        text = f"{{ {command}\n}} </dev/null; __code=$?; printf '\\0end of a step %d\\n' $__code; (exit $__code)\n"
        self.shell.stdin.write(text.encode())
        self.shell.stdin.flush()
        printed, _, code = self._read().rpartition(_END)
        return printed.splitlines(), int(code)

    def _read(self) -> str:
        """All until the end of a step."""
        assert self.shell.stdout is not None
        got, end = b"", _END.encode()
        while not (end in got and got.endswith(b"\n")):
            ready, _, _ = select.select([self.shell.stdout], [], [], _SECONDS)
            assert ready, f"nothing was printed for {_SECONDS} s after: {got.decode(errors='replace')}"
            more = os.read(self.shell.stdout.fileno(), 1 << 16)
            assert more, f"the shell ended: {got.decode(errors='replace')}"
            got += more
        return got.decode("utf-8", "surrogateescape")

    def follow(self, step: Step, page: str) -> None:
        """Do one step of a page, and see that it prints what the page says. A command may fail where the page shows its error."""
        printed, code = self.type(step.command)
        shown = f"{page}:{step.line}: {step.command}\n" + "\n".join(printed)
        assert fits(step.expected, [line.rstrip() for line in printed]), f"{shown}\n-- the page says:\n" + "\n".join(step.expected)
        assert code == 0 or any(map(_ERROR.match, step.expected)), f"{shown}\nexit code {code}"

    def run_python(self, text: str, page: str, line: int) -> None:
        """Run a block of Python where the shell is, with what it has exported; it goes on with the names of the blocks before it."""
        lines, _ = self.type("pwd; env -0 | tr '\\0\\n' '\\n '")
        exported = dict(line.split("=", 1) for line in lines[1:] if "=" in line)
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
            for name in [name for name in os.environ if name.startswith(("AWS_", "ARTIFACTMOUNT_", "XDG_", "WANDB_"))]:
                patch.delenv(name)
            for name, value in exported.items():
                if name == "HOME" or name.startswith(("AWS_", "ARTIFACTMOUNT_", "XDG_")):
                    patch.setenv(name, value)
            patch.chdir(lines[0])
            code = compile("\n" * (line - 1) + text, page, "exec", dont_inherit=True)
            exec(code, self.names)  # noqa: S102 - our own document
        self.printed = out.getvalue()

    def leave(self) -> None:
        """End the shell, and every mount and daemon that the page left."""
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.stdin.close()
        try:
            self.shell.wait(_SECONDS)
        finally:
            self.shell.kill()
            self.shell.wait()
            self.shell.stdout.close()
            for path in _overlays_below(self.home):
                subprocess.run(["umount", "--lazy", "--", path], check=True)
            for record in sorted((self.home / ".local/state/artifactmount/mounts").glob("*.json")):
                with suppress(ValueError, KeyError):
                    fields = json.loads(record.read_text())
                    _take_away(Path(fields["mountpoint"]), int(fields["pid"]))


def _overlays_below(folder: Path) -> list[str]:
    """Checkouts that a page left: they keep the mounts beneath them in use."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields[4] for fields in mounts if fields[4].startswith(f"{folder}/") and "overlay" in fields[fields.index("-") + 1]]


def _take_away(mountpoint: Path, pid: int) -> None:
    """As tests.fuse.mounts does: by the mount's path and the daemon's pidfd, and nothing where there is no mount."""
    if not is_mounted(mountpoint):
        return
    daemon = os.pidfd_open(pid)
    try:
        subprocess.run(["fusermount3", "-u", "-z", "--", mountpoint], check=True, timeout=_SECONDS)
        if not select.select([daemon], [], [], _SECONDS)[0]:
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
    finally:
        os.close(daemon)


@contextmanager
def stranger(root: Path) -> Iterator[Stranger]:
    """Somebody new, who leaves nothing running."""
    made = Stranger(root)
    try:
        yield made
    finally:
        made.leave()
