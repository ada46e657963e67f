"""Encrypted projects as a user types them: each kind of key, the wrong one, none; and what the store then shows of it: nothing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
import zstandard

from artifactmount.keys import KeyFile, Slot
from tests.cli.program import Program
from tests.encryption import plain_only
from tests.store.servers import Server

SECRETS = {
    "content": b"the content of a secret file",
    "name": b"a-secret-name.txt",
    "folder": b"a-secret-folder",
    "target": b"a-secret-target",
    "alias": b"a-secret-alias",
    "note": b"a secret note",
    "key": b"a-secret-key",
    "value": b"a-secret-value",
    "type": b"a-secret-type",
    "actor": b"tester@",
    "label": b"a secret label",
}
MARK = b"the content of a secret file"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """With nothing in its place, a folder; quick, as many commands are run here."""
    program = Program(tmp_path)
    program.environment.pop("ARTIFACTMOUNT_KEY_FILE", None)
    program.quick = True
    return program


@pytest.fixture(params=["folder", "s3"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """The same; and again in a bucket."""
    if request.param == "folder":
        return request.getfixturevalue("program")  # type: ignore[no-any-return]
    return request.getfixturevalue("empty_bucket")  # type: ignore[no-any-return]


@pytest.fixture
def empty_bucket(s3_server: Server, tmp_path: Path) -> Program:
    """In a bucket only."""
    program = Program(tmp_path, f"s3://{s3_server.make_bucket()}/some/prefix", s3_server.environment())
    program.environment.pop("ARTIFACTMOUNT_KEY_FILE", None)
    program.quick = True
    return program


def staging(program: Program) -> Path:
    folder = program.folder / "staging"
    (folder / "a-secret-folder").mkdir(parents=True)
    (folder / "a-secret-folder" / "a-secret-name.txt").write_bytes(MARK + b"\n")
    (folder / "large").write_bytes(MARK + os.urandom(1_500_000) + MARK)
    (folder / "link").symlink_to("a-secret-target")
    return folder


def everything(program: Program, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """Every key of the project and its bytes, read behind the program's back."""
    if not program.project.startswith("s3://"):
        root = Path(program.project)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    client, bucket = request.getfixturevalue("s3_server").client, program.project.split("/")[2]
    names = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}


def unpacked(content: bytes) -> bytes:
    """The bytes, and whatever in them unpacks: names and targets lie in compressed frames, where a search does not see them."""
    parts, at = [content], content.find(zstandard.FRAME_HEADER)
    while at >= 0:
        with suppress(zstandard.ZstdError):
            parts.append(zstandard.ZstdDecompressor().decompressobj().decompress(content[at:]))
        at = content.find(zstandard.FRAME_HEADER, at + 1)
    return b"\n".join(parts)


def shown(stored: dict[str, bytes]) -> set[str]:
    """Which of the secrets somebody finds who has all that is stored: in keys, in what unpacks, as they are or in hex digits."""
    everywhere = b"\n".join([*map(str.encode, stored), *map(unpacked, stored.values())])
    return {name for name, what in SECRETS.items() if what in everywhere or what.hex().encode() in everywhere}


def fill(program: Program) -> Path:
    """A version in which every secret is somewhere."""
    folder, options = staging(program), ("--alias", "a-secret-alias", "--note", "a secret note", "--type", "a-secret-type")
    assert program.snapshot(folder, "animals", *options, "--metadata", "a-secret-key=a-secret-value") == "v0"
    return folder


@plain_only
def test_in_a_plain_project_the_same_search_finds_everything(program: Program, request: pytest.FixtureRequest) -> None:
    """Or that it finds nothing in an encrypted one would say nothing. Only key slots have labels."""
    program.run("init")
    fill(program)
    assert shown(everything(program, request)) == SECRETS.keys() - {"label"}
    assert shown({"keys/0": b'{"about":"%s"}' % SECRETS["label"].hex().encode()}) == {"label"}


def test_a_project_with_a_key_file_from_init_to_delete(empty: Program, request: pytest.FixtureRequest) -> None:
    key = empty.home / "my.key"
    made = empty.run("init", "--encrypt", "--key-file", key, "--label", "a secret label", "--json").json
    assert made["created"] and made["encryption"] == "aes-256-gcm blake3 1"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "nothing was changed" in empty.run("init", "--encrypt", "--key-file", key).out
    empty.environment["ARTIFACTMOUNT_KEY_FILE"] = str(key)
    folder = fill(empty)
    assert empty.run("snapshot", folder, "animals", "--json").json["changed"] is False
    (folder / "a-secret-folder" / "b-secret").write_bytes(MARK * 3)
    assert empty.snapshot(folder, "animals") == "v1"
    assert empty.run("show", "--json").json["encryption"] == "aes-256-gcm blake3 1"
    assert "encrypted" in empty.run("show").out
    assert empty.run("verify").out.endswith("all good\n")
    stored = everything(empty, request)
    assert len(stored) > 6
    assert shown(stored) == set()
    assert empty.run("key", "list", "--json").json[0]["label"] == "a secret label"  # which is stored, then
    other = empty.elsewhere(empty.home / "elsewhere")
    other.environment.pop("ARTIFACTMOUNT_KEY_FILE", None)
    other.quick = True
    other.run("--key-file", key, "download", "animals:a-secret-alias", other.home / "out")
    assert (other.home / "out/a-secret-folder/a-secret-name.txt").read_bytes() == MARK + b"\n"
    assert (other.home / "out/large").read_bytes() == (folder / "large").read_bytes()
    empty.run("delete", "animals:v0", "--delete-aliases", "--yes")
    assert empty.run("verify").out.endswith("all good\n")
    empty.run("download", "animals", empty.home / "again")
    assert (empty.home / "again/a-secret-folder/b-secret").read_bytes() == MARK * 3


def test_several_keys(program: Program) -> None:
    """Few commands take the passphrase, as each of them takes the 0.4 s that it costs."""
    key, environment = str(program.home / "my.key"), program.environment
    environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    program.run("init", "--encrypt", "--label", "ann")
    added = program.run("key", "add", "--key-file", key, "--label", "the build server", "--json").json
    assert added["kind"] == "file" and Path(key).exists()
    del environment["ARTIFACTMOUNT_PASSPHRASE"]
    environment["ARTIFACTMOUNT_KEY_FILE"] = key
    listed = program.run("key", "list", "--json").json
    assert [(item["kind"], item["label"]) for item in listed] == [("passphrase", "ann"), ("file", "the build server")]
    assert all(item["actor"].startswith("tester@") for item in listed)
    for command, variable in (("init",), "ARTIFACTMOUNT_PASSPHRASE"), (("key", "add"), "ARTIFACTMOUNT_NEW_PASSPHRASE"):
        assert f"asked for, or ${variable}." in " ".join(program.run(*command, "--help").out.split())
    assert program.run("key", "add", "--passphrase", code=2).err.endswith("a passphrase in ARTIFACTMOUNT_NEW_PASSPHRASE\n")
    assert [line.split()[:2] for line in program.run("key", "list").lines] == [[item["id"], item["kind"]] for item in listed]
    environment["ARTIFACTMOUNT_NEW_PASSPHRASE"] = "battery staple"
    program.run("key", "add", "--passphrase")
    program.run("key", "remove", listed[0]["id"])
    assert "no key" in program.run("key", "remove", listed[0]["id"], code=3).err
    program.run("key", "remove", added["id"])
    assert "does not open it" in program.run("ls", code=4).err
    del environment["ARTIFACTMOUNT_KEY_FILE"]
    environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    assert "does not open it" in program.run("ls", code=4).err
    environment["ARTIFACTMOUNT_PASSPHRASE"] = "battery staple"
    (last,) = program.run("key", "list", "--json").json
    assert "last key" in program.run("key", "remove", last["id"], code=4).err


def test_a_wrong_key_and_none_write_nothing(program: Program, request: pytest.FixtureRequest) -> None:
    key, wrong = str(program.home / "my.key"), str(program.home / "wrong.key")
    folder = staging(program)
    program.run("init", "--encrypt", "--key-file", key)
    Path(wrong).write_text(f"artifactmount-key-1:{'11' * 32}\n")
    Path(wrong).chmod(0o600)
    (program.home / "mnt").mkdir()
    before = everything(program, request)
    commands = (["ls"], ["snapshot", folder, "animals"], ["key", "list"], ["key", "add", "--key-file", key], ["verify"], ["gc"], ["show"])
    for command in commands:
        for with_key, said in (([], "--key-file"), (["--key-file", wrong], "does not open it")):
            assert said in program.run(*with_key, *command, code=4).err
    assert "--key-file" in program.run("mount", program.home / "mnt", code=4).err
    assert everything(program, request) == before


@plain_only
def test_a_key_for_a_project_that_is_not_encrypted_is_refused(program: Program) -> None:
    key = str(program.home / "my.key")
    assert "--encrypt" in program.run("init", "--key-file", key, code=2).err
    assert "say what" in program.run("init", "--encrypt", code=2).err
    program.run("init")
    folder = staging(program)
    assert "not encrypted" in program.run("--key-file", key, "snapshot", folder, "animals", code=4).err
    assert "not encrypted" in program.run("init", "--encrypt", "--key-file", key, code=4).err
    assert "not encrypted" in program.run("key", "list", code=4).err
    program.environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    assert "not encrypted" in program.run("ls", code=4).err
    del program.environment["ARTIFACTMOUNT_PASSPHRASE"]
    assert program.run("ls").out == "" and not Path(key).exists()


@plain_only
def test_the_first_snapshot_with_a_key_makes_no_plain_project(program: Program) -> None:
    program.environment["ARTIFACTMOUNT_PASSPHRASE"] = "correct horse"
    assert "init --encrypt" in program.run("snapshot", staging(program), "animals", code=4).err
    assert not Path(program.project).exists() or not list(Path(program.project).iterdir())


@plain_only
def test_the_key_file_of_the_config_file(program: Program) -> None:
    """It is meant for the project named there, or for all where none is; another one may be plain, and that is said."""
    key, other = program.home / "my.key", str(program.home / "plain")
    program.run("init", "--encrypt", "--key-file", key)
    program.run("--project", other, "init")
    configure(program, project=program.project, key_file=str(key))
    program.quick = False  # where warnings go is settled once in a process
    assert program.run("--project", other, "ls").err.endswith("plain is not encrypted; the key in the config file is for another project\n")
    program.quick = True
    del program.environment["ARTIFACTMOUNT_PROJECT"]
    assert program.run("key", "list").out
    configure(program, key_file=str(key))
    assert program.run("--project", program.project, "key", "list").out
    assert "not encrypted" in program.run("--project", other, "ls", code=4).err


@plain_only
@pytest.mark.parametrize("spelled", ["{}", "{}/", "file://{}", "{}/../plain", "{}-link"])
def test_the_project_of_the_config_file_is_the_same_however_it_is_spelled(program: Program, spelled: str) -> None:
    """Who puts a plain project in its place is sent nothing."""
    plain = program.home / "plain"
    program.run("--project", str(plain), "init")
    (program.home / "plain-link").symlink_to(plain)
    KeyFile(str(program.home / "my.key")).begin("")
    configure(program, project=spelled.format(plain), key_file=str(program.home / "my.key"))
    assert "not encrypted" in program.run("--project", str(plain), "snapshot", staging(program), "animals", code=4).err


def configure(program: Program, **fields: str) -> None:
    """Write the user's config file."""
    config = program.home / "home/config/artifactmount/config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(0o600)
    config.write_text("".join(f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in fields.items()))


def test_a_passphrase_is_asked_for_on_a_terminal(program: Program) -> None:
    assert "differ" in typed(program, "init", "--encrypt", says=["one", "other"], code=2)
    assert "created" in typed(program, "init", "--encrypt", says=["correct horse", "correct horse"])
    assert "does not open it" in typed(program, "ls", says=["wrong"], code=4)
    listed = typed(program, "key", "list", says=["correct horse"])
    assert "passphrase" in listed and "correct horse" not in listed  # what is typed is not shown


def typed(program: Program, *arguments: str, says: list[str], code: int = 0) -> str:
    """What the terminal shows when a user types these lines, each when he is asked."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "artifactmount", *arguments],
        cwd=program.folder,
        env=program.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,  # no other terminal to ask on
    )
    os.close(slave)
    shown = b""
    try:
        for line in [*says, None]:
            start = len(shown)
            while line is None or b": " not in shown[start:]:
                try:
                    more = os.read(master, 1 << 12)
                except OSError:  # the other end is closed
                    more = b""
                shown += more
                if not more:
                    break
            if line is not None:
                os.write(master, line.encode() + b"\n")
        assert process.wait(60) == code, shown
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return shown.decode()


@pytest.mark.moto_only("need a KMS, which Ceph is not")
def test_a_key_in_kms(empty_bucket: Program, s3_server: Server) -> None:
    """Against the KMS of the same server, over HTTP; at an address that says that it is meant for KMS."""
    program = empty_bucket
    program.environment["AWS_ENDPOINT_URL_KMS"] = s3_server.endpoint
    client = boto3.session.Session("tester", "made-up", region_name="us-east-1").client("kms", endpoint_url=s3_server.endpoint)
    first, second = (client.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    program.run("init", "--encrypt", "--kms-key-id", first)
    folder = program.folder / "small"
    folder.mkdir()
    (folder / "file").write_bytes(MARK)
    assert program.snapshot(folder, "animals") == "v0"
    program.environment["ARTIFACTMOUNT_KMS_KEY_ID"] = second  # what is asked for is not taken from another key
    assert "does not open it" in program.run("ls", code=4).err
    program.environment["ARTIFACTMOUNT_KMS_KEY_ID"] = first.rpartition("/")[2]
    (listed,) = program.run("key", "list", "--json").json
    assert listed["kind"] == "kms"
    client.create_alias(AliasName="alias/first", TargetKeyId=first)
    client.create_alias(AliasName="alias/second", TargetKeyId=second)
    assert "already" in program.run("init", "--encrypt", "--kms-key-id", "alias/first").out
    victim = program.elsewhere(program.home / "victim")  # who makes a project where an enemy has put his is not to use the enemy's
    victim.quick = True
    assert "does not open it" in victim.run("init", "--encrypt", "--kms-key-id", "alias/second", code=4).err
    assert not list((victim.home / "home/state").rglob("project"))
    program.environment["ARTIFACTMOUNT_KMS_KEY_ID"] = "alias/first"
    assert "by its ARN" in program.run("ls", code=2).err
    assert program.run("--project", program.project + "-2", "init", "--encrypt", "--json").json[
        "created"
    ]  # with the same, found by its alias
    program.environment["ARTIFACTMOUNT_KMS_KEY_ID"] = first
    assert "KMS" in program.run("key", "add", "--kms-key-id", "nonsense", code=3).err
    client.close()
    program.environment["AWS_ENDPOINT_URL_KMS"] = "http://127.0.0.1:9"
    assert "KMS cannot be reached" in program.run("ls", code=5).err


def test_key_list_shows_the_good_ones_and_a_line_for_each_other(program: Program) -> None:
    key = program.home / "my.key"
    program.environment["ARTIFACTMOUNT_KEY_FILE"] = str(key)
    project = program.run("init", "--encrypt", "--key-file", key, "--json").json["id"]
    forged = Slot("f" * 16, "file", bytes(32), {}, b"x" * 48, b"y" * 90, project)
    (Path(program.project) / "keys" / forged.id).write_bytes(forged.encode())
    listed = program.run("key", "list")
    assert len(listed.lines) == 1 and forged.id not in listed.out and f"key slot {forged.id}" in listed.err
    program.run("key", "remove", forged.id)
    assert program.run("key", "list").err == ""
