"""What protects a project on the way, at rest and on this machine, and what `show` says of it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program, in_bucket, in_folder
from tests.encryption import plain_only
from tests.store.certificates import make_certificates
from tests.store.faults import Fault, Rule, proxy
from tests.store.servers import Server

KEY = "arn:aws:kms:us-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Something to snapshot."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_bytes(b"a" * 1000)
    return folder


def configure(program: Program, text: str, mode: int = 0o600) -> Path:
    """The user's config file."""
    file = program.home / "home/config/artifactmount/config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


# -- at rest -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.moto_only("need a server that encrypts, which Ceph 16 does not as it is here")
@pytest.mark.parametrize(("sse", "key"), [("AES256", None), ("aws:kms", KEY)])
def test_every_key_is_written_as_the_config_asks(s3_server: Server, tmp_path: Path, files: Path, sse: str, key: str | None) -> None:
    program = Program(tmp_path, f"s3://{s3_server.make_bucket()}", s3_server.environment())
    program.quick = True
    configure(program, f'[s3]\nsse = "{sse}"\n' + (f'sse-kms-key-id = "{key}"\n' if key else ""))
    assert program.run("init").err == ""
    assert program.run("snapshot", files, "pets").err == ""
    (files / "a").write_bytes(b"b" * 1000)
    program.run("snapshot", files, "pets")
    program.run("delete", "pets:v0", "--yes")
    bucket = program.project.removeprefix("s3://")
    found = [s3_server.client.head_object(Bucket=bucket, Key=name) for name in s3_server.keys(bucket)]
    assert len(found) > 5
    assert {(head["ServerSideEncryption"], head.get("SSEKMSKeyId")) for head in found} == {(sse, key)}


@pytest.mark.moto_only("take a signed header out on the way, which Ceph notices; test_ceph.py has Ceph, which ignores it")
def test_a_server_that_does_not_say_that_it_encrypts_is_told_of_once(s3_server: Server, tmp_path: Path, files: Path) -> None:
    with proxy(s3_server.endpoint) as network:
        network.add(Rule(Fault.WITHOUT_HEADER, "PUT", header="x-amz-server-side-encryption"))
        program = Program(tmp_path, f"s3://{s3_server.make_bucket()}", s3_server.environment(network.endpoint))
        program.run("init")
        configure(program, '[s3]\nsse = "AES256"\n')
        said = program.run("snapshot", files, "pets").err
        assert said.count("\n") == 1 and "`sse` asks for AES256, and the server does not say that it encrypts" in said
        assert program.run("ls").err == ""


def test_show_says_what_is_asked_for(s3_server: Server, tmp_path: Path) -> None:
    program = in_bucket(tmp_path, s3_server)
    said = program.run("show", "--json").json["protection"]
    assert said["transport"] == "plain http, which does not leave this machine"
    assert said["at_rest"] == "nothing asked for (`sse` in the config file); the bucket's default is none"
    configure(program, '[s3]\nsse = "AES256"')
    out = program.run("show").out
    assert "\nat rest     AES256 asked for with every write; the bucket's default is none\n" in out
    assert "\nread by     whom the bucket lets; see `artifactmount policy`\n" in out


@pytest.mark.moto_only("set a bucket's default encryption, which Ceph 16 refuses")
def test_show_says_what_the_bucket_does(s3_server: Server, tmp_path: Path) -> None:
    program = in_bucket(tmp_path, s3_server)
    bucket = program.project.split("/")[2]
    default: Any = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "theirs"}}]}
    s3_server.client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=default)
    configure(program, '[s3]\nsse = "AES256"')
    said = program.run("show", "--json").json["protection"]["at_rest"]
    assert said == "AES256 asked for with every write; the bucket's default is aws:kms with key theirs"


# -- on the way --------------------------------------------------------------------------------------------------------------------------
def test_only_a_server_with_the_right_certificate_hears_anything(s3_server: Server, tmp_path: Path, files: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    right, wrong = make_certificates(theirs), make_certificates(ours)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(right.certificate, right.key)
    with proxy(s3_server.endpoint, tls=context) as made:
        program = Program(tmp_path, f"s3://{s3_server.make_bucket()}/p", s3_server.environment(made.endpoint))
        program.quick = True
        for bundle in (None, str(wrong.authority)):
            if bundle is not None:
                program.environment["AWS_CA_BUNDLE"] = bundle
            for command in (("init",), ("ls",), ("snapshot", str(files), "pets")):
                refused = program.run(*command, code=5).err
                assert "cannot reach s3://" in refused and "CERTIFICATE_VERIFY_FAILED" in refused and "AWS_CA_BUNDLE" in refused
        program.environment["AWS_CA_BUNDLE"] = str(tmp_path / "missing.pem")
        assert "missing.pem, which is not there" in program.run("init", code=2).err
        assert made.requests == []
        program.environment["AWS_CA_BUNDLE"] = str(right.authority)
        program.run("init")
        program.run("snapshot", files, "pets")
        said = program.run("show", "--json").json["protection"]["transport"]
        assert said == f"https, the server's certificate is checked against {right.authority}"


# -- on this machine ---------------------------------------------------------------------------------------------------------------------
def test_an_open_config_file_is_refused(program: Program) -> None:
    file = configure(program, 'project = "/nowhere"', 0o640)
    del program.environment["ARTIFACTMOUNT_PROJECT"]
    assert f"chmod 600 {file}" in program.run("ls", code=4).err
    assert f"chmod 600 {file}" in program.run("--project", "s3://bucket/p", "ls", code=4).err
    file.chmod(0o600)
    assert "no project at /nowhere" in program.run("ls", code=3).err


@plain_only
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_open_cache_and_state_folders_are_closed_and_that_is_said_once(program: Program, files: Path, mode: int) -> None:
    folders = {"cache": program.home / "cache", "state": program.home / "home/state/artifactmount"}
    for folder in folders.values():
        folder.mkdir(parents=True)
        folder.chmod(mode)
    said = program.run("snapshot", files, "pets").err
    for what, folder in folders.items():
        assert f"artifactmount: the {what} folder {folder} was open to other users (mode {mode:o}) and is closed now\n" in said
        assert folder.stat().st_mode & 0o077 == 0
    assert program.run("ls").err == ""


def test_what_the_program_keeps_is_for_its_user_alone(program: Program, files: Path) -> None:
    program.run("snapshot", files, "pets", prefix=("sh", "-c", 'umask 000; exec "$@"', "sh"))
    for top in (program.home / "cache", program.home / "home/state"):
        found = [top, *top.rglob("*")]
        assert len(found) > 3
        assert [str(path) for path in found if path.stat().st_mode & 0o077] == []


def test_a_cache_where_everybody_may_write_is_refused(program: Program) -> None:
    shared = program.home / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    assert "name a folder of your own" in program.run("--cache", shared, "init", code=4).err
    assert list(shared.iterdir()) == [] and shared.stat().st_mode & 0o7777 == 0o1777


def test_show_warns_of_a_folder_that_others_may_enter(tmp_path: Path) -> None:
    program = in_folder(tmp_path)
    program.run("init")
    project = Path(program.project)
    closed = program.run("show")
    assert "\nread by     its owner and root (mode 700)\n" in closed.out and closed.err == ""
    for mode, who in ((0o755, "every user of this machine"), (0o770, "its owner's group")):
        project.chmod(mode)
        said = program.run("show").err
        assert f"{project} is open to {who} (mode {mode:o}); if that is not meant: chmod 700 {project}" in said


# -- policies ----------------------------------------------------------------------------------------------------------------------------
def test_a_policy_is_json_and_nothing_else_and_asks_nobody(s3_server: Server, tmp_path: Path) -> None:
    program = Program(tmp_path, "s3://bucket/some/prefix", s3_server.environment("http://127.0.0.1:9"))
    program.quick = True
    configure(program, f'[s3]\nsse = "aws:kms"\nsse-kms-key-id = "{KEY}"')
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del program.environment[name]
    ran = program.run("policy", "writer", "--artifact", "animals")
    assert ran.err == "" and ran.json["Version"] == "2012-10-17"
    resources = {resource for statement in ran.json["Statement"] for resource in statement["Resource"]}
    assert "arn:aws:s3:::bucket/some/prefix/artifacts/animals/*" in resources and KEY in resources
    for arguments in (("reader", "--artifact", "a/../b"), ("owner",), ()):
        assert program.run("policy", *arguments, code=2).out == ""


def test_a_folder_has_no_policy(program: Program) -> None:
    assert "is a folder: its mode and owner say" in program.run("policy", "reader", code=2).err


# -- mounts ------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("umask", ["8", "u=rwx", "-1", "1777", "0o22", ""])
def test_a_umask_is_octal(program: Program, tmp_path: Path, umask: str) -> None:
    program.quick = True
    assert "not a umask" in program.run("mount", tmp_path, "--umask", umask, code=2).err
