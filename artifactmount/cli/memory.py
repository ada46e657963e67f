"""How this process keeps the memory that it let go of. For commands that make packs or take them apart, and then end."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def reuse_memory() -> None:
    """Have buffers of up to 32 MiB made of memory that was used before. Does nothing where the C library is not glibc.

    By itself malloc gives a pack's 16 MiB back to the kernel each time, which makes them zeros again for the next one: of the 2.9 s that it
    took to put a GiB together as packs, 2.0 went there. It is kept to commands: how a user's own process does it is his affair.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 256 << 20)
        mallopt(_MMAP_THRESHOLD, 32 << 20)
