"""The program as a user types it: a process of its own, with a home of its own; or `main` in this process where hundreds are run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifactmount.cli import main
from tests import encryption
from tests.store.servers import Server

_SECONDS = 100
Argument = str | bytes | Path


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Program:
    """The command line below the folder `home`: project, cache, state and working directory are all there, unless `project` says else."""

    def __init__(self, home: Path, project: str | None = None, variables: Mapping[str, str] | None = None) -> None:
        self.home, self.folder = home, home / "work"
        self.quick = False  # whether `run` stays in this process
        self.project = project or str(home / "project")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        self.environment = kept | {
            "HOME": str(home / "home"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "USER": "tester",
            "LOGNAME": "tester",
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": str(Path(__file__).parent.parent.parent),
            "XDG_CACHE_HOME": str(home / "home/cache"),
            "XDG_CONFIG_HOME": str(home / "home/config"),
            "XDG_DATA_HOME": str(home / "home/data"),
            "XDG_STATE_HOME": str(home / "home/state"),
            "ARTIFACTMOUNT_PROJECT": self.project,
            "ARTIFACTMOUNT_CACHE": str(home / "cache"),
            **encryption.variables(home),
            **(variables or {}),
        }

    def elsewhere(self, home: Path) -> Program:
        """Another machine: the same project, nothing else in common."""
        other = Program(home, self.project)
        other.environment |= {name: value for name, value in self.environment.items() if name.startswith("AWS_")}
        return other

    def _make_encrypted(self, arguments: Sequence[Argument]) -> None:
        """A folder project is made by its first snapshot; an encrypted one must be made before."""
        makes = any(command in arguments for command in ("snapshot", "add-reference", "import-wandb"))
        if encryption.ENCRYPTED and makes and not self.project.startswith("s3:") and not os.path.exists(self.project):
            assert self.inside("init").code == 0

    def start(self, *arguments: Argument, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """The running process. Whoever starts one ends it."""
        self._make_encrypted(arguments)
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "artifactmount", *map(os.fsencode, encryption.arguments(arguments))],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: Argument, code: int = 0, prefix: Sequence[str] = ()) -> Ran:
        """Run to the end, and check the exit code, and what stderr looks like with it."""
        if self.quick:
            return check(self.inside(*arguments), code)
        with self.start(*arguments, prefix=prefix) as process:
            return self.finish(process, code)

    def finish(self, process: subprocess.Popen[bytes], code: int = 0) -> Ran:
        """Wait for the end, and check as `run` does."""
        try:
            out, err = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return check(Ran(process.returncode, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape")), code)

    def snapshot(self, folder: Argument, artifact: str, *options: str) -> str:
        """The version that a folder became: "v0"."""
        version: str = self.run("snapshot", folder, artifact, "--json", *options).json["version"]
        return version

    def inside(self, *arguments: Argument) -> Ran:
        """The same in this process: an order of magnitude faster. The caller checks the exit code."""
        self._make_encrypted(arguments)
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in [name for name in os.environ if name.startswith(("AWS_", "ARTIFACTMOUNT_", "XDG_"))]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            code = main([os.fsdecode(argument) for argument in encryption.arguments(arguments)])
            texts = []
            for stream in (out, err):
                stream.flush()
                stream.seek(0)
                texts.append(stream.read())
        return Ran(code, *texts)


def in_folder(home: Path) -> Program:
    """With a project in a folder that is not there yet."""
    return Program(home)


def in_bucket(home: Path, server: Server) -> Program:
    """With a new project below a prefix of a new bucket; quick, as a process that loads boto3 takes half a second."""
    program = Program(home, f"s3://{server.make_bucket()}/some/prefix", server.environment())
    program.quick = True
    program.run("init")
    return program


def check(ran: Ran, code: int) -> Ran:
    """The exit code is `code`, and an error is one line on stderr that names the program and is no traceback."""
    assert ran.code == code, f"exit code {ran.code}, not {code}\n{ran.out}{ran.err}"
    assert "Traceback" not in ran.err and "Warning" not in ran.err, ran.err
    if code not in (0, 1):
        assert ran.err.startswith("artifactmount") and ran.err.count("\n") == 1 and ran.err.endswith("\n"), ran.err
    return ran
