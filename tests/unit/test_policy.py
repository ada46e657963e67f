"""The policies that are printed: they hold together, grow from role to role, and name what is stored, no more. Under a server:
tests/cli/test_access.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from artifactmount.artifact import Artifact
from artifactmount.document import PROJECT_KEY
from artifactmount.keys import PREFIX as KEYS_PREFIX
from artifactmount.policy import Role, make_policy
from artifactmount.ranges import PackId
from tests.store.iam import allowed

TLS = {"aws:SecureTransport": "true"}
CREATING = TLS | {"s3:if-none-match": "*"}


def may(policy: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> bool:
    return allowed(policy["Statement"], action, resource, context)


def keys_of(name: str) -> list[str]:
    """One of each kind that an artifact has."""
    artifact = Artifact("project", name)
    return [artifact.log_key(0), artifact.checkpoint_key(63), artifact.pack_key(PackId(5, 7))]


@pytest.mark.parametrize("prefix", ["", "vision/", "a/b/"])
@pytest.mark.parametrize("artifact", [None, "animals"])
@pytest.mark.parametrize("role", Role)
def test_every_key_that_is_written_is_named(role: Role, prefix: str, artifact: str | None) -> None:
    policy = make_policy(role, "bucket", prefix, artifact=artifact)
    for name, own in (("animals", True), ("plants", artifact is None), ("animals2", artifact is None)):
        for key in keys_of(name):
            where = f"arn:aws:s3:::bucket/{prefix}{key}"
            assert may(policy, "s3:GetObject", where, TLS) == own
            assert may(policy, "s3:PutObject", where, CREATING) == (own and role is not Role.READER)
            assert not may(policy, "s3:PutObject", where, TLS)  # that would replace
            assert may(policy, "s3:DeleteObject", where, TLS) == (own and role is Role.ADMIN and "/log/" not in key)
            assert not may(policy, "s3:GetObject", where, {"aws:SecureTransport": "false"})
    document = f"arn:aws:s3:::bucket/{prefix}{PROJECT_KEY}"
    assert may(policy, "s3:GetObject", document, TLS)
    assert may(policy, "s3:PutObject", document, CREATING) == (role is not Role.READER)  # that it is refused is how a store is tried
    assert not may(policy, "s3:DeleteObject", document, TLS)
    slot = f"arn:aws:s3:::bucket/{prefix}{KEYS_PREFIX}0123456789abcdef"
    assert may(policy, "s3:GetObject", slot, TLS)
    for action, context in (("s3:PutObject", CREATING), ("s3:DeleteObject", TLS)):  # else a writer could keep others out
        assert may(policy, action, slot, context) == (role is Role.ADMIN and artifact is None)
    assert not may(policy, "s3:PutObject", f"arn:aws:s3:::bucket/{prefix}strange", CREATING)
    for foreign in ("other/project.json", f"{prefix[:-1]}-others/key"):
        assert may(policy, "s3:GetObject", f"arn:aws:s3:::bucket/{foreign}", TLS) == (prefix == "" and artifact is None)
    assert not may(policy, "s3:GetObject", f"arn:aws:s3:::bucket2/{prefix}{PROJECT_KEY}", TLS)


@pytest.mark.parametrize("artifact", [None, "animals"])
def test_listing_stays_below_the_prefix(artifact: str | None) -> None:
    policy = make_policy(Role.READER, "bucket", "vision/", artifact=artifact)
    for prefix, own in {
        "vision/artifacts/animals/data/5/": True,
        "vision/artifacts/animals/log/0": True,
        "vision/artifacts/": artifact is None,
        "vision/": artifact is None,
        "vision": False,
        "": False,
    }.items():
        assert may(policy, "s3:ListBucket", "arn:aws:s3:::bucket", TLS | {"s3:prefix": prefix}) == own, prefix
    assert not may(policy, "s3:ListBucket", "arn:aws:s3:::bucket", TLS)


@pytest.mark.parametrize("prefix", ["what?/", "a*b/", "${aws:username}/"])
def test_a_prefix_is_no_pattern(prefix: str) -> None:
    policy = make_policy(Role.READER, "bucket", prefix)
    assert may(policy, "s3:GetObject", f"arn:aws:s3:::bucket/{prefix}{PROJECT_KEY}", TLS)
    assert may(policy, "s3:ListBucket", "arn:aws:s3:::bucket", TLS | {"s3:prefix": prefix})
    for other in ("whatX/", "aXb/", "me/"):
        assert not may(policy, "s3:GetObject", f"arn:aws:s3:::bucket/{other}{PROJECT_KEY}", TLS)
    assert "${aws:" not in json.dumps(policy)


def test_a_higher_role_may_do_all_that_a_lower_one_may() -> None:
    def allows(role: Role) -> set[tuple[str, str]]:
        policy = make_policy(role, "b", "p/", kms_key="k")
        return {
            (action, json.dumps([resource, s.get("Condition")]))
            for s in policy["Statement"]
            if s["Effect"] == "Allow"
            for action in s["Action"]
            for resource in s["Resource"]
        }

    assert allows(Role.READER) < allows(Role.WRITER) < allows(Role.ADMIN)


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        ("arn:aws:kms:eu-west-1:1:key/k", "arn:aws:kms:eu-west-1:1:key/k"),
        ("1234-abcd", "arn:aws-cn:kms:*:*:key/1234-abcd"),
        ("alias/mine", "arn:aws-cn:kms:*:*:key/*"),
        ("arn:aws:kms:eu-west-1:1:alias/mine", "arn:aws-cn:kms:*:*:key/*"),
    ],
)
def test_a_key_is_for_what_the_bucket_does_with_it(key: str, resource: str) -> None:
    reader, writer = (make_policy(role, "b", "", partition="aws-cn", kms_key=key) for role in (Role.READER, Role.WRITER))
    of_reader, of_writer = (next(s for s in policy["Statement"] if s["Sid"] == "UseKey") for policy in (reader, writer))
    assert of_reader["Action"] == ["kms:Decrypt"] and of_writer["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert of_reader["Resource"] == [resource]
    assert "kms:ViaService" in of_reader["Condition"]["StringLike"]
    assert of_reader["Condition"].get("ForAnyValue:StringEquals") == ({"kms:ResourceAliases": "alias/mine"} if "alias" in key else None)
    assert reader["Statement"][0]["Resource"] == ["arn:aws-cn:s3:::b/*"]
