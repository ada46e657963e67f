"""A mount as a service: it says when it is ready, logs JSON, serves metrics, and is looked at by `doctor`."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.encryption import plain_only
from tests.fuse.mounts import Mount, Project, is_mounted, mounted, wait_until, write

pytestmark = pytest.mark.needs_fuse

DOG, BAD = (random.Random(seed).randbytes(3000) for seed in (2, 3))
_UNIT = Path(__file__).parent.parent.parent / "artifactmount/share/artifactmount@.service"


@pytest.fixture
def animals(project: Project) -> Project:
    """A project with `animals:v0`."""
    writer = Program(project.root / "writer", project.url)
    writer.quick = True  # a process of its own would take as long as a mount
    writer.snapshot(write(project.root / "staging", {"cat.png": b"cat", "dog.png": DOG, "bad.png": BAD}), "animals")
    (project.root / "mnt").mkdir()
    return project


def lines_of(unit: Path, name: str) -> list[str]:
    """What a unit says under a name."""
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(name + "=")]


def test_the_unit_says_when_it_is_ready_and_stops_cleanly(animals: Project) -> None:
    """Its own lines are run, as the service manager would."""
    path, address = animals.root / "mnt", str(animals.root / "notify")
    (start,), (stop,) = lines_of(_UNIT, "ExecStart"), lines_of(_UNIT, "ExecStop")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        animals.environment["NOTIFY_SOCKET"] = address
        words = [str(path) if word == "${MOUNTPOINT}" else word for word in shlex.split(start)]
        assert words[0] == "/usr/local/bin/artifactmount"
        with animals.start(*words[1:]) as process:
            try:
                said = manager.recv(4096).decode().splitlines()
                assert said == ["READY=1", f"STATUS={animals.url} is mounted at {path}"]
                assert (path / "animals/latest/dog.png").read_bytes() == DOG
                animals.do(*(str(path) if word == "${MOUNTPOINT}" else word for word in shlex.split(stop.removeprefix("-"))[1:]))
                assert process.wait(timeout=30) == 0 and not is_mounted(path)
            finally:
                process.kill()
                process.communicate()
                Mount(animals, path).take_away()


def scraped(mount: Mount) -> dict[str, float]:
    """Every number that a mount serves at the port which its log names."""
    address = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", mount.log)
    assert address is not None
    asking = HTTPConnection(address[1], timeout=30)
    try:
        asking.request("GET", "/metrics")
        text = asking.getresponse().read().decode()
    finally:
        asking.close()
    assert "animals" not in text and "dog" not in text and str(mount.project.root) not in text
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines()) if name and name[0] != "#"}


@plain_only
def test_metrics_are_served_and_the_log_is_json(animals: Project) -> None:
    (pack,) = [pack for pack in animals.packs("animals") if DOG in pack.read_bytes()]
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes().replace(BAD, BAD[::-1]))
    with mounted(animals, after=("--metrics", "0", "--log-format", "json")) as mount:
        assert (mount / "animals/latest/dog.png").read_bytes() == DOG
        with pytest.raises(OSError, match="No data"):
            os.getxattr(mount / "animals/v0", "user.artifactmount.none")
        seen = scraped(mount)
        assert seen["artifactmount_read_bytes_total"] == 3000
        assert seen['artifactmount_request_seconds_count{operation="read"}'] >= 1
        assert seen['artifactmount_request_seconds_count{operation="lookup"}'] >= 3
        assert seen['artifactmount_request_errors_total{errno="ENODATA",operation="getxattr"}'] == 1
        assert seen['artifactmount_cache_lookups_total{result="miss"}'] == seen['artifactmount_fetched_chunks_total{source="store"}'] == 1
        assert seen['artifactmount_store_request_seconds_count{operation="get",result="ok"}'] >= 3
        assert seen['artifactmount_refreshes_total{result="ok"}'] >= 1
        assert 0 <= seen["artifactmount_refresh_age_seconds"] < 60
        assert seen["artifactmount_cache_budget_bytes"] == 10 << 30
        assert seen["process_resident_memory_bytes"] > 0
        assert any(re.fullmatch(r'artifactmount_build_info\{version="[^"]+"\}', name) for name in seen)
        labels = {label for name in seen for label in re.findall(r'(\w+)="', name)}
        assert labels == {"operation", "errno", "result", "source", "kind", "version", "le"}
        with pytest.raises(OSError, match="Input/output"):
            (mount / "animals/v0/bad.png").read_bytes()
        wait_until(lambda: "error" in mount.log)
        lines = [json.loads(line) for line in mount.log.splitlines()]
        assert scraped(mount)['artifactmount_request_errors_total{errno="EIO",operation="read"}'] >= 1
    assert {line["level"] for line in lines} == {"info", "error"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) and line["process"] == mount.pid for line in lines)
    (error,) = [line for line in lines if line["level"] == "error"]
    assert (error["artifact"], error["version"], error["path"]) == ("animals", "v0", "bad.png")
    assert error["message"].startswith("animals:v0 bad.png: ")


def test_where_the_port_is_taken_nothing_is_mounted(animals: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = animals.do("mount", animals.root / "mnt", "--metrics", str(port), code=4)
    assert f"127.0.0.1:{port}" in said and "name another port" in said
    assert not is_mounted(animals.root / "mnt")


def test_doctor_sees_a_mount_and_one_that_was_left_behind(animals: Project) -> None:
    def of_mount(code: int) -> list[tuple[str, str]]:
        with animals.start("doctor", "--json") as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (code, "")
        return [
            (line["state"], line["found"]) for line in json.loads(out) if line["check"] == "mounts" and str(mount.path) in line["found"]
        ]

    with mounted(animals) as mount:
        assert of_mount(0) == [("ok", f"{mount.path} is mounted")]
        mount.signal(signal.SIGKILL)
        assert mount.ended()
        assert of_mount(1) == [("problem", f"{mount.path} was left behind: its daemon is gone")]
        animals.do("umount", mount.path)  # what it says to do
        assert not is_mounted(mount.path)


@pytest.mark.needs_root
def test_a_pod_with_a_user_namespace_of_its_own_can_mount(animals: Project) -> None:
    """What share/kubernetes.yaml rests on: CAP_SYS_ADMIN in a user namespace, and no other right, not even there."""
    inside = ["unshare", "--user", "--map-root-user", "--mount", "setpriv", "--bounding-set=-all,+sys_admin"]
    if shutil.which("setpriv") is None or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here (in a chroot the kernel makes none)")
    program = f"{shlex.quote(sys.executable)} -m artifactmount"
    script = f'{program} mount "$1" && cat "$1/animals/latest/cat.png" && {program} umount "$1"'
    ran = subprocess.run(
        [*inside, "sh", "-c", script, "sh", animals.root / "mnt"], env=animals.environment, capture_output=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"cat", b"")
