"""What was promised of speed, memory and size, beside whom. Knows no results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Our figure in a `case` of a row, beside that of a `peer` in its own case (the same, if not named); `limit`: what the ratio may be at
    most, or at least; of the figure itself where there is no peer; None where nothing was promised."""

    row: str
    what: str
    case: str
    peer: str
    limit: float | None
    peer_case: str = ""
    at_least: bool = False
    unit: str = "s"


_SMALL = "first snapshot of 100k × 10 KB, with sync"
_READ = "sequential read of 1 GiB"
_TINY = "10k files of 10 KB: open, read, close"


def _tiny() -> list[Target]:
    found: list[Target] = []
    for way in ("by version", "through latest"):
        for heat in ("cold", "warm"):
            for peer in ("ext4", "squashfuse", "borg", "restic", "rclone", "s3fs"):
                limit = None if peer == "ext4" or (peer, heat) == ("squashfuse", "warm") else 1.0
                found.append(Target("9", f"{_TINY}; {way}, {heat}", f"{way}, {heat}", peer, limit, heat))
    return found


TARGETS = (
    Target("1", _SMALL, "first snapshot", "restic", 0.4),
    Target("1", _SMALL, "first snapshot", "git", 0.25),
    Target("1", _SMALL, "first snapshot", "dvc", 0.05),
    Target("2", "unchanged snapshot of 300k files", "unchanged", "git", 1.5),
    Target("2", "unchanged snapshot of 300k files", "unchanged", "restic", 0.2),
    Target("3", "one file changed of 300k, beyond an unchanged one", "beyond unchanged", "", 0.3),
    Target("3", "one file changed of 300k, new metadata in the store", "new metadata", "", 64 << 10, unit="B"),
    Target("4", "first snapshot of 4 × 1 GiB, with sync", "first snapshot", "cp", 1.3),
    Target("5", "second version of 16 × 256 MiB adds", "added", "", 280e6, unit="B"),
    Target("5", "second version of 16 × 256 MiB adds", "added", "restic", None, unit="B"),
    Target("5", "second version of 16 × 256 MiB adds", "added", "dvc", None, unit="B"),
    Target("6", "download of 100k × 10 KB", "download", "restic", 0.7),
    Target("7", "`find` over 300k files, fresh mount; ext4 cold", "find, fresh", "ext4", 1.0),
    Target("7", "`find` over 300k files, again; ext4 warm", "find, again", "ext4", 1.3),
    Target("8", f"{_READ}, all caches dropped", "all cold", "ext4", 0.9, at_least=True, unit="GB/s"),
    Target("8", f"{_READ}, packs in the page cache", "packs warm", "", 1.0, at_least=True, unit="GB/s"),
    Target("8", f"{_READ}, packs in the page cache; ext4 warm", "packs warm", "ext4", None, "all warm", at_least=True, unit="GB/s"),
    Target("8", f"{_READ}, all warm", "all warm", "ext4", 0.6, at_least=True, unit="GB/s"),
    *_tiny(),
    Target("10", "mount ready, 1,000 artifacts", "1,000 artifacts", "", 0.5),
    Target("10", "mount ready, 1,000 artifacts, empty cache", "1,000 artifacts, empty cache", "", 0.5),
    Target("10", "mount ready, 1,000 versions of 10k files", "1,000 versions", "", 0.5),
    Target("10", "mount ready, 1,000 versions of 10k files, empty cache", "1,000 versions, empty cache", "", 0.5),
    Target("11", "daemon's private memory after `find` over 1M files, folder", "folder", "", 80, unit="MiB"),
    Target("11", "daemon's private memory after `find` over 1M files, bucket", "bucket", "", 120, unit="MiB"),
    *(
        Target("12", f"{case} of 100k × 10 KB, S3 on loopback", case, peer, limit)
        for case in ("upload", "download")
        for peer, limit in (("restic", 1.0), ("s5cmd", 0.2), ("dvc", 0.05))
    ),
    Target("13", "deletion of a version of 1 % of 100k files", "deletion", "restic", 0.5),
)
