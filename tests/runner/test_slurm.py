"""Array jobs by submitit's local executor, which starts SLURM's scripts as processes of this machine; only where the
extra `slurm` is installed."""

from __future__ import annotations

import functools
import os
import signal
import threading

import pytest

pytest.importorskip("submitit", reason="needs the extra: pip install 'lorabench[slurm]'")

import lorabench as lb
from lorabench.executors import slurm
from lorabench.runner import served_folder
from lorabench.runner.cluster import ClusterOptions
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import ENGINE, study_of

SLOW = pytest.mark.slow


@pytest.fixture
def arrays(begun, tmp_path, monkeypatch):
    """The executor over the odd engine, with a home of its own; the sizes of the arrays that it submits."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes, submitted = [], slurm.SlurmCluster._array

    def array(self, room, folders):
        sizes.append(len(folders))
        return submitted(self, room, folders)

    monkeypatch.setattr(slurm.SlurmCluster, "_array", array)
    odd = {"engine": ENGINE, "predictor": f"{ENGINE}.predict_cell"}
    monkeypatch.setattr(slurm, "open_cluster", functools.partial(slurm.open_cluster, submitter="local", **odd))
    return sizes


class Words:
    """A Progress that keeps what it is told."""

    def __init__(self, on_step=lambda event: None):
        self.notes, self.on_step = [], on_step

    def event(self, event):
        self.notes += [w for w in (event.note, event.warning) if w]
        if event.step:
            self.on_step(event)

    def __getattr__(self, name):
        return lambda *_, **__: None


@SLOW
def test_a_study_runs_in_one_array_and_an_element_that_is_killed_is_submitted_again(arrays, begun, tmp_path):
    killed = threading.Event()

    def kill(event):
        """The element that hosts the cell which has come furthest: the parent of its worker process."""
        if event.step > 20 and not killed.is_set():
            killed.set()
            last = [line.split() for line in (tmp_path / "begun.txt").read_text().splitlines() if event.cell in line][
                -1
            ]
            os.kill(_parent(int(last[2])), signal.SIGKILL)

    progress = Words(kill)
    study = study_of(0, 204, 205, 1, 100, 159, 2)
    plan = run(study, tmp_path / "out", pool=WorkerPool("slurm", 3), progress=progress)
    outcomes = {r.cell.seed: r.outcome for r in plan.store.results()}
    assert outcomes == {
        **dict.fromkeys((0, 204, 205, 1, 2), "finished"), 100: "failed", 159: "out_of_memory",
    }  # fmt: skip
    twice = [seed for seed in outcomes if begun().count(seed) == 2]
    assert killed.is_set() and len(twice) == 1 and len(begun()) == len(outcomes) + 1
    assert sum("starts again, try 2 of 3" in note for note in progress.notes) == 1
    assert arrays == [
        1,
        2,
        1,
    ]  # the first worker, which checks; the two others at once; the one in the killed one's place
    assert sorted(p.name for p in plan.store.cells_folder.iterdir()) == sorted(c.id for c in plan.cells)
    assert not list((tmp_path / "home" / ".cache" / "lorabench" / "slurm").iterdir())


def _parent(pid):
    import psutil

    return psutil.Process(pid).ppid()


@SLOW
def test_an_element_whose_runner_is_gone_ends_itself(begun, tmp_path):
    import subprocess
    import sys

    for name in (served_folder.COMMANDS, served_folder.REPLIES):
        (tmp_path / name).touch()
    code = f"from lorabench.runner.served_folder import serve; serve({str(tmp_path)!r}, 1, {ENGINE!r}, {ENGINE!r})"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_lines_come_whole_however_they_are_written(tmp_path):
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n{"b"')
    found = served_folder.lines(path)
    assert next(found) == {"a": 1}
    assert next(found) is None
    with path.open("a") as more:
        more.write(': 2}\n{"c": 3}\n')
    assert [next(found), next(found)] == [{"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ClusterOptions(cards_per_cell=0.25), r"SLURM gives whole GPUs, not 0.25 of one"),
        (ClusterOptions(address="auto"), r"--address is of a Ray cluster"),
    ],
)
def test_what_slurm_has_not_is_refused_in_a_sentence(options, words):
    with pytest.raises(lb.LorabenchError, match=words):
        slurm.open_cluster(options, submitter="local")


def test_a_machine_without_sbatch_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(lb.LorabenchError, match="cannot submit to SLURM"):
        WorkerPool("slurm")
