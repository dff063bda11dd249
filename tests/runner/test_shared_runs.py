"""Two and four runners on one folder, clocks that jump, files that vanish while a study runs: every cell is run once,
and what ran is on the disk at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter

import pytest

from lorabench.record.store import Store
from tests.runner.kills import Kills, is_once_and_whole, orphans
from tests.runner.test_kills import files, study
from tests.runner.test_runner import begin, until

JUMPS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
/* the time of day jumps at every third look, up to a year ahead and back; the monotonic clock is left alone */
static long jump(void) { static unsigned looks; return ((long)(looks++ / 3 * 2654435761u % 730) - 365) * 86400; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (!code && id == CLOCK_REALTIME) t->tv_sec += jump();
    return code;
}
time_t time(time_t *out) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); if (out) *out = t.tv_sec; return t.tv_sec; }
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec t; clock_gettime(CLOCK_REALTIME, &t); out->tv_sec = t.tv_sec; out->tv_usec = t.tv_nsec / 1000; return 0;
}
"""  # noqa: E501  (C)


@pytest.fixture
def jumping_clock(tmp_path, monkeypatch):
    """The environment of processes whose time of day jumps."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    (tmp_path / "jumps.c").write_text(JUMPS)
    library = tmp_path / "jumps.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "jumps.c"), "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    seen = subprocess.run(
        ["python3", "-c", "import time; print(len({round(time.time() / 86400) for _ in range(30)}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(seen.stdout) > 5, "the clock does not jump"
    return library


def started(text: str) -> list[str]:
    return re.findall(r"started \((\w{12})\)", text)


@pytest.mark.slow
@pytest.mark.parametrize("runners", [2, 4])
def test_runners_that_share_a_folder_run_each_cell_once(tmp_path, runners):
    kills = Kills(tmp_path, study(30), "tests.runner.drawn_runner", 0, 1.0)
    processes = [kills.start(tmp_path / "out") for _ in range(runners)]
    assert [p.wait(timeout=300) for p in processes] == [0] * runners
    text = (tmp_path / "output.txt").read_text()
    assert set(Counter(started(text)).values()) == {1}
    assert len(started(text)) == 30
    is_once_and_whole(tmp_path / "out")
    assert "Traceback" not in text


@pytest.mark.slow
def test_four_runners_of_which_three_are_killed_lose_nothing(tmp_path):
    kills = Kills(tmp_path, study(45), "tests.runner.drawn_runner", 0, 1.0)
    kills.whole(tmp_path / "whole")
    processes = [kills.start(tmp_path / "out") for _ in range(4)]
    until(lambda: len(list((tmp_path / "out" / "cells").glob("*/result.json"))) > 6, 60)
    for process in processes[:3]:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.3)
    assert processes[3].wait(timeout=300) == 0
    is_once_and_whole(tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert orphans(tmp_path) == []


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, jumping_clock, monkeypatch):
    kills = Kills(tmp_path, study(24), "tests.runner.drawn_runner", 3, 4.0)
    while kills.done.total() < 4:
        kills.round(tmp_path / "out", 4)
    kills.whole(tmp_path / "out")
    is_once_and_whole(tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_bytes()
    monkeypatch.delenv("LD_PRELOAD")
    kills.whole(tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert table == (tmp_path / "whole" / "table.md").read_bytes()
    for i, path in enumerate((tmp_path / "out" / "cells").rglob("*")):
        os.utime(path, ns=(i, (-1) ** i * 10**18 + 2 * 10**18))  # dates of 2001 and 2065
    assert Store(tmp_path / "out").unreadable() == ()


@pytest.mark.slow
def test_what_ran_is_on_the_disk_within_a_second(tmp_path):
    kills = Kills(tmp_path, study(30), "tests.runner.drawn_runner", 0, 1.0)
    kills.whole(tmp_path / "out")
    folders = list((tmp_path / "out" / "cells").iterdir())
    waits = [
        (f / "result.json").stat().st_ctime - (f / "items.safetensors").stat().st_mtime  # its last file
        for f in folders
    ]
    print(f"median {statistics.median(waits):.3f} s, most {max(waits):.3f} s of {len(waits)} cells")
    assert statistics.median(waits) < 1


@pytest.mark.slow
def test_a_plan_that_vanishes_in_mid_study_costs_no_result(begun, tmp_path):
    runner = begin(tmp_path, 0, 206, 1)
    until(lambda: 206 in begun(), 120)
    for name in ("plan.json", "study.yaml"):
        (tmp_path / "out" / name).unlink()
    _, err = runner.communicate(timeout=60)
    assert runner.returncode == 2
    (line,) = err.splitlines()
    assert "plan.json cannot be read" in line and "run the study again to rewrite it" in line
    again = begin(tmp_path, 0, 206, 1)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and "3 cells, 2 done, 1 to run" in out
    assert begun() == [0, 206, 1]
