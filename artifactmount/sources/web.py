"""References to files of web servers, one each. Unchanged while the strong ETag is (where there is none, the time of modification).

The server must serve ranges, unless the file is no larger than a block. A redirect is followed only to what the user allows, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from artifactmount.errors import NotFoundError, RefusedError, SourceChangedError, SourceDeniedError, SourceError, UsageError
from artifactmount.reference import BLOCK, Referent, normal_uri
from artifactmount.rows import SIZE_LIMIT
from artifactmount.sources import Found, changed, gone

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Answer
    from urllib3 import PoolManager

_TRIES = 3
_REDIRECTS = 5
_CONNECT, _READ = 5, 30  # seconds
_POOL = 16
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
#: A time of modification has whole seconds, and perhaps another clock: only one that is so old (ns) when it is recorded is sure to be
#: another one after the next change (RFC 7232, 2.2.2).
_SETTLED = 60 * 10**9
_LENGTH = re.compile(r"\d{1,19}")


class WebSource:
    """See Source. `allowed(uri)`: whether a redirect there may be followed."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._pools: dict[str | None, PoolManager] = {}

    def find(self, uri: str) -> Iterator[Found]:
        """See Source."""
        with self._asked(uri, 0, 1) as answer:
            if answer.status in (404, 410):
                raise NotFoundError(f"nothing at {uri} ({answer.status})")
            size = _size(uri, answer)
            if answer.status == 200 and size > BLOCK:
                raise RefusedError(f"cannot be referenced: {uri} is larger than {BLOCK} bytes, and its server serves no ranges")
            etag, modified = _etag(answer), _modified(answer)
            now = _seconds(answer, "Date")
            settled = modified is not None and now is not None and now * 10**9 - modified >= _SETTLED
            referent = Referent(uri, etag) if etag is not None else Referent(uri, modified=modified if settled else None)
            yield Found(b"", referent, size, modified or 0)

    def read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        """See Source."""
        for attempt in range(_TRIES):
            try:
                return self._read(referent, size, start, stop)
            except (SourceDeniedError, SourceChangedError):
                raise
            except SourceError:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _read(self, referent: Referent, size: int, start: int, stop: int) -> bytes:
        with self._asked(referent.uri, start, stop) as answer:
            _compare(referent, size, answer)
            sent = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            exact = sent is not None and (sent[1], sent[2]) == (str(start), str(stop - 1))
            if not exact and not (answer.status == 200 and (start, stop) == (0, size)):
                raise SourceError(f"{referent.uri} does not serve the range of bytes {start} to {stop}")
            content = answer.read(stop - start + 1)
        if len(content) != stop - start:
            raise SourceError(f"{referent.uri}: {len(content)} of {stop - start} bytes came")
        return content

    def check(self, referent: Referent, size: int) -> None:
        """See Source."""
        with self._asked(referent.uri, 0, 1) as answer:
            _compare(referent, size, answer)

    def close(self) -> None:
        """See Source."""
        for pool in self._pools.values():
            pool.clear()

    # -- requests ------------------------------------------------------------------------------------------------------------------
    @contextmanager
    def _asked(self, uri: str, start: int, stop: int) -> Iterator[Answer]:
        """The answer to a request for a range, its body not read yet; redirects followed. Raises SourceError, SourceDeniedError."""
        from urllib3.exceptions import HTTPError

        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        at = uri
        try:
            for _ in range(_REDIRECTS + 1):
                answer = self._pool(at).request(
                    "GET", at, headers=headers, redirect=False, retries=False, preload_content=False, decode_content=False
                )
                try:
                    target = answer.get_redirect_location()
                    if not target:
                        _check_status(uri, answer)
                        yield answer
                        return
                    at = self._redirected(uri, at, target)
                finally:
                    # A body that was not read to its end may be endless: the connection goes with it.
                    answer.close()
            raise SourceError(f"{uri} leads to more than {_REDIRECTS} redirects")
        except (HTTPError, OSError, ValueError) as error:
            raise SourceError(f"{uri}: {' '.join(str(error).split())[:300]}") from error

    def _pool(self, uri: str) -> PoolManager:
        # Imported here, as it brings TLS along, which most commands never need.
        from urllib.request import getproxies, proxy_bypass

        import urllib3

        parts, timeout = urlsplit(uri), urllib3.Timeout(connect=_CONNECT, read=_READ)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        if proxy not in self._pools:
            made = urllib3.ProxyManager(proxy, maxsize=_POOL, timeout=timeout) if proxy else None
            self._pools[proxy] = made or urllib3.PoolManager(maxsize=_POOL, timeout=timeout)
        return self._pools[proxy]

    def _redirected(self, uri: str, at: str, target: str) -> str:
        try:
            to = normal_uri(urljoin(at, target))
        except UsageError as error:
            raise SourceError(f"{uri} is redirected to what cannot be followed: {error}") from None
        if at.startswith("https:") and not to.startswith("https:"):
            raise SourceError(f"{uri} is redirected to {to[:200]}, which is not https")
        if not self._allowed(to):
            raise SourceDeniedError(f"{uri} is redirected to {to[:200]}; if you trust it, name its host in `references.allow`, too")
        return to


def _check_status(uri: str, answer: Answer) -> None:
    if answer.status in (401, 403, 407):
        raise SourceDeniedError(f"{uri}: denied ({answer.status})")
    if answer.status not in (200, 206, 404, 410, 412, 416):
        raise SourceError(f"{uri}: the server says {answer.status}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise SourceError(f"{uri}: the server sends it encoded ({answer.headers['Content-Encoding'][:40]!r}), though asked not to")


def _size(uri: str, answer: Answer) -> int:
    """The size of the whole file."""
    sent = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    length = answer.headers.get("Content-Length", "")
    size = -1
    if answer.status in (206, 416) and sent is not None and len(sent[3]) < 20:
        size = int(sent[3])
    elif answer.status == 200 and _LENGTH.fullmatch(length):
        size = int(length)
    if not 0 <= size < SIZE_LIMIT:
        raise SourceError(f"{uri}: the server does not say how large it is")
    return size


def _etag(answer: Answer) -> str | None:
    """The strong ETag; a weak one may stay the same when bytes change, so it counts as none."""
    etag = answer.headers.get("ETag") or None
    return None if etag is None or etag.startswith("W/") else etag


def _modified(answer: Answer) -> int | None:
    seconds = _seconds(answer, "Last-Modified")
    return None if seconds is None else seconds * 10**9


def _seconds(answer: Answer, header: str) -> int | None:
    """A time in a header, in s since 1970."""
    from email.utils import parsedate_to_datetime  # 3 ms of every command

    try:
        return int(parsedate_to_datetime(answer.headers[header]).timestamp())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _compare(referent: Referent, size: int, answer: Answer) -> None:
    """Raises SourceChangedError unless the answer is of the file that was recorded."""
    if answer.status in (404, 410):
        raise gone(referent)
    if referent.etag is not None and _etag(answer) != referent.etag:
        raise changed(referent, referent.etag, _etag(answer) or "none")
    if referent.modified is not None and _modified(answer) != referent.modified:
        raise changed(referent, referent.modified, _modified(answer), "its time in ns")
    now = _size(referent.uri, answer)
    if now != size:
        raise changed(referent, size, now, "its size")
