"""For a server in a process of its own: when to end."""

from __future__ import annotations

import os
import select
import sys


def wait_for_end_of(parent: int) -> None:
    """Return when stdin closes or the parent is gone; a child that the parent forked may hold the pipe open."""
    while os.getppid() == parent and not select.select([sys.stdin], [], [], 1)[0]:
        pass
