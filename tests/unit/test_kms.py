"""Whom KMS is spoken to through: what goes there is the secret of a key slot. With keys: tests/cli/test_encryption.py."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from artifactmount import kms
from artifactmount.errors import LockedError, UsageError

_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_AWS = "https://kms.eu-west-1.amazonaws.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Without a word of AWS in it, but for a profile in a file that is not there."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "ARTIFACTMOUNT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return monkeypatch


def endpoint(key_id: str = _ARN) -> str:
    client = kms.connect(key_id)
    try:
        return str(client.meta.endpoint_url)
    finally:
        client.close()


def test_the_bucket_s_provider_is_not_sent_secrets(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An endpoint for every service is that of the provider from whom the project is encrypted."""
    environment.setenv("AWS_ENDPOINT_URL", "http://192.0.2.2")
    assert endpoint() == _AWS
    (tmp_path / "config").write_text("[default]\nendpoint_url = https://provider.example\n")
    assert endpoint() == _AWS


def test_an_endpoint_for_kms_is_taken(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nservices = mine\n[services mine]\nkms =\n  endpoint_url = https://kms.example\n")
    environment.setenv("AWS_ENDPOINT_URL", "https://provider.example")
    assert endpoint() == "https://kms.example"
    environment.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    assert endpoint() == "http://127.0.0.1:9"


@pytest.mark.parametrize(("at", "said"), [("http://192.0.2.2", "is not https"), ("nonsense", "cannot use KMS")])
def test_nothing_goes_to_kms_over_plain_http(environment: pytest.MonkeyPatch, at: str, said: str) -> None:
    environment.setenv("AWS_ENDPOINT_URL_KMS", at)
    with pytest.raises(UsageError, match=said):
        kms.encrypt(_ARN, bytes(32), "0" * 32)


def test_kms_is_not_waited_for_long() -> None:
    """A store may name 64 keys, in regions of its choice."""
    client = kms.connect(_ARN)
    config = client.meta.config
    client.close()
    assert config.connect_timeout + config.read_timeout <= 15 and config.retries["total_max_attempts"] <= 2


@contextmanager
def kms_that_answers(fields: dict[str, str]) -> Iterator[str]:
    """The endpoint of a KMS that answers everything alike."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(fields).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """See BaseHTTPRequestHandler."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_key_that_was_used_is_the_one_that_was_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "tester")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    environment.setenv("NO_PROXY", "127.0.0.1")
    with kms_that_answers({"KeyId": _ARN, "Plaintext": base64.b64encode(bytes(32)).decode()}) as at:
        environment.setenv("AWS_ENDPOINT_URL_KMS", at)
        assert kms.decrypt(_ARN, b"c", "0" * 32) == bytes(32)
        with pytest.raises(LockedError, match="KMS used the key"):
            kms.decrypt(_ARN.replace("111122223333", "666666666666"), b"c", "0" * 32)
