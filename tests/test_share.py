"""The files of artifactmount/share: the systemd unit and the line of fstab by systemd's own tools, the others by what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifactmount.cli import COMMANDS, main
from artifactmount.cli.example import FILES
from artifactmount.errors import ArtifactError
from artifactmount.mount_options import parse_arguments

ROOT = Path(__file__).parent.parent
SHARE = ROOT / "artifactmount/share"
_GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"


def printed(what: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `artifactmount example` prints."""
    assert main(["example", what]) == 0
    return capsys.readouterr().out


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")


def verify(unit: Path, *options: str) -> str:
    """What systemd says of a unit, without a service manager that runs."""
    environment = os.environ | {"XDG_RUNTIME_DIR": str(unit.parent), "HOME": str(unit.parent)}
    command: list[str | Path] = ["systemd-analyze", "verify", "--man=no", *options, unit]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return f"{ran.returncode} {ran.stdout}{ran.stderr}"


def test_every_file_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(FILES.values()) == sorted(os.listdir(SHARE))
    for what, name in FILES.items():
        assert printed(what, capsys).count("\n") == (SHARE / name).read_text().count("\n")


@needs_systemd
def test_the_unit_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = tmp_path / "artifactmount@.service"
    unit.write_text(printed("systemd", capsys))
    assert verify(unit, "--user") == "0 "
    assert "(umask 077 && echo " in unit.read_text()
    unit.write_text(unit.read_text().replace("\nRestart=on-failure", "\nRestart=sometimes"))
    assert "sometimes" in verify(unit, "--user")


@needs_systemd
def test_the_path_of_the_installation_may_have_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b 5%t 日" / "bin"
    folder.mkdir(parents=True)
    (folder / "artifactmount").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    unit = tmp_path / "artifactmount@.service"
    unit.write_text(printed("systemd", capsys))
    assert unit.read_text().count("5%%t") == 2
    assert verify(unit, "--user") == "0 "
    (folder / "artifactmount").chmod(0o644)
    assert f"{folder}/artifactmount" in verify(unit, "--user")  # it is this file that is looked for
    (folder / "artifactmount").chmod(0o755)
    (command,) = [line.lstrip("# ") for line in printed("fstab", capsys).splitlines() if "ln -s" in line]
    assert shlex.split(command) == ["ln", "-s", f"{folder}/mount.fuse.artifactmount", "/sbin/mount.fuse.artifactmount"]
    (other := folder.parent.with_name('"')).symlink_to(folder.parent)
    monkeypatch.setattr(sys, "executable", f"{other}/bin/python")
    assert main(["example", "systemd"]) == 4 and "in its path" in capsys.readouterr().err


def kinds(kind: type[ArtifactError]) -> set[type[ArtifactError]]:
    """An error and all that are of its kind."""
    return {kind}.union(*map(kinds, kind.__subclasses__()))


def said_in_the_unit(name: str) -> list[str]:
    """The words of its one line with this name."""
    (line,) = re.findall(rf"^{name}=(.*)$", (SHARE / FILES["systemd"]).read_text(), re.MULTILINE)
    return shlex.split(line)


def test_the_unit_tries_again_only_where_that_may_help() -> None:
    given_up = {int(code) for code in said_in_the_unit("RestartPreventExitStatus")}
    again = {kind.__name__ for kind in kinds(ArtifactError) if kind.__module__ == "artifactmount.errors" and kind.exit_code not in given_up}
    store = {"StoreError", "NotSentError", "UnreachableError", "DeniedError", "StoreFullError", "OutcomeUnknownError"}
    assert again == {"ArtifactError", *store, "SourceError", "SourceDeniedError"}


def test_the_unit_does_not_try_for_ever_what_fails_at_once() -> None:
    """systemd's own limit counts 10 s, in which a unit that waits longer is never started too often. Whoever is denied knows it in 10 s."""
    (wait,), (burst,), (interval,) = map(said_in_the_unit, ("RestartSec", "StartLimitBurst", "StartLimitIntervalSec"))
    assert (int(wait) + 10) * int(burst) < int(interval)


@needs_systemd
def test_fstab_gives_a_mount_unit_and_options_that_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(printed("fstab", capsys))
    environment = os.environ | {"SYSTEMD_FSTAB": str(fstab)}
    subprocess.run([_GENERATOR, tmp_path, tmp_path, tmp_path], env=environment, capture_output=True, check=True)
    assert verify(tmp_path / "mnt-vision.mount") == "0 "
    (line,) = [line.split() for line in fstab.read_text().splitlines() if line and line[0] != "#"]
    wanted = parse_arguments([line[0], line[1], "-t", line[2], "-o", line[3]])
    assert (wanted.source, wanted.cache) == ("s3://my-bucket/vision", "/var/cache/artifactmount")
    assert wanted.allow_other and wanted.gid is not None and wanted.umask & 0o007 == 0o007  # not for everybody
    assert "user" not in line[3].split(",")


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, in order, with lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (SHARE / "Dockerfile").read_text())
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line and line[0] != "#")]


def test_the_container_installs_what_the_scripts_install(tmp_path: Path) -> None:
    """Nothing builds it here: its instructions are known ones, and its packages those of scripts/environment.sh."""
    instructions = dockerfile()
    assert {word for word, _ in instructions} == {"FROM", "RUN", "COPY", "ENV", "CMD"}
    installed = [
        set(rest.split("recommends ")[1].split("&&")[0].split()) for word, rest in instructions if word == "RUN" and "apt-get" in rest
    ]
    script = f'source "{ROOT}/scripts/environment.sh"; PATH="{tmp_path}"; missing_packages run'
    needed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    builds, runs = installed
    assert set(needed) <= builds <= {*needed, "libc6-dev"}  # which is here already where this runs
    assert runs == {"python3", "fuse3", "ca-certificates"}
    for rest in (rest for word, rest in instructions if word == "RUN"):
        assert subprocess.run(["sh", "-n", "-c", rest], capture_output=True, check=False).returncode == 0


def pods() -> list[dict[str, Any]]:
    """The pods, by what they say."""
    return list(yaml.safe_load_all((SHARE / "kubernetes.yaml").read_text()))


def test_the_pods_run_commands_that_exist_with_no_privilege_but_fuse() -> None:
    copy, mount = pods()
    assert all((pod["apiVersion"], pod["kind"]) == ("v1", "Pod") for pod in (copy, mount))
    text = (SHARE / "kubernetes.yaml").read_text()
    assert "privileged" not in text.replace("unprivileged", "") and "hostPath:" not in text and "Bidirectional" not in text
    containers = copy["spec"]["initContainers"] + copy["spec"]["containers"]
    assert all(c["securityContext"]["capabilities"] == {"drop": ["ALL"]} and c["securityContext"]["runAsNonRoot"] for c in containers)
    (trains,) = mount["spec"]["containers"]
    assert mount["spec"]["hostUsers"] is False
    assert trains["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert list(trains["resources"]["limits"]) == ["smarter-devices/fuse"]
    for container in (*containers, trains):
        volumes = {v["name"] for v in (mount if container is trains else copy)["spec"]["volumes"]}
        assert {m["name"] for m in container["volumeMounts"]} <= volumes
        for command in re.findall(r"artifactmount (\S+)", shlex.join(container["command"])):
            assert command.strip("'") in COMMANDS
