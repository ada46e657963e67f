"""What a shell completes, and how fast: nobody waits for a store while he types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.cli.trees import File, write


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(program: Program, shell: str) -> None:
    ran = program.inside("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert f"_ARTIFACTMOUNT_COMPLETE={shell}_complete" in ran.out
    if shutil.which(shell):
        parsed = subprocess.run([shell, "-n"], input=ran.out, capture_output=True, text=True, check=False)
        assert (parsed.returncode, parsed.stderr) == (0, "")


def test_bash_completes_commands_options_and_artifacts_that_were_seen(program: Program, tmp_path: Path) -> None:
    for name in ("animals", "animations", "plants"):
        assert program.inside("snapshot", write(tmp_path / name, {b"a": File(name.encode())}), name).code == 0
    os.rename(program.project, tmp_path / "away")  # the store does not answer
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/artifactmount").write_text(f'#!/bin/sh\nexec {sys.executable} -m artifactmount "$@"\n')
    (tmp_path / "bin/artifactmount").chmod(0o755)
    program.environment["PATH"] = f"{tmp_path}/bin:{program.environment['PATH']}"

    def completed(*words: str) -> set[str]:
        shell = 'eval "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _artifactmount_completion artifactmount; echo "${COMPREPLY[@]}"'
        environment = program.environment | {"SCRIPT": script}
        ran = subprocess.run(["bash", "-c", shell, "bash", *words], env=environment, capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        return set(ran.stdout.split())

    script = program.inside("completion", "bash").out
    assert completed("artifactmount", "sn") == {"snapshot"}
    assert completed("artifactmount", "ls", "ani") == {"animals", "animations"}
    assert completed("artifactmount", "mount", "--log") == {"--log-format"}
