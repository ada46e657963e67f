"""How this process keeps the memory that it let go of. For processes of our own: how a user's does it is his affair."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)


def reuse_memory(largest: int = 32 << 20, kept: int = 256 << 20, *, shared: bool = False) -> None:
    """Have buffers up to the `largest`, in bytes, made of memory that was used before, of which so much is `kept`. Only with glibc.

    By itself malloc gives a pack's 16 MiB back to the kernel each time, which makes them zeros again for the next one: of the 2.9 s that it
    took to put a GiB together as packs, 2.0 went there. `shared`: by all threads; without, each may keep so much.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, kept)
        mallopt(_MMAP_THRESHOLD, largest)
        if shared:
            mallopt(_ARENA_MAX, 1)
