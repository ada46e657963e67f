"""What a policy allows, by the rules that AWS publishes. In the server of moto_server.py it takes the place of moto's own evaluation.

moto checks signatures and knows users, keys and policies. Its evaluation ignores conditions, asks for `HeadBucket`, which is no permission,
judges a batch of deletions by the bucket's name instead of the keys, and lists for whoever asks for a bucket's encryption. So only the
decision is made here: an explicit deny wins, then an allow, with the conditions that `artifactmount policy` writes and no others.

    python moto_server.py --iam [--old]        # --old: as Ceph 16, by what it did with the printed policies

Ceph 16 denies that a missing key is missing where keys may be listed below a prefix only, and takes a batch of deletions for one of the
bucket.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from moto.iam import access_control
from moto.s3.exceptions import S3AccessDeniedError
from moto.s3.models import s3_backends

Statement = dict[str, Any]
_VARIABLE = re.compile(r"\$\{([*?$])\}|([*])|([?])|(.)", re.DOTALL)


def matches(pattern: str, text: str) -> bool:
    """IAM's wildcards: `*` and `?` also across slashes; `${*}` is a star."""
    expression = _VARIABLE.sub(lambda m: re.escape(m[1] or m[4] or "") if m[1] or m[4] else ".*" if m[2] else ".", pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def allowed(statements: list[Statement], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether these statements together allow an action on a resource."""
    effects = {s["Effect"] for s in statements if _concerns(s, action, resource) and _holds(s.get("Condition", {}), context)}
    return effects == {"Allow"}


def _concerns(statement: Statement, action: str, resource: str) -> bool:
    assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}, statement
    return any(matches(p, action) for p in _list(statement["Action"])) and any(matches(p, resource) for p in _list(statement["Resource"]))


def _holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    """All operators and keys must hold. Of an operator that is not known here nobody can say: the request fails."""
    return all(_operator(name, context.get(key), _list(wanted)) for name, keys in condition.items() for key, wanted in keys.items())


def _operator(name: str, present: str | None, wanted: list[str]) -> bool:
    match name:
        case "StringLike":
            return present is not None and any(matches(pattern, present) for pattern in wanted)
        case "Null":
            return wanted == ["true" if present is None else "false"]
        case "Bool":
            return present is not None and present in wanted
    raise NotImplementedError(name)


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


class ByTheBook(access_control.S3IAMRequest):
    """A request whose signature was found right."""

    def check_action_permitted(self, resource: str) -> None:
        """Raises what becomes AccessDenied."""
        url = urlsplit(self._path)
        query = parse_qs(url.query, keep_blank_values=True)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        arn = f"arn:aws:s3:::{bucket}"
        statements = [statement for policy in self._access_key.collect_policies() for statement in _statements(policy)]
        context = {"aws:SecureTransport": "true" if self._headers.get("X-Forwarded-Proto") == "https" else "false"}
        if (none_match := self._headers.get("If-None-Match")) is not None:
            context["s3:if-none-match"] = none_match
        if "prefix" in query and not key:
            context["s3:prefix"] = query["prefix"][0]
        old = "--old" in sys.argv
        if old and self._method == "POST" and "delete" in query and not allowed(statements, "s3:DeleteObject", arn, context):
            raise S3AccessDeniedError  # of the whole request, where others answer for each key
        for action, what in self._asked(arn, key, query):
            if not allowed(statements, action, what, context):
                self._raise_access_denied()
        if self._action == "s3:GetObject" and s3_backends[self.account_id]["aws"].get_object(bucket, key) is None:
            # Whoever may not list must not learn what is missing.
            asked = context if old else context | {"s3:prefix": key}
            if not allowed(statements, "s3:ListBucket", arn, asked):
                self._raise_access_denied()

    def _asked(self, arn: str, key: str, query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What the request needs: (action, resource)."""
        if key:
            yield self._action, f"{arn}/{key}"
        elif self._method == "POST" and "delete" in query:
            for item in ElementTree.fromstring(self._body).iter():  # noqa: S314 - what the tests themselves have sent
                if item.tag.endswith("}Object") or item.tag == "Object":
                    fields = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
                    yield "s3:DeleteObjectVersion" if "VersionId" in fields else "s3:DeleteObject", f"{arn}/{fields['Key']}"
        elif self._method in ("GET", "HEAD") and "encryption" in query:
            yield "s3:GetEncryptionConfiguration", arn
        else:
            yield "s3:ListBucket" if self._action == "s3:HeadBucket" else self._action, arn


def _statements(policy: Any) -> list[Statement]:
    statements: list[Statement] = json.loads(policy["policy_document"])["Statement"]
    return statements


def install() -> None:
    """Let moto ask this module from now on."""
    access_control.S3IAMRequest = ByTheBook  # type: ignore[misc]
