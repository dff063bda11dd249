"""Whether the operating system killed a process for memory: Linux counts these kills, in the control group of the
process where it has one (memory.events of version 2, memory.oom_control of version 1), else in /proc/vmstat for the
whole machine. Where none can be read nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def counters(pid: int) -> tuple[Path, ...]:
    """The files that count the kills of a living process' group, the narrowest first."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    files = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            files += [CGROUP / place.lstrip("/") / "memory.events", CGROUP / "memory.events"]
        elif "memory" in controllers.split(","):
            files += [
                CGROUP / "memory" / place.lstrip("/") / "memory.oom_control",
                CGROUP / "memory/memory.oom_control",
            ]
    return (*files, Path("/proc/vmstat"))


def kills(files: Sequence[Path]) -> int | None:
    """What the first of these files that can be read has counted; None where none can."""
    for file in files:
        try:
            words = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
            return int(words["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None
