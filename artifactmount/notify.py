"""Telling the service manager how things stand: the datagrams of sd_notify(3). Does nothing where nobody listens."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

VARIABLE = "NOTIFY_SOCKET"


def notify(*lines: str) -> None:
    """Send lines such as READY=1 to who started this process, if it asked for them. A listener that is gone is no error."""
    address = os.environ.get(VARIABLE, "")
    if address[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        # A name that begins with @ is in the abstract namespace, where the kernel wants a zero byte instead.
        connection.sendto("\n".join(lines).encode("utf-8", "surrogateescape"), "\0" + address[1:] if address[0] == "@" else address)
