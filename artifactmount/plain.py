"""Texts of strangers made harmless: on one line, and without what moves a terminal's cursor. Knows nothing of where they come from."""

from __future__ import annotations

import logging
import re

_OTHER_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def plain(text: object) -> str:
    """What a store or another user says, on one line and without what moves a terminal's cursor.

    Bytes that are not UTF-8 stay as they are, but for those that are control characters to some terminals.
    """
    whole = _OTHER_HALVES.sub("?", str(text))
    if not whole.isprintable():
        # Two halves that stand for bytes may come to a character once they are written out: to U+009B, say, which begins a command.
        whole = whole.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        whole = "".join(char if char.isprintable() or "\udca0" <= char <= "\udcff" else "?" for char in whole)
    return whole


class PlainFormatter(logging.Formatter):
    """Log lines in which no message, whatever a store put into it, is more than text on one line. A traceback of ours follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = plain(record.message)
        return super().formatMessage(record)
