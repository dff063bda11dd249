"""How many threads a worker's libraries start, and how many of them a cell takes while others come and go.

    usable  = min(cores of the affinity mask, cgroup quota, physical cores)
    most    = usable / workers, rounded down, 1 at least; of those that were free at the beginning where lorabench
              chose how many workers there are (worker_count)
    threads = min(most, physical cores - cores that others keep busy), 1 at least

A number that the user has set stands. Hyperthreads do not help matrix products, hence physical cores. Threads meet at
the end of every operator: one more than there are free cores makes all of them wait for it. What others keep busy is
seen as a worker begins (free_threads) and about once a second during its cells (FreeThreads), so that its threads may
spin while they wait for each other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lorabench import startup

LOOK_SECONDS = 0.1  # ten of the kernel's ticks
LOOK_EVERY = 1.0  # seconds between two looks during a cell at least
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def threads_per_worker(workers: int, user: Mapping[str, str] = os.environ) -> int | None:
    """The most that each worker takes, its part of the usable cores; None where the user has set a number, which
    stands."""
    return None if user_count(user) else max(1, usable_cores() // workers)


def user_count(user: Mapping[str, str] = os.environ) -> str | None:
    """The variable by which the user has set a number of threads; None where they have not. What is no number (an empty
    word) is none for OpenMP, too."""
    return next((name for name in COUNTS if user.get(name, "").partition(",")[0].strip().isdecimal()), None)


def free_threads(most: int, busy: int | None = None) -> int:
    """How many of them find a free core now.

    busy: cores that others use; absent: looked at for LOOK_SECONDS.
    """
    return min(most, max(1, _physical_cores() - (busy_cores() if busy is None else busy)))


def thread_variables(most: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Of a process that begins with the threads which find a free core, and may take the most."""
    return startup.spinning(environment) | {"OMP_NUM_THREADS": str(free_threads(most)), startup.THREADS: str(most)}


def limit_threads(most: int) -> None:
    """Lets this process take no more from now on, whatever it began with."""
    import threadpoolctl

    os.environ[startup.THREADS] = str(most)
    threadpoolctl.threadpool_limits(most)  # numpy's decompositions, too
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(most)


class FreeThreads:
    """Keeps the threads of this process to the cores that others leave:

    busy = core seconds that all processes computed - those of this one, over the seconds since the last look
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._at, self._busy, self._own = time.perf_counter(), _busy_seconds(), time.process_time()

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> FreeThreads:
        """Of a worker's environment; one that never changes anything where the user has chosen."""
        return cls(int(environment.get(startup.THREADS, 1)))

    def look(self) -> None:
        """Sets torch's number where LOOK_EVERY has gone by; to be called where torch computes, since OpenMP keeps a
        number for each thread of a program."""
        now, torch = time.perf_counter(), sys.modules.get("torch")
        if torch is None or self._most == 1 or now - self._at < LOOK_EVERY:
            return
        busy, own = _busy_seconds(), time.process_time()
        others = (busy - self._busy - (own - self._own)) / (now - self._at)
        threads = free_threads(self._most, round(others))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        self._at, self._busy, self._own = now, busy, own


def _busy_seconds() -> float:
    """Core seconds that this machine has computed."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))


def _physical_cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1  # None on some virtual machines


def busy_cores() -> int:
    """Cores' worth of computing that goes on while this process waits, rounded."""
    import psutil

    cores = psutil.cpu_count() or 1
    return round(cores * psutil.cpu_percent(LOOK_SECONDS) / 100)


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may use, by its affinity mask and its cgroups' quotas; 1 at least.

    root: where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _physical_cores(), int(cgroup_cores(root) or allowed)))


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
