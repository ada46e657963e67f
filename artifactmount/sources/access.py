"""Which references may be followed, and with whose credentials: what the user's config file says, applied before a source is asked.

A record comes from a store, so whoever can write to a project could have its readers open files, or requests made, in their name. So by
default only buckets are followed; everything else below the prefixes that the user allows (docs/references.md, "What is followed"). What
is read to be handed on (`vendor`) must be named: whoever made the record would get what only the reader's credentials open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from artifactmount.errors import RefusedError, SourceDeniedError, UsageError
from artifactmount.reference import Referent, leads_into, normal_uri, scheme_of
from artifactmount.sources import Found, Source
from artifactmount.sources.disk import DiskSource
from artifactmount.sources.s3 import Bucket, S3Source
from artifactmount.sources.web import WebSource

_DEFAULT: tuple[str, ...] = ("s3://",)


@dataclass(frozen=True, slots=True)
class Access:
    """What a user allows. `allowed`: prefixes of URIs, None where none are named; `buckets`: profile and endpoint, where they are not the
    standard ones."""

    allowed: tuple[str, ...] | None = None
    buckets: Mapping[str, Bucket] = field(default_factory=dict)

    @staticmethod
    def of(table: Mapping[str, Any]) -> Access:
        """From the config file's table `references`. Raises UsageError."""
        allowed: tuple[str, ...] | None = None
        buckets: dict[str, Bucket] = {}
        for name, value in table.items():
            if name == "allow":
                if not isinstance(value, list) or not all(isinstance(prefix, str) and "://" in prefix for prefix in value):
                    raise UsageError('`references.allow` in the config file is a list of prefixes, such as ["s3://", "file:///data/"]')
                allowed = tuple(map(_prefix, value))
            elif isinstance(value, dict) and value.keys() <= {"profile", "endpoint"} and all(isinstance(v, str) for v in value.values()):
                buckets[name] = Bucket(value.get("profile"), value.get("endpoint"))
            else:
                raise UsageError(f'`references."{name}"` in the config file has a profile, an endpoint, or both, and nothing else')
        return Access(allowed, buckets)

    def allows(self, uri: str) -> bool:
        """Whether a reference there may be followed."""
        return any(leads_into(uri, prefix) for prefix in (_DEFAULT if self.allowed is None else self.allowed))

    def names(self, uri: str) -> bool:
        """Whether the user named it, or what it is below: the default does not count."""
        return self.allowed is not None and self.allows(uri)


def _prefix(text: str) -> str:
    """The beginning of URIs that a user allows, in the form that these have. Raises UsageError."""
    scheme, _, rest = text.partition("://")
    if not rest.strip("/"):
        return f"{scheme.lower()}://"
    return normal_uri(text if "/" in rest or scheme.lower() not in ("http", "https") else text + "/")


class Sources:
    """All sources behind one door. Threads may share it."""

    def __init__(self, access: Access) -> None:
        self._access, self._follows = access, access.allows
        web = WebSource(access.allows)
        self._sources: dict[str, Source] = {"s3": S3Source(access.buckets), "file": DiskSource(), "http": web, "https": web}

    def named(self) -> Sources:
        """The same sources, of which only what the user named is read: for who hands on what he reads."""
        strict = copy(self)
        strict._follows = self._access.names
        return strict

    def find(self, uri: str, *, checksum: bool = True) -> Iterator[Found]:
        """See Source; the user named this one. `checksum=False`: nothing is kept that would tell a change (but the size)."""
        for found in self._sources[scheme_of(uri)].find(uri):
            if checksum and not found.referent.checked:
                raise RefusedError(
                    f"{found.referent.uri} has no strong ETag, nor (of a web server) a time of modification that is a minute old, so a "
                    "change might not be noticed; wait a minute, or take it by its size alone with --no-checksum"
                )
            yield found if checksum else replace(found, referent=Referent(found.referent.uri))

    def allows(self, uri: str) -> bool:
        """Whether a reference there would be followed."""
        return self._follows(uri)

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source. Raises SourceDeniedError for what may not be followed."""
        return self._allowed(referent).read(referent, size, start, stop)

    def check(self, referent: Referent, size: int) -> None:
        """See Source. Raises SourceDeniedError for what may not be followed."""
        self._allowed(referent).check(referent, size)

    def _allowed(self, referent: Referent) -> Source:
        if not self._follows(referent.uri):
            raise SourceDeniedError(
                f"{referent.uri} is not followed: the config file does not name it; if you trust it, name it (or a folder above) in "
                "`references.allow`"
            )
        return self._sources[scheme_of(referent.uri)]

    def close(self) -> None:
        """See Source."""
        for source in self._sources.values():
            source.close()
