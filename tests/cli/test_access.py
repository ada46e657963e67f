"""Who may do what: every command, as typed, under each policy that `artifactmount policy` prints, against a server that enforces it.

The tables in artifactmount/docs/access.md are what comes out here.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import create_loader

from artifactmount.store.s3 import S3Store
from tests.cli.program import Program
from tests.encryption import plain_only
from tests.fuse.mounts import Project, mounted
from tests.store.cloud import Cloud, cloud

pytestmark = plain_only  # there is a table of encrypted projects, too

DOCUMENT = Path(__file__).parent.parent.parent / "artifactmount/docs/access.md"

#: The columns: what follows `artifactmount policy`. Each acts on `animals`.
GRANTS = (
    "reader",
    "writer",
    "admin",
    "reader --artifact animals",
    "admin --artifact animals",
    "admin --artifact plants",
)

#: The rows, in the order in which they are run. FILES is a folder that changes before each.
COMMANDS = (
    "init",
    "show",
    "ls",
    "ls animals",
    "log animals",
    "diff animals:v0 animals:v1",
    "du animals",
    "show animals",
    "download animals:v0 DIR",
    "verify animals",
    "snapshot FILES animals",
    "snapshot FILES new",
    "alias animals:latest best",
    "delete animals:v0 --yes",
    "expire animals --keep-last 1 --yes",
    "gc animals",
)
#: The rows over an encrypted project. URI is a file that may be referenced, ANOTHER a key that opens the project, too.
ENCRYPTED = (
    "download animals:v0 DIR",
    "snapshot FILES animals",
    "add-reference animals URI --name added",
    "verify animals --references",
    "vendor animals",
    "key list",
    "key add --key-file NEW",
    "key remove ANOTHER",
)
#: A mount is mounted, listed and read with these; the others have all that a reader has.
IN_A_MOUNT = ("reader", "reader --artifact animals", "reader --artifact plants")


@pytest.fixture(scope="module", autouse=True)
def _one_client_each() -> Iterator[None]:
    """Of hundreds of commands in one process, those of one user share a client, which takes longer to make than most commands to run; and
    the AWS library reads its descriptions of S3 once, 0.2 s."""
    loader, connect, clients = create_loader(), S3Store._connect, dict[tuple[str, str, int], Any]()

    def connect_once(store: S3Store, attempts: int) -> Any:
        who = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_ENDPOINT_URL"], attempts
        if who not in clients:
            clients[who] = connect(store, attempts)
        return clients[who]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", lambda _: loader)
        patch.setattr(S3Store, "_connect", connect_once)
        patch.setattr(S3Store, "close", lambda _: None)
        patch.setattr("artifactmount.verify._ENTRIES", 8)  # asked for beyond the end: 64 questions for each log of five entries
        yield
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One server for all of this module."""
    with cloud(tmp_path_factory.mktemp("cloud")) as made:
        yield made


def project_of(judge: Cloud, home: Path, *, versioned: bool = False, encrypted: bool = False) -> Program:
    """The owner of a new project with animals:v0, v1 and plants:v0 below a prefix, beside which another team has its own."""
    template = encrypted_template_of(judge) if encrypted else template_of(judge)
    bucket, client = judge.server.make_bucket(versioned=versioned), judge.server.client
    for item in client.list_objects_v2(Bucket=bucket_of(template))["Contents"]:
        client.copy_object(Bucket=bucket, Key=item["Key"], CopySource={"Bucket": bucket_of(template), "Key": item["Key"]})
    owner = quick(home, bucket, judge.owner)
    owner.environment |= {name: value for name, value in template.environment.items() if name == "ARTIFACTMOUNT_KEY_FILE"}
    return owner


@functools.cache
def template_of(judge: Cloud) -> Program:
    """What `project_of` copies."""
    home, bucket = judge.certificates.authority.parent, judge.server.make_bucket()
    judge.server.client.put_object(Bucket=bucket, Key="some/prefix-of-others/secret", Body=b"theirs")
    owner = quick(home, bucket, judge.owner)
    owner.run("init")
    files = files_of(home)
    for artifact in ("animals", "animals", "plants"):
        change(files)
        owner.run("snapshot", files, artifact)
    return owner


@functools.cache
def encrypted_template_of(judge: Cloud) -> Program:
    """An encrypted one: animals:v1 has a reference, and two keys open it."""
    home, bucket = judge.certificates.authority.parent / "encrypted", judge.server.make_bucket()
    owner, key = quick(home, bucket, judge.owner), str(home / "owner.key")
    owner.run("init", "--encrypt", "--key-file", key)
    owner.environment["ARTIFACTMOUNT_KEY_FILE"] = key
    owner.run("key", "add", "--key-file", home / "another.key", "--label", "another")
    change(files_of(home))
    owner.run("snapshot", files_of(home), "animals")
    allow_files(owner)
    owner.run("add-reference", "animals", (files_of(home) / "0").as_uri(), "--name", "referenced")
    owner.run("snapshot", files_of(home), "plants")
    return owner


def allow_files(user: Program) -> None:
    """Let a user's config file name all files: whose credentials open a source is not what the project's policy says."""
    config = Path(user.environment["XDG_CONFIG_HOME"]) / "artifactmount/config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(0o600)
    config.write_text('[references]\nallow = ["file://"]\n')


def quick(home: Path, bucket: str, user: dict[str, str]) -> Program:
    """The program of a user, which stays in this process."""
    program = Program(home, f"s3://{bucket}/some/prefix", user)
    program.quick = True
    return program


def files_of(home: Path) -> Path:
    files = home / "files"
    files.mkdir(parents=True, exist_ok=True)
    return files


def change(files: Path) -> None:
    """What the next snapshot has to upload."""
    number = len(list(files.iterdir()))
    (files / f"{number}").write_bytes(b"%d" % number * 1000)


def user_of(judge: Cloud, owner: Program, grant: str, home: Path) -> Program:
    """Another machine, with what the policy of a grant allows and nothing else."""
    return quick(home, bucket_of(owner), judge.new_user(owner.run("policy", *grant.split()).json))


def holds(judge: Cloud, owner: Program) -> list[tuple[str, str]]:
    """Every key of the bucket with its entity tag."""
    page = judge.server.client.list_objects_v2(Bucket=bucket_of(owner))
    return [(item["Key"], item["ETag"]) for item in page["Contents"]]


def data_of(judge: Cloud, owner: Program) -> set[str]:
    """The packs of animals."""
    return {key for key, _ in holds(judge, owner) if "/animals/data/" in key}


def bucket_of(owner: Program) -> str:
    return owner.project.split("/")[2]


def answer(judge: Cloud, owner: Program, user: Program, command: str) -> str:
    """What becomes of a command. Denied is one line, exit code 5, and nothing written."""
    files = files_of(user.home)
    change(files)
    words: dict[str, Any] = {"FILES": files, "DIR": user.home / "down", "URI": (files / "0").as_uri(), "NEW": user.home / "new.key"}
    if "ANOTHER" in command:
        words["ANOTHER"] = next(item["id"] for item in owner.run("key", "list", "--json").json if item["label"] == "another")
    arguments = [words.get(word, word) for word in command.split()]
    before = holds(judge, owner)
    ran = user.inside(*arguments)
    if ran.code == 0:
        assert "denied" not in ran.err.lower(), f"{command}: {ran.err}"
        return "allowed"
    assert ran.code == 5, f"{command}: exit code {ran.code}: {ran.err}"
    assert ran.err.startswith("artifactmount: ") and ran.err.count("\n") == 1, ran.err
    assert "denied (AccessDenied)" in ran.err or "AccessDenied" in ran.err, ran.err
    assert holds(judge, owner) == before, command
    return "denied"


def table(what: str, grants: tuple[str, ...], rows: dict[str, list[str]]) -> str:
    """As the document has it."""
    lines = [f"| {what} |" + "".join(f" `{grant}` |" for grant in grants), "|---|" + "---|" * len(grants)]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


@pytest.mark.timeout(400)  # a hundred commands
def test_each_role_may_run_what_the_document_says(judge: Cloud, tmp_path: Path) -> None:
    rows: dict[str, list[str]] = {f"`{command}`": [] for command in COMMANDS}
    for number, grant in enumerate(GRANTS):
        owner = project_of(judge, tmp_path / f"owner{number}")
        user = user_of(judge, owner, grant, tmp_path / f"user{number}")
        for command in COMMANDS:
            rows[f"`{command}`"].append(answer(judge, owner, user, command))
    made = table("command", GRANTS, rows)
    assert made in DOCUMENT.read_text(), f"the table is now:\n{made}"


def test_each_role_may_run_over_an_encrypted_project_what_the_document_says(judge: Cloud, tmp_path: Path) -> None:
    rows: dict[str, list[str]] = {f"`{command}`": [] for command in ENCRYPTED}
    for number, grant in enumerate(GRANTS):
        owner = project_of(judge, tmp_path / f"owner{number}", encrypted=True)
        user = user_of(judge, owner, grant, tmp_path / f"user{number}")
        user.environment["ARTIFACTMOUNT_KEY_FILE"] = owner.environment["ARTIFACTMOUNT_KEY_FILE"]
        allow_files(user)
        for command in ENCRYPTED:
            rows[f"`{command}`"].append(answer(judge, owner, user, command))
    made = table("encrypted", GRANTS, rows)
    assert made in DOCUMENT.read_text(), f"the table is now:\n{made}"


@pytest.mark.needs_fuse
def test_each_role_sees_in_a_mount_what_the_document_says(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    listed, read = list[str](), list[str]()
    for number, grant in enumerate(IN_A_MOUNT):
        user = user_of(judge, owner, grant, tmp_path / f"{number}")
        project = Project(tmp_path / f"{number}", owner.project, {k: v for k, v in user.environment.items() if k.startswith("AWS_")})
        with mounted(project) as mount:
            listed.append(looked_at(mount.path))
            read.append(looked_at(mount / "animals/v0", mount / "animals/v0/0"))
            if number == 0:
                judge.withdraw(user.environment)
                assert looked_at(mount / "animals") == "denied"  # which always asks for news
                assert (mount / "animals/v0/0").read_bytes()  # what is cached was read before
                with pytest.raises(PermissionError):
                    (mount / "plants/v0/2").read_bytes()
    made = table("in a mount", IN_A_MOUNT, {"`ls MOUNTPOINT`": listed, "`cat MOUNTPOINT/animals/v0/…`": read})
    assert made in DOCUMENT.read_text(), f"the table is now:\n{made}"


def looked_at(folder: Path, file: Path | None = None) -> str:
    """Denied is EACCES."""
    try:
        assert os.listdir(folder)
        assert file is None or file.read_bytes()
    except PermissionError as error:
        return "denied" if error.errno == errno.EACCES else str(error)
    return "allowed"


# -- behind the back of the program ------------------------------------------------------------------------------------------------------
def refused(call: Any, **arguments: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] in ("AccessDenied", "403"), caught.value


def test_a_writer_can_neither_delete_nor_replace_whatever_program_is_used(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    bucket, before = bucket_of(owner), holds(judge, owner)
    s3 = judge.s3(user_of(judge, owner, "writer", tmp_path / "user").environment)
    for key, _ in before:
        refused(s3.delete_object, Bucket=bucket, Key=key)
        refused(s3.put_object, Bucket=bucket, Key=key, Body=b"mine")
        assert s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})["Errors"][0]["Code"] == "AccessDenied"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="some/prefix/project.json", Body=b"mine", IfNoneMatch="*")
    refused(s3.create_multipart_upload, Bucket=bucket, Key="some/prefix/project.json")
    refused(s3.put_object, Bucket=bucket, Key="some/prefix-of-others/new", Body=b"", IfNoneMatch="*")
    s3.close()
    assert holds(judge, owner) == before


def test_an_admin_deletes_content_and_never_the_log(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    bucket, before = bucket_of(owner), holds(judge, owner)
    s3 = judge.s3(user_of(judge, owner, "admin", tmp_path / "user").environment)
    kept = [key for key, _ in before if "/data/" not in key]
    assert len(kept) < len(before)
    for key in kept:
        refused(s3.delete_object, Bucket=bucket, Key=key)
        refused(s3.delete_object, Bucket=bucket, Key=key, VersionId="null")
    for key in {key for key, _ in before} - set(kept):
        s3.delete_object(Bucket=bucket, Key=key)
    s3.close()
    assert [key for key, _ in holds(judge, owner)] == kept


@pytest.mark.parametrize("role", ["reader", "writer", "admin"])
def test_a_grant_for_one_artifact_opens_no_other(judge: Cloud, tmp_path: Path, role: str) -> None:
    owner = project_of(judge, tmp_path / "owner")
    bucket = bucket_of(owner)
    s3 = judge.s3(user_of(judge, owner, f"{role} --artifact plants", tmp_path / "user").environment)
    for prefix in ("", "some/prefix/", "some/prefix/artifacts/", "some/prefix/artifacts/animals/", "some/prefix-of-others/"):
        refused(s3.list_objects_v2, Bucket=bucket, Prefix=prefix)
    refused(s3.list_objects_v2, Bucket=bucket)
    for key, _ in holds(judge, owner):
        if "/plants/" in key or key.endswith("/project.json"):
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        else:
            refused(s3.get_object, Bucket=bucket, Key=key)
            refused(s3.head_object, Bucket=bucket, Key=key)
            refused(s3.delete_object, Bucket=bucket, Key=key)
            refused(s3.put_object, Bucket=bucket, Key=key + "0", Body=b"", IfNoneMatch="*")
    s3.close()


def test_no_grant_holds_without_tls(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    s3 = judge.s3(user_of(judge, owner, "admin", tmp_path / "user").environment, tls=False)
    refused(s3.get_object, Bucket=bucket_of(owner), Key="some/prefix/project.json")
    refused(s3.list_objects_v2, Bucket=bucket_of(owner), Prefix="some/prefix/")
    s3.close()


@pytest.mark.parametrize("grant", ["admin", "admin --artifact animals"])
def test_an_admin_leaves_no_old_version_in_a_bucket_that_keeps_them(judge: Cloud, tmp_path: Path, grant: str) -> None:
    owner = project_of(judge, tmp_path / "owner", versioned=True)
    user_of(judge, owner, grant, tmp_path / "admin").run("delete", "animals", "--all", "--yes")
    left = [key for key in judge.server.versions(bucket_of(owner)) if "/animals/" in key]
    assert left and not [key for key in left if "/data/" in key]


def test_doctor_changes_nothing_and_tells_a_reader_from_who_may_do_nothing(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    before = holds(judge, owner)

    def checks(grant: str) -> dict[str, tuple[str, str]]:
        ran = user_of(judge, owner, grant, tmp_path / grant).inside("doctor", "--json")
        return {finding["check"]: (finding["state"], finding["found"]) for finding in ran.json}

    reader, writer = checks("reader"), checks("writer")
    assert reader["create"][0] == writer["create"][0] == "ok"
    assert "may read and not write" in reader["create"][1] and "refuses to overwrite" in writer["create"][1]
    of_another = json.loads(owner.run("policy", "reader").out.replace(bucket_of(owner), "another-bucket"))
    stranger = quick(tmp_path / "stranger", bucket_of(owner), judge.new_user(of_another))
    ran = stranger.inside("doctor", "--json")
    assert ran.code == 1 and ("credentials", "problem") in {(finding["check"], finding["state"]) for finding in ran.json}
    assert holds(judge, owner) == before


def test_a_writer_leaves_the_trash_for_an_admin(judge: Cloud, tmp_path: Path) -> None:
    owner = project_of(judge, tmp_path / "owner")
    bucket, client = bucket_of(owner), judge.server.client
    page = client.list_objects_v2(Bucket=bucket, Prefix="some/prefix/artifacts/animals/data/")["Contents"]
    packs = {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in page}
    owner.run("delete", "animals:v0", "--yes")
    purge = client.list_objects_v2(Bucket=bucket, Prefix="some/prefix/artifacts/animals/log/")["Contents"][-1]["Key"]
    gone = set(packs) - {key for key, _ in holds(judge, owner)}
    client.delete_object(Bucket=bucket, Key=purge)  # as if the deleting process had been killed before it took the packs away
    for key in gone:
        client.put_object(Bucket=bucket, Key=key, Body=packs[key])
    writer = user_of(judge, owner, "writer", tmp_path / "writer")
    change(files_of(writer.home))
    assert writer.run("snapshot", files_of(writer.home), "animals").err == ""
    assert gone and gone <= {key for key, _ in holds(judge, owner)}
    admin = user_of(judge, owner, "admin", tmp_path / "admin")
    admin.run("alias", "animals:v1", "best")
    admin.run("gc", "animals")
    assert not gone & {key for key, _ in holds(judge, owner)}


def test_a_server_that_judges_as_ceph_16_does_comes_to_the_same(tmp_path: Path) -> None:
    """Of a key that is not there it says 403 to whom may list below a prefix only; and it lets nobody delete in batches."""
    with cloud(tmp_path, "--old") as judge:
        owner = project_of(judge, tmp_path / "owner")
        assert answer(judge, owner, user_of(judge, owner, "reader", tmp_path / "reader"), "download animals:v0 DIR") == "allowed"
        writer = user_of(judge, owner, "writer --artifact animals", tmp_path / "writer")
        assert answer(judge, owner, writer, "snapshot FILES animals") == "allowed"
        assert answer(judge, owner, writer, "ls plants") == "denied"
        assert answer(judge, owner, writer, "delete animals:v0 --yes") == "denied"
        admin = user_of(judge, owner, "admin --artifact animals", tmp_path / "admin")
        before = data_of(judge, owner)
        assert answer(judge, owner, admin, "delete animals:v0 --yes") == "allowed"
        assert before - data_of(judge, owner)
