"""What is wrong is found, said in one line, and the line below says how to mend it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any

import pytest

from artifactmount.doctor.machine import kind_of
from artifactmount.document import make_document
from artifactmount.mountpoint import mounted
from tests.cli.program import Program, in_bucket
from tests.cli.trees import File, write
from tests.encryption import plain_only
from tests.store.servers import Server

pytestmark = plain_only


def findings(program: Program, *options: str) -> dict[str, dict[str, str]]:
    """What `doctor` finds, by what it looked at; what is left of other tests' mounts on this machine is not looked at."""
    ran = program.inside(*options, "doctor", "--json")
    assert ran.err == ""
    assert ran.code == int(any(found["state"] == "problem" for found in ran.json))
    return {found["check"]: found for found in ran.json if found["check"] not in ("mounts", "read-ahead")}


def states(found: Mapping[str, Mapping[str, Any]], *but: str) -> set[str]:
    """How bad things are, apart from these."""
    return {finding["state"] for check, finding in found.items() if check not in but}


@pytest.mark.needs_fuse
def test_a_project_with_nothing_wrong(anywhere: Program, tmp_path: Path) -> None:
    anywhere.run("snapshot", write(tmp_path / "pets", {b"cat": File(b"cat")}), "pets")
    before = sorted(str(path) for path in (tmp_path / "home").rglob("*"))
    found = findings(anywhere)
    wanted = {"fuse", "fusermount3", "allow-other", "config", "state", "cache", "cache disk", "cache space", "project", "protection"}
    assert wanted | {"key", "create"} <= found.keys()
    assert ("clock" in found, "versioning" in found) == ((True, True) if anywhere.project.startswith("s3:") else (False, False))
    assert states(found, "cache disk", "cache space", "fusermount3") == {"ok"}
    assert all(bool(finding["mend"]) == (finding["state"] != "ok") for finding in found.values())
    assert "refuses to overwrite" in found["create"]["found"]
    assert sorted(str(path) for path in (tmp_path / "home").rglob("*")) == before
    text = anywhere.inside("doctor")
    assert f"ok       create: {found['create']['found']}\n" in text.out


def test_what_is_not_there_yet(program: Program) -> None:
    found = findings(program)
    assert found["project"]["state"] == "warning" and " init" in found["project"]["mend"]
    assert "key" not in found and "create" not in found
    assert not Path(program.project).exists()


def test_a_new_machine_is_as_new_afterwards(anywhere: Program, tmp_path: Path) -> None:
    anywhere.run("snapshot", write(tmp_path / "pets", {b"cat": File(b"cat")}), "pets")
    new = anywhere.elsewhere(tmp_path / "new")
    before = sorted(new.home.rglob("*"))
    found = findings(new)
    assert found["project"]["state"] == found["key"]["state"] == found["create"]["state"] == "ok"
    assert "would be made" in found["state"]["found"] and "would be made" in found["cache"]["found"]
    assert sorted(new.home.rglob("*")) == before


def test_another_project_than_before_is_said_and_not_taken(program: Program, tmp_path: Path) -> None:
    program.run("init")
    other = Program(tmp_path / "other")
    other.run("init")
    document, wrong = (Path(each.project, "project.json") for each in (program, other))
    right = document.read_bytes()
    document.chmod(0o600)
    document.write_bytes(wrong.read_bytes())
    found = findings(program)
    assert found["project"]["state"] == "problem" and "another project than before" in found["project"]["found"]
    assert "key" not in found and "create" not in found
    document.write_bytes(right)
    assert findings(program)["project"]["state"] == "ok"


def test_files_and_folders_that_are_wrong(program: Program, tmp_path: Path) -> None:
    config = Path(program.environment["XDG_CONFIG_HOME"]) / "artifactmount/config.toml"
    config.parent.mkdir(parents=True)
    config.touch(0o644)
    secrets = config.with_name("vision.env")
    secrets.touch(0o644)
    (tmp_path / "file").touch()
    program.environment["XDG_STATE_HOME"] = str(tmp_path / "file")
    Path(program.environment["ARTIFACTMOUNT_CACHE"]).mkdir(mode=0o755)
    found = findings(program, "--cache-size", "100000T")
    assert found["config"]["state"] == "problem" and f"chmod 600 {config}" in found["config"]["found"]
    assert found["variables"]["state"] == "warning" and found["variables"]["mend"] == f"chmod 600 {secrets}"
    assert found["state"]["state"] == "problem" and "XDG_STATE_HOME" in found["state"]["mend"]
    assert found["cache"]["state"] == "warning" and "mode 755" in found["cache"]["found"]
    assert found["cache space"]["state"] == "warning" and "--cache-size" in found["cache space"]["mend"]
    text = program.inside("doctor").out.splitlines()
    at = next(number for number, line in enumerate(text) if line.startswith("problem  config: "))
    assert text[at + 1] == f"         -> {found['config']['mend']}"


def test_in_a_chroot_no_mount_holds_a_path(tmp_path: Path) -> None:
    assert kind_of("/proc/self", mounted()) == "proc"
    assert kind_of(str(tmp_path), [mount for mount in mounted() if mount.path == "/proc"]) == ""


def test_a_key_that_is_missing(program: Program, tmp_path: Path) -> None:
    assert program.inside("init", "--encrypt", "--key-file", tmp_path / "key").code == 0
    found = findings(program)
    assert found["project"]["state"] == "ok" and found["key"]["state"] == "problem" and "--key-file" in found["key"]["mend"]
    assert "opens the project" in findings(program, "--key-file", str(tmp_path / "key"))["key"]["found"]


@pytest.mark.moto_only("use a versioned bucket, where Ceph 16 ignores If-None-Match")
def test_a_bucket_that_keeps_what_is_deleted(s3_server: Server, tmp_path: Path) -> None:
    program = in_bucket(tmp_path, s3_server)
    bucket = program.project.split("/")[2]
    s3_server.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    found = findings(program)
    assert found["versioning"]["state"] == "warning" and "without versioning" in found["versioning"]["mend"]
    none = findings(program, "--project", f"s3://{bucket}/elsewhere")["project"]
    assert none["mend"] == f"artifactmount --project s3://{bucket}/elsewhere init"
    assert "make the bucket" in findings(program, "--project", "s3://no-such-bucket-here/x")["project"]["mend"]


class _Endpoint(ThreadingHTTPServer):
    """An S3 endpoint that says one thing, at its own time."""

    daemon_threads = True
    status, code, ahead = 404, "NoSuchKey", 0.0
    document = b""  # project.json, where there is one


class _Answers(BaseHTTPRequestHandler):
    server: _Endpoint

    def date_time_string(self, timestamp: float | None = None) -> str:
        """What the Date of each answer is."""
        return formatdate(time() + self.server.ahead, usegmt=True)

    def do_GET(self) -> None:
        """The answer to anything."""
        if self.server.document and self.path.endswith("/project.json"):
            return self._answer(200, self.server.document)
        body = f"<?xml version='1.0'?><Error><Code>{self.server.code}</Code><Message>No.</Message></Error>".encode()
        return self._answer(self.server.status, body)

    do_HEAD = do_GET  # noqa: N815 - http.server's own name

    def do_PUT(self) -> None:
        """It takes everything, whatever the condition."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def endpoint(program: Program) -> Iterator[_Endpoint]:
    """Where the program's bucket is, for as long as the block runs."""
    with _Endpoint(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            here = f"http://127.0.0.1:{server.server_address[1]}"
            program.environment |= {"AWS_ENDPOINT_URL": here, "AWS_ENDPOINT_URL_S3": here}
            program.environment |= {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "made-up", "AWS_DEFAULT_REGION": "us-east-1"}
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("ahead", "code", "state", "mend"),
    [(300, "AccessDenied", "warning", "`artifactmount policy reader`"), (-7200, "RequestTimeTooSkewed", "problem", "the clock")],
)
def test_a_clock_that_is_wrong(tmp_path: Path, ahead: float, code: str, state: str, mend: str) -> None:
    program = Program(tmp_path, "s3://bucket/x")
    with endpoint(program) as server:
        server.status, server.code, server.ahead = 403, code, ahead
        found = findings(program)
    clock = found["clock"]
    assert clock["state"] == state and ("behind" if ahead > 0 else "ahead of") in clock["found"] and "timedatectl" in clock["mend"]
    assert found["credentials"]["state"] == "problem" and mend in found["credentials"]["mend"]


def test_credentials_that_have_expired(tmp_path: Path) -> None:
    program = Program(tmp_path, "s3://bucket/x")
    with endpoint(program) as server:
        server.status, server.code = 400, "ExpiredToken"
        found = findings(program)
    assert found["credentials"]["state"] == "problem" and "sign in again" in found["credentials"]["mend"]


def test_a_store_that_overwrites(tmp_path: Path) -> None:
    program = Program(tmp_path, "s3://bucket/x")
    with endpoint(program) as server:
        server.document = make_document("0" * 32, None)
        found = findings(program)
    assert (
        found["create"]["state"] == "problem" and "If-None-Match" in found["create"]["found"] and "Which stores" in found["create"]["mend"]
    )
    assert found["key"]["state"] == "ok"
