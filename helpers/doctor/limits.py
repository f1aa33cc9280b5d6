"""What a container may take: its limit of memory, from cgroup v1 or v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MemoryLimit", "memory_limit"]

ROOT = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # v1 has no word for it, but a number that no machine reaches
FILES = {  # limit, in use, what of it is cache that makes room
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class MemoryLimit:
    """A limit in bytes, what is left of it, and the version of cgroup that says so."""

    version: str
    total: int
    free: int


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """The limit of this container; None where it has none of its own."""
    for version, (limit, used, cache) in FILES.items():
        try:
            total, current = int((root / limit).read_text()), int((root / used).read_text())
            stat = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            free = total - current + int(stat.get(cache, 0))
        except (OSError, ValueError):  # the other version; or "max": no limit
            continue
        if total < UNLIMITED:
            return MemoryLimit(version, total, max(free, 0))
    return None
