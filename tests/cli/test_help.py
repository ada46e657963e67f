"""Help: fast, complete, and the same wherever it is said."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import click
import pytest

from artifactmount.cli import COMMANDS
from tests import encryption
from tests.cli.program import Program

_SECONDS = 0.3  # of CPU; it takes 0.04 on the machine this was written on, and a heavy library alone takes as long as this


def command_of(name: str) -> click.Command:
    command = getattr(importlib.import_module(f"artifactmount.cli.{COMMANDS[name][0]}"), name.replace("-", "_"))
    assert isinstance(command, click.Command)
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(program: Program, name: str) -> None:
    ran = program.inside(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: artifactmount {name} ")
    assert f"artifactmount {name}" in ran.out[ran.out.index("Example: ") :].replace("\n ", "") or name == "init"
    assert program.inside(name, "-h") == ran


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    command = command_of(name)
    assert command.name == name and command.help is not None
    assert command.help.splitlines()[0] == COMMANDS[name][1]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_list_of_commands(program: Program) -> None:
    ran = program.inside("--help")
    assert ran.code == 0
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in ran.out and line in " ".join(ran.out.split())
    assert "Example: " in ran.out


def test_version(program: Program) -> None:
    assert program.run("--version").out.startswith("artifactmount 0.")


def test_help_is_fast(program: Program) -> None:
    times: list[float] = []
    for _ in range(5):
        process = program.start("--help")
        assert process.stdout is not None and process.stderr is not None
        with process.stdout, process.stderr:
            process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    assert min(times) < _SECONDS


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["nonsense"], ["snapshot", "--help"], ["ls"], ["mount", "--help"]], ids=" ".join
)
def test_heavy_libraries_are_not_loaded_where_they_are_not_used(program: Program, arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "artifactmount", *arguments]
    done = subprocess.run(command, env=program.environment, capture_output=True, text=True, check=False, cwd=program.folder)
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in loaded
    heavy = {"cryptography", "boto3", "botocore", "trio", "pyfuse3", "requests", "ssl"}
    if arguments[-1] in ("--help", "--version", "nonsense") and arguments[0] not in COMMANDS:
        heavy |= {"lmdb", "zstandard", "blake3", "pyfastcdc", "tqdm", "concurrent.futures"}
    assert not loaded & (heavy - {"cryptography"} if encryption.ENCRYPTED else heavy)
