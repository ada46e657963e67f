"""An S3 server that lets nobody do what no policy allows, over TLS, and its owner, who makes users.

with cloud(tmp_path) as made:
    reader = made.new_user(policy)  # variables for a process
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.store.certificates import Certificates, make_certificates
from tests.store.servers import Server, s3_server

#: The first requests are not judged: a user, the key, and the policy that lets its owner do everything.
_UNJUDGED = "3"
_EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Cloud:
    """A running server that judges. `server.client` is the owner's."""

    def __init__(self, server: Server, certificates: Certificates) -> None:
        self.server, self.certificates = server, certificates
        self._names: dict[str, str] = {}  # access key -> user
        self._iam = self._client("iam", "nobody", "nothing")
        self.owner = self.new_user(_EVERYTHING)
        keys = self.owner["AWS_ACCESS_KEY_ID"], self.owner["AWS_SECRET_ACCESS_KEY"]
        self._iam.close()
        self._iam = self._client("iam", *keys)
        server.client.close()
        server.client = self._client("s3", *keys)

    def _client(self, service: str, key: str, secret: str) -> Any:
        return boto3.session.Session(key, secret, region_name="us-east-1").client(service, endpoint_url=self.server.endpoint)  # type: ignore[call-overload]

    def new_user(self, policy: dict[str, Any]) -> dict[str, str]:
        """A user with this policy and no other: the variables that make a process his."""
        name = f"user{len(self._names)}"
        self._iam.create_user(UserName=name)
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        self._names[key["AccessKeyId"]] = name
        self._iam.put_user_policy(UserName=name, PolicyName="project", PolicyDocument=json.dumps(policy))
        return self.server.environment(self.server.tls_endpoint) | {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_CA_BUNDLE": str(self.certificates.authority),
        }

    def withdraw(self, user: dict[str, str]) -> None:
        """Take a user's policy away."""
        self._iam.delete_user_policy(UserName=self._names[user["AWS_ACCESS_KEY_ID"]], PolicyName="project")

    def s3(self, user: dict[str, str], *, tls: bool = True) -> Any:
        """The AWS library's own client of a user. Whoever takes it closes it."""
        session = boto3.session.Session(user["AWS_ACCESS_KEY_ID"], user["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
        endpoint = self.server.tls_endpoint if tls else self.server.endpoint
        # Over TLS the library would send checksums behind bodies in chunks, which the server's front does not read.
        config = Config(request_checksum_calculation="when_required", retries={"total_max_attempts": 1})
        return session.client("s3", endpoint_url=endpoint, verify=str(self.certificates.authority), config=config)

    def close(self) -> None:
        """Let go of connections."""
        self._iam.close()


@contextmanager
def cloud(folder: Path, *arguments: str) -> Iterator[Cloud]:
    """Start one; certificates are made in `folder`. `arguments`: see iam.py."""
    certificates = make_certificates(folder)
    tls = ("--tls", certificates.certificate, certificates.key)
    with s3_server("--iam", *arguments, *tls, environment={"INITIAL_NO_AUTH_ACTION_COUNT": _UNJUDGED}) as server:
        made = Cloud(server, certificates)
        try:
            yield made
        finally:
            made.close()
