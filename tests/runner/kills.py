"""Runs of a study whose worker, driver or both are killed (SIGKILL) at random moments, drawn from a seed.

A killed driver's run is started again, a killed worker's goes on. When a study is done before there were enough kills,
it begins anew in another folder; each folder is run to its end and then held against an undisturbed run of the same.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil

from lorabench.record.store import Store

ROOT = Path(__file__).parents[2]
VICTIMS = ("worker", "driver", "both")


class Kills:
    """Kills of one study by one command; `module` is run as python -m MODULE run STUDY --out DIR."""

    def __init__(
        self, folder: Path, study: str, module: str, seed: int, longest: float, workers: int = 1, pack: str = "auto"
    ) -> None:
        self.folder, self.module, self.longest = folder, module, longest
        self.options = ["--workers", str(workers), "--pack", pack]
        (folder / "study.yaml").write_text(study)
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.sessions = self.rounds = 0

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        """One run of the study, in a process group of its own."""
        command = [sys.executable, "-m", self.module, "run", str(self.folder / "study.yaml"), "--out", str(out)]
        self.sessions += 1
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [*command, *self.options],
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def whole(self, out: Path) -> None:
        """Runs to the end, undisturbed."""
        code = self.start(out).wait(timeout=600)
        if code == 1:  # what failed by the last kill is run by the next
            code = self.start(out).wait(timeout=600)
        assert code == 0, (self.folder / "output.txt").read_text()[-3000:]

    def round(self, out: Path, most: int) -> None:
        """Disturbs runs in a folder until its study is done or there were so many kills in all."""
        shutil.rmtree(out, ignore_errors=True)
        self.rounds += 1
        while self.done.total() < most:
            run = self.start(out)
            while self.done.total() < most:
                victim = self.random.choice(VICTIMS)
                end = time.monotonic() + self.random.uniform(0, self.longest)
                while run.poll() is None and time.monotonic() < end:
                    time.sleep(0.002)
                if run.poll() is not None:
                    if run.returncode == 0:
                        return
                    break  # a cell failed, which the next run tries again
                self._kill(run, victim)
                if victim != "worker":
                    run.wait()
                    break
            else:
                run.wait(timeout=600)

    def _kill(self, run: subprocess.Popen[bytes], victim: str) -> None:
        workers = workers_of(run.pid)
        targets = [run.pid] if victim == "driver" else workers if victim == "worker" else [run.pid, *workers]
        if victim == "worker":
            targets = self.random.sample(targets, min(1, len(targets)))
        self.random.shuffle(targets)
        killed = 0
        for pid in targets:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        if killed:
            self.done[victim] += 1


def workers_of(driver: int) -> list[int]:
    """The processes that a run has started."""
    try:
        return [p.pid for p in psutil.Process(driver).children()]
    except psutil.NoSuchProcess:
        return []


def orphans(folder: Path) -> list[int]:
    """Workers of killed runs that are still alive a moment later."""
    end = time.monotonic() + 10
    while True:
        alive = [p.pid for p in psutil.process_iter() if _is_worker_in(p, folder)]
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.1)


def _is_worker_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return "lorabench.runner.worker" in process.cmdline() and process.cwd() == str(folder)
    except psutil.Error:
        return False


def is_once_and_whole(out: Path) -> None:
    """Every planned cell is there exactly once, whole, and nothing else."""
    store = Store(out)
    planned = sorted(c.id for c in store.plan())
    assert sorted(p.name for p in store.cells_folder.iterdir()) == planned
    assert store.unreadable() == ()
    assert {r.outcome for r in store.results()} == {"finished"}
    assert len(store.results()) == len(planned)
    assert sorted(pd.read_csv(out / "cells.csv")["cell"]) == planned


def without_clocks(out: Path) -> pd.DataFrame:
    """cells.csv but for what a clock or the machine's memory says."""
    frame = pd.read_csv(out / "cells.csv", float_precision="round_trip")
    odd = ("tokens_per_second", "eval_peak_bytes", "train_peak_bytes")
    return frame[[c for c in frame if not c.endswith("_seconds") and c not in odd]]
