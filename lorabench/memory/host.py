"""What a process can still allocate on the host: what the system calls available, and no more than its control group
leaves.

A container sees the memory of the whole machine (/proc/meminfo), while the kernel ends it at its own limit: cgroup v2's
memory.max and memory.current, v1's memory.limit_in_bytes and memory.usage_in_bytes. Cached files count as used there
and are given back (inactive_file).
"""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
VERSIONS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def free_host_bytes(cgroup: Path = CGROUP) -> int:
    """Bytes that can still be allocated."""
    import psutil

    available = int(psutil.virtual_memory().available)
    left = _left(cgroup)
    return available if left is None else min(available, left)


def host_bytes(cgroup: Path = CGROUP) -> int:
    """Bytes that the host has, or its control group allows, whoever uses them now."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for limit, *_ in VERSIONS:
        try:
            most = (cgroup / limit).read_text().strip()
            return total if most == "max" else min(total, int(most))
        except (OSError, ValueError):
            continue
    return total


def _left(cgroup: Path) -> int | None:
    """What the control group leaves; None where there is none or it sets no limit."""
    for limit, usage, statistics, cached in VERSIONS:
        try:
            most, used = (cgroup / limit).read_text().strip(), int((cgroup / usage).read_text())
            if most == "max":
                return None
            lines = dict(line.split(maxsplit=1) for line in (cgroup / statistics).read_text().splitlines())
            return max(0, int(most) - used + int(lines.get(cached, 0)))
        except (OSError, ValueError):
            continue
    return None
