"""What an S3 store promises beyond the contract, over real HTTP: versions, errors by their meaning, lost answers, broken bodies."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from artifactmount.acts import Act, Open
from artifactmount.artifact import Appended, Artifact, Make, Writer, append, head
from artifactmount.errors import (
    ArtifactError,
    DeniedError,
    KeyMissingError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    StoreError,
    UnreachableError,
    UsageError,
)
from artifactmount.state import State
from artifactmount.steps import Steps, drive
from artifactmount.store import Store
from artifactmount.store.memory import MemoryStore
from artifactmount.store.s3 import S3Store
from tests.store import servers
from tests.store.certificates import make_certificates
from tests.store.faults import ALWAYS, Fault, LosesAnswers, Proxy, Rule, proxy
from tests.store.servers import Server, every_call

ARTIFACT = Artifact("project", "animals")
WRITER = Writer("me", "test")
LOG = "/log/"
ANYWHERE = "0.0.0.0"  # noqa: S104 - no loopback address by its number, but to connect to it leads to this machine


def opening(salt: bytes = b"s" * 16) -> Make:
    """Opens a session, whatever the state: two that took effect would be two entries."""

    def make(_: State) -> Steps[Act | None]:
        yield from ()
        return Open(salt)

    return make


def commit(store: Store) -> Appended:
    return drive(store, append(ARTIFACT, ARTIFACT.empty(), opening(), WRITER))


def length_of_log(store: Store) -> int:
    return drive(store, head(ARTIFACT)).seq + 1


# The server under these tests


def test_the_server_ends_with_its_parent() -> None:
    """Also when the parent is killed: a test run that dies leaves nothing behind."""
    program = (
        "import os, signal\nfrom tests.store.servers import s3_server\n"
        "with s3_server() as server:\n    print(server.endpoint, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().rpartition(":")[2])
        parent.wait()
    with socket.socket() as watched:
        watched.settimeout(20)
        try:
            watched.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return  # gone already
        with contextlib.suppress(ConnectionResetError):
            assert watched.recv(1) == b""  # the kernel closes it when the server ends


# Deleting


@pytest.mark.moto_only("use a versioned bucket, where Ceph 16 ignores If-None-Match")
def test_delete_on_a_versioned_bucket_takes_every_version(s3_environment: Server) -> None:
    bucket = s3_environment.make_bucket(versioned=True)
    store = S3Store(bucket, "p")
    for value in (b"1", b"2", b"3"):
        assert store.create("a/b", value)
        s3_environment.client.delete_object(Bucket=bucket, Key="p/a/b")  # leaves a marker in front of the version
    store.create("a/b", b"4")
    store.create("a/bb", b"stays")
    store.create("a/c", b"goes")
    store.delete(["a/b", "a/c", "not/there"])
    assert s3_environment.versions(bucket) == ["p/a/bb"]
    assert store.get("a/bb") == b"stays"
    store.close()


def test_what_could_not_be_deleted_is_an_error(s3_environment: Server) -> None:
    bucket = s3_environment.make_bucket()
    store = S3Store(bucket, "p")
    for key in ("a", "b", "c"):
        store.create(key, b"")
    forbidden = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/p/b"}
    s3_environment.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [forbidden]}))
    with pytest.raises(DeniedError, match=r"1 keys were not deleted, first p/b: AccessDenied"):
        store.delete(["a", "b", "c"])
    assert s3_environment.keys(bucket) == ["p/b"]
    store.close()


def test_a_busy_server_does_not_hide_that_a_bucket_keeps_versions(s3_environment: Server, s3_proxy: Proxy) -> None:
    bucket = s3_environment.make_bucket(versioned=True)
    store = S3Store(bucket, "p")
    store.create("a", b"")
    busy = s3_proxy.add(Rule(Fault.BUSY, "GET", "versioning", times=4))  # as often as the library asks
    with pytest.raises(StoreError):
        store.delete(["a"])
    assert busy.hurt == 4
    store.delete(["a"])
    assert s3_environment.versions(bucket) == []
    store.close()


# Errors by their meaning


def test_a_missing_bucket_says_so(s3_environment: Server) -> None:
    store = S3Store("no-such-bucket", "p")
    for call in every_call(store):
        with pytest.raises(NotFoundError, match="no bucket no-such-bucket; make it first"):
            call()
    store.close()


def test_a_closed_port_is_unreachable(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # taken, so nobody else listens there; and not listening
        for name, value in s3_environment.environment(f"http://127.0.0.1:{holder.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        store = S3Store("bucket")
        with pytest.raises(UnreachableError, match="cannot reach s3://bucket"):
            store.create("a", b"")
        store.close()


def test_no_credentials_are_said_to_be_missing(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store(s3_environment.make_bucket())
    with pytest.raises(UnreachableError, match="credentials"):
        store.get("a")
    with pytest.raises(NotSentError):
        store.create("a", b"")
    store.close()


@pytest.mark.moto_only("start a moto that looks at keys; test_ceph.py asks Ceph itself")
def test_wrong_credentials_are_denied(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # The one request that is not looked at makes the bucket.
    with servers.s3_server(environment={"INITIAL_NO_AUTH_ACTION_COUNT": "1"}) as strict:
        bucket = strict.make_bucket()
        for name, value in strict.environment().items():
            monkeypatch.setenv(name, value)
        store = S3Store(bucket)
        for call in every_call(store):
            with pytest.raises(DeniedError, match=r"InvalidAccessKeyId"):
                call()
        store.close()


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1:9000", "[2001:db8::1]", "localhost.example.org", ANYWHERE])
def test_plain_http_to_another_machine_is_refused(s3_environment: Server, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for name, value in s3_environment.environment(f"http://{host}").items():
        monkeypatch.setenv(name, value)
    store = S3Store("bucket")
    for call in (lambda: store.get("a"), lambda: store.create("a", b"secret")):
        with pytest.raises(UsageError, match="not https"):
            call()
    store.close()


def test_plain_http_goes_where_the_user_says_so(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment.environment(s3_environment.endpoint.replace("127.0.0.1", ANYWHERE)).items():
        monkeypatch.setenv(name, value)
    bucket = s3_environment.make_bucket()
    monkeypatch.setenv("ARTIFACTMOUNT_ALLOW_HTTP", "0")
    refusing = S3Store(bucket)
    with pytest.raises(UsageError):
        refusing.create("a", b"")
    monkeypatch.setenv("ARTIFACTMOUNT_ALLOW_HTTP", "1")
    store = S3Store(bucket)
    assert store.create("a", b"")
    store.close()


def test_an_unknown_profile_is_a_usage_error(s3_environment: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        S3Store("bucket").get("a")


# Broken answers


@pytest.mark.parametrize(("start", "stop"), [(0, None), (10, 5000)])
def test_a_body_cut_short_is_asked_for_again(s3_proxy: Proxy, proxied_store: S3Store, start: int, stop: int | None) -> None:
    value = bytes(range(256)) * 100
    proxied_store.create("a", value)
    cut = s3_proxy.add(Rule(Fault.CUT_BODY, "GET", "/a", times=2))
    assert proxied_store.get("a", start, stop) == value[start:stop]
    assert cut.hurt == 2


@pytest.mark.parametrize("fault", [Fault.CUT_BODY, Fault.NO_LENGTH])
@pytest.mark.parametrize(("start", "stop"), [(0, None), (10, 5000)])
def test_a_body_cut_short_is_never_a_result(s3_proxy: Proxy, proxied_store: S3Store, fault: Fault, start: int, stop: int | None) -> None:
    proxied_store.create("a", bytes(range(256)) * 100)
    s3_proxy.add(Rule(fault, "GET", "/a"))
    with pytest.raises(StoreError) as caught:
        proxied_store.get("a", start, stop)
    assert not isinstance(caught.value, NotSentError | KeyMissingError)


def test_a_listing_cut_short_is_an_error(s3_environment: Server, s3_proxy: Proxy, proxied_store: S3Store) -> None:
    for i in range(5):
        proxied_store.create(f"a/{i}", b"")
    s3_proxy.add(Rule(Fault.CUT_BODY, "GET", "list-type"))
    s3_proxy.add(Rule(Fault.CUT_BODY, "POST", "delete"))
    for call in (
        lambda: proxied_store.list_keys("a/"),
        lambda: proxied_store.list_prefixes(""),
        lambda: proxied_store.delete(["a/1"]),
    ):
        with pytest.raises(StoreError):
            call()


@pytest.mark.moto_only("take a signed header out on the way, which Ceph notices")
def test_a_server_that_ignores_ranges_is_fine(s3_proxy: Proxy, proxied_store: S3Store) -> None:
    s3_proxy.add(Rule(Fault.WITHOUT_HEADER, "GET", header="Range"))
    proxied_store.create("a", b"0123456789")
    assert proxied_store.get("a", 3, 5) == b"34"
    assert proxied_store.get("a", 3) == b"3456789"
    assert proxied_store.get("a", 20) == b""


@pytest.mark.parametrize("claimed", ["bytes 4-6/10", "bytes 3-5/4", "bytes 3-5/*", "nonsense", "bytes 0-9/10"])
def test_another_range_than_asked_for_is_not_believed(s3_proxy: Proxy, proxied_store: S3Store, claimed: str) -> None:
    s3_proxy.add(Rule(Fault.OTHER_RANGE, "GET", header=claimed))
    proxied_store.create("a", b"0123456789")
    with pytest.raises(StoreError, match="asked for bytes 3 to 6"):
        proxied_store.get("a", 3, 6)


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.LOSE_ANSWER])
def test_a_read_is_tried_again(s3_proxy: Proxy, proxied_store: S3Store, fault: Fault) -> None:
    proxied_store.create("a", b"bytes")
    rule = s3_proxy.add(Rule(fault, "GET", "/a", times=1))
    assert proxied_store.get("a") == b"bytes"
    assert rule.hurt == 1


# Lost answers of a create


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.LOSE_ANSWER])
def test_a_create_without_an_answer_is_sent_once_and_leaves_the_outcome_open(s3_proxy: Proxy, proxied_store: S3Store, fault: Fault) -> None:
    s3_proxy.add(Rule(fault, "PUT"))
    with pytest.raises(StoreError) as caught:
        proxied_store.create("a", b"bytes")
    assert not isinstance(caught.value, NotSentError)
    assert len(s3_proxy.requests) == 1


@pytest.mark.parametrize(("fault", "times"), [(Fault.BUSY, 1), (Fault.RESET, 2), (Fault.LOSE_ANSWER, 1), (Fault.LOSE_ANSWER, 2)])
def test_a_commit_takes_effect_once_when_answers_are_lost(s3_proxy: Proxy, proxied_store: S3Store, fault: Fault, times: int) -> None:
    rule = s3_proxy.add(Rule(fault, "PUT", LOG, times=times))
    done = commit(proxied_store)
    assert done.entry is not None and done.entry.seq == 0
    assert 1 <= rule.hurt <= times
    assert length_of_log(proxied_store) == 1


def test_a_commit_that_lost_its_slot_and_the_answer_takes_the_next(s3_proxy: Proxy, proxied_store: S3Store) -> None:
    drive(proxied_store, append(ARTIFACT, ARTIFACT.empty(), opening(b"o" * 16), Writer("other", "test")))
    s3_proxy.add(Rule(Fault.LOSE_ANSWER, "PUT", LOG, times=1))  # a refusal
    done = commit(proxied_store)
    assert done.entry is not None and done.entry.seq == 1
    assert length_of_log(proxied_store) == 2


def test_a_commit_whose_every_answer_is_lost_is_unknown_and_stands(s3_proxy: Proxy, proxied_store: S3Store) -> None:
    """Takes the 6 s for which a commit tries. Reads lose half of their body: the library tries lost connections again, with long pauses."""
    put = s3_proxy.add(Rule(Fault.LOSE_ANSWER, "PUT", LOG))
    read = s3_proxy.add(Rule(Fault.CUT_BODY, "GET", f"{LOG}0"))  # of entries: what is behind the end of the log can be listed
    with pytest.raises(OutcomeUnknownError, match=r"nothing was cleaned up.*artifactmount log animals") as caught:
        commit(proxied_store)
    assert caught.value.exit_code == 75
    assert put.hurt == 6 and read.hurt >= 6
    put.times = read.times = 0  # the network is back
    assert length_of_log(proxied_store) == 1


@pytest.mark.parametrize("creates", [1, 2, 3])
def test_a_commit_takes_effect_once_over_a_store_that_loses_answers(creates: int) -> None:
    inner = MemoryStore()
    done = commit(LosesAnswers(inner, creates=creates, reads=creates - 1))
    assert done.entry is not None and done.entry.seq == 0
    assert length_of_log(inner) == 1


def test_a_put_that_goes_nowhere_is_no_commit() -> None:
    """The other half of the promise: an error that is not OutcomeUnknownError means that nothing was committed."""

    class Denies(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            raise DeniedError("no")

    store = Denies()
    with pytest.raises(DeniedError):
        commit(store)
    assert length_of_log(store) == 0


# TLS


@pytest.mark.parametrize("trusted", [True, False])
def test_over_tls(s3_environment: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool) -> None:
    made_here = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made_here.certificate, made_here.key)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(made_here.authority))
    with proxy(s3_environment.endpoint, tls=context) as made:
        for name, value in s3_environment.environment(made.endpoint).items():
            monkeypatch.setenv(name, value)
        store = S3Store(s3_environment.make_bucket(), "p")
        if not trusted:
            with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
                store.create("a", b"")
            assert made.requests == []
        else:
            assert store.create("a", b"bytes")
            assert store.get("a", 1, 3) == b"yt"
            # An error of the TLS layer may come with the answer: then the server has done it.
            made.add(Rule(Fault.GARBLE, "PUT", times=ALWAYS))
            with pytest.raises(ArtifactError) as caught:
                store.create("b", b"bytes")
            assert isinstance(caught.value, StoreError) and not isinstance(caught.value, NotSentError)
            assert store.get("b") == b"bytes"
        store.close()
