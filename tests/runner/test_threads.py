"""How many threads a worker gets, and how they wait: from files as the kernel writes them, and from this process's own
mask."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from lorabench.runner import threads
from lorabench.runner.threads import (
    FreeThreads,
    busy_cores,
    cgroup_cores,
    free_threads,
    threads_per_worker,
    usable_cores,
    user_count,
)
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.test_local import cells, run


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"},
            1.5,
        ),  # a container with a namespace of its own
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/user.slice/job.scope",
                "sys/fs/cgroup/user.slice/job.scope/cpu.max": "max 100000",
                "sys/fs/cgroup/user.slice/cpu.max": "400000 100000",
                "sys/fs/cgroup/other.slice/cpu.max": "100000 100000",
            },
            4.0,  # the slice above binds; a neighbour's quota does not
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/a\n3:cpu,cpuacct:/docker/1f\n2:cpuset:/",
                "sys/fs/cgroup/cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            3.0,  # version 1
        ),
        ({}, None),  # no cgroups at all
    ],
)
def test_the_least_quota_of_the_cgroup_and_those_above_it_counts(tmp_path, files, cores):
    assert cgroup_cores(tree(tmp_path, files)) == cores


def test_less_than_one_core_is_one_thread(tmp_path):
    assert usable_cores(tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})) == 1


def test_the_affinity_mask_counts():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from lorabench.runner.threads import"
        " usable_cores; print(usable_cores())"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "1"


def test_workers_share_the_cores_and_each_has_one_at_least():
    cores = usable_cores()
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    assert threads_per_worker(1, {}) == cores
    assert threads_per_worker(cores, {}) == 1
    assert threads_per_worker(10 * cores, {}) == 1


def test_cores_that_others_keep_busy_are_left_to_them():
    cores = usable_cores()
    physical = psutil.cpu_count(logical=False) or os.cpu_count()
    assert free_threads(cores, busy=0) == cores
    assert free_threads(physical, busy=1) == max(1, physical - 1)
    assert free_threads(cores, busy=physical + 3) == 1
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        time.sleep(0.5)  # for python to have started
        assert busy_cores() >= 1
        assert free_threads(cores) <= max(1, physical - 1)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_a_number_that_the_user_set_stands(name):
    assert threads_per_worker(1, {name: "7"}) is None


@pytest.mark.parametrize(
    ("told", "seen"), [({}, ["1", "PASSIVE"]), ({"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}, ["7", "ACTIVE"])]
)
def test_a_worker_of_a_crew_waits_without_spinning_unless_told_otherwise(
    told, seen, open_odd, begun, tmp_path, monkeypatch
):
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
        "KMP_BLOCKTIME",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with WorkerPool(open_odd, workers=64) as pool:
        run(pool.first, cells(0)[0], tmp_path)
    assert (tmp_path / "begun.txt").read_text().split()[3:5] == seen


@pytest.mark.parametrize(("most", "seen"), [(3, [3, 1, 2, 3, 1]), (1, [3, 3, 3, 3, 3])])
def test_a_worker_leaves_cores_as_soon_as_others_need_them_and_takes_them_again(most, seen, monkeypatch):
    """One that may not choose changes nothing."""
    before, others, computed, at = torch.get_num_threads(), [0.0], 0.0, time.perf_counter()

    def busy_seconds():
        nonlocal at, computed
        now = time.perf_counter()
        computed, at = computed + others[0] * (now - at), now
        return computed + time.process_time()

    monkeypatch.setattr(threads, "_physical_cores", lambda: 3)
    monkeypatch.setattr(threads, "_busy_seconds", busy_seconds)
    monkeypatch.setattr(threads, "LOOK_EVERY", 0.0)
    try:
        torch.set_num_threads(3)
        free, found = FreeThreads(most), []
        for others[0] in (0.2, 2.1, 1.0, 0.0, 7.0):
            time.sleep(0.05)
            free.look()
            found.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert found == seen


def test_what_others_compute_is_seen():
    """In a process of its own, whose number of threads it is; beside other tests the cores may be busy before."""
    code = f"""
import subprocess, sys, time, torch
from lorabench.runner.threads import FreeThreads
torch.set_num_threads(2)
free = FreeThreads(2)
burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range({2 * (os.cpu_count() or 1)})]
for _ in range(2):
    time.sleep(1.1)
    free.look()
for process in burning: process.kill()
print(torch.get_num_threads())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("variables", "counts"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": ""}, None),
        ({"OMP_NUM_THREADS": "abc"}, None),
        ({"OMP_NUM_THREADS": "3"}, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "2,1"}, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "", "MKL_NUM_THREADS": "1"}, "MKL_NUM_THREADS"),
    ],
)
def test_what_is_no_number_is_no_choice_of_the_users(variables, counts):
    assert user_count(variables) == counts
    assert (threads_per_worker(1, variables) is None) == (counts is not None)
