"""How many threads a worker's libraries start.

    cores   = min(cores of the affinity mask, cgroup quota, physical cores)
    threads = (cores - cores that others keep busy as the run begins) / workers, rounded down, 1 at least

A number that the user has set stands. Hyperthreads do not help matrix products, hence physical cores. Threads meet at
the end of every operator: one more than there are free cores makes all of them wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LOOK_SECONDS = 0.1  # ten of the kernel's ticks
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def threads_per_worker(workers: int, user: Mapping[str, str] = os.environ, busy: int | None = None) -> int | None:
    """Each worker's part of the usable cores that nobody else keeps busy; None where the user has set a number, which
    stands.

    busy: cores that others use; absent: looked at for LOOK_SECONDS.
    """
    if any(name in user for name in COUNTS):
        return None
    return max(1, (usable_cores() - (busy_cores() if busy is None else busy)) // workers)


def busy_cores() -> int:
    """Cores' worth of computing that goes on while this process waits, rounded."""
    import psutil

    cores = psutil.cpu_count() or 1
    return round(cores * psutil.cpu_percent(LOOK_SECONDS) / 100)


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may use, by its affinity mask and its cgroups' quotas; 1 at least.

    root: where /proc and /sys are.
    """
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed  # None on some virtual machines
    return max(1, min(allowed, physical, int(cgroup_cores(root) or allowed)))


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """The least CPU quota of this process's cgroup and those above it, in cores; None where there is none. Version 2
    and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folders = (
            [root / "sys/fs/cgroup" / c for c in (controllers, "cpu")] if controllers else [root / "sys/fs/cgroup"]
        )
        for folder in dict.fromkeys(folders):
            below = folder / path.lstrip("/")
            places = [below, *below.parents]
            for place in places[: places.index(folder) + 1] if folder in places else ():
                quotas += [q] if (q := _quota(place)) is not None else []
    return min(quotas, default=None)


def _quota(place: Path) -> float | None:
    """Quota over period of one cgroup; "max" and -1 stand for none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((place / name).read_text(encoding="utf-8") for name in names).split()
            if quota not in ("max", "-1") and int(period) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return None
