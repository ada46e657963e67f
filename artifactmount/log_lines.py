"""How a daemon's log lines look: text for people, or one JSON object a line for programs. Knows nothing of what is logged.

What is known beside the message (artifact, version, path, operation) is given with `extra=` where a line is logged, under these names.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from artifactmount.plain import PlainFormatter

FORMATS = ("text", "json")
#: What a record may carry beside its message, each a text; docs/machines.md, "Logs", says what they are.
FIELDS = ("artifact", "version", "path", "operation")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII, whatever a store put into the message: nothing in it can end the line or move a cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """`time` is ISO 8601 in UTC, to the millisecond."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, str | int] = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: str(getattr(record, name)) for name in FIELDS if hasattr(record, name)}
        line["process"] = record.process or 0
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def formatter(form: str) -> logging.Formatter:
    """The formatter of one of FORMATS."""
    return JsonFormatter() if form == "json" else PlainFormatter("%(asctime)s %(levelname)s %(message)s")
