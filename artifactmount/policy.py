"""IAM policies for the users of a project in a bucket: as little as each role's commands need, and nothing that lets them undo history.

Pure. Knows the layout of the store, and what the commands ask of it; tests/cli/test_access.py runs every command under every policy.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from artifactmount.document import PROJECT_KEY

_SPECIAL = re.compile(r"[*?$]")


class Role(StrEnum):
    """What somebody may do. Each role may do what those before it may."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


def make_policy(
    role: Role, bucket: str, prefix: str, *, artifact: str | None = None, partition: str = "aws", kms_key: str | None = None
) -> dict[str, Any]:
    """The policy of a role in the project below `prefix` ("" or ending with a slash), or in one artifact of it, as IAM takes it.

    `kms_key` is the key that the project's writers ask the bucket to encrypt with: its id, ARN, or alias.
    """
    arn, below = f"arn:{partition}:s3:::{bucket}", _literal(prefix)
    own = f"{below}artifacts/{artifact}/*" if artifact else f"{below}*"
    keys = [f"{arn}/{own}"] if artifact is None else [f"{arn}/{below}{PROJECT_KEY}", f"{arn}/{own}"]
    slots = f"{below}keys/*"  # what opens an encrypted project, for whoever may read anything of it
    statements = [_allow("Read", ["s3:GetObject"], keys if artifact is None else [*keys, f"{arn}/{slots}"])]
    listing = ["s3:ListBucket"] + (["s3:ListBucketVersions"] if role is Role.ADMIN else [])
    # Without a prefix the project is the whole bucket, and what it lists begins with anything.
    within = {"StringLike": {"s3:prefix": own if artifact is None else [own, slots]}} if own != "*" else None
    statements.append(_allow("List", listing, [arn], within))
    if role is not Role.READER:
        created = [f"{arn}/{below}{PROJECT_KEY}", f"{arn}/{below}artifacts/{artifact or '*'}/*"]
        # Who opens an encrypted project is not for writers to say: what they put among the slots could keep others out.
        created += [f"{arn}/{slots}"] if role is Role.ADMIN and artifact is None else []
        # Without the condition, a write could replace what is there: that would be a right to delete.
        statements.append(_allow("Create", ["s3:PutObject"], created, {"Null": {"s3:if-none-match": "false"}}))
    if role is Role.ADMIN:
        # The log and project.json are nobody's to delete: the history of a project stays whole. Checkpoints go with a whole artifact.
        content = [f"{arn}/{below}artifacts/{artifact or '*'}/{kind}/*" for kind in ("data", "state")]
        content += [] if artifact else [f"{arn}/{slots}"]
        statements.append(_allow("Delete", ["s3:DeleteObject", "s3:DeleteObjectVersion"], content))
        statements.append(_allow("AskOfTheBucket", ["s3:GetBucketVersioning", "s3:GetEncryptionConfiguration"], [arn]))
    if kms_key is not None:
        statements.append(_allow_key(role, partition, kms_key))
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    statements.append({"Sid": "OnlyTLS", "Effect": "Deny", "Action": "s3:*", "Resource": [arn, f"{arn}/*"], "Condition": insecure})
    return {"Version": "2012-10-17", "Statement": statements}


def _allow_key(role: Role, partition: str, key: str) -> dict[str, Any]:
    actions = ["kms:Decrypt"] + ([] if role is Role.READER else ["kms:GenerateDataKey"])
    condition: dict[str, Any] = {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com*"}}
    resource = key
    if "alias/" in key:  # the alias is no resource of its own: it may lead to another key tomorrow
        resource, alias = f"arn:{partition}:kms:*:*:key/*", key[key.index("alias/") :]
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": alias}
    elif not key.startswith("arn:"):
        resource = f"arn:{partition}:kms:*:*:key/{key}"
    return _allow("UseKey", actions, [resource], condition)


def _allow(sid: str, actions: list[str], resources: list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
    return statement | ({"Condition": condition} if condition else {})


def _literal(prefix: str) -> str:
    """A prefix with what IAM would take for a wildcard or a variable written as itself."""
    return _SPECIAL.sub(lambda match: "${" + match[0] + "}", prefix)
