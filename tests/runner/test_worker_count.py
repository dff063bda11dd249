"""How many cells run at a time where nobody says so: by cores, memory and cells, and what happens where the memory does
not hold them after all."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lorabench.commands.arguments import worker_count
from lorabench.config import expand
from lorabench.config.load import read_study
from lorabench.config.source import parse_source
from lorabench.engine.events import Foretold
from lorabench.memory import predict_cell
from lorabench.memory.predict_cell import BESIDE, PROCESS_BYTES, foretell, predict_memory
from lorabench.record.memory_prediction import MemoryPrediction
from lorabench.record.result import Fault
from lorabench.runner import packs, worker, worker_pool
from lorabench.runner.display import Lines
from lorabench.runner.run import run
from lorabench.runner.threads import usable_cores
from lorabench.runner.worker_count import SHARED, workers_for
from lorabench.runner.worker_pool import WorkerPool
from tests import synthetic
from tests.report.stores import STUDY
from tests.report.stores import study_of as study_file
from tests.runner.conftest import STUDY as ODD
from tests.runner.conftest import study_of


def seconds(cells, cores, workers):
    """Of cells that take turns on workers, played cell by cell."""
    free, threads = [0.0] * workers, cores // workers
    for _ in range(cells):
        free[free.index(min(free))] += 1 - SHARED + SHARED / threads
    return max(free)


@pytest.mark.parametrize(("cells", "cores"), itertools.product((1, 2, 3, 5, 8, 15, 100), (1, 2, 3, 4, 8, 16, 64)))
def test_no_other_number_of_workers_is_done_sooner(cells, cores):
    chosen = workers_for(cells, cores, at_once=1000)
    assert 1 <= chosen <= min(cells, cores)
    taken = {n: seconds(cells, cores, n) for n in range(1, min(cells, cores) + 1)}
    assert taken[chosen] == pytest.approx(min(taken.values()))
    assert all(taken[n] > taken[chosen] * (1 + 1e-9) for n in range(1, chosen)), "fewer take less memory"


@pytest.mark.parametrize(
    ("cells", "cores", "at_once", "workers"),
    [
        (15, 2, 50, 2),
        (15, 2, 1, 1),  # two do not fit
        (1, 16, 50, 1),  # one cell has all threads
        (15, 16, 50, 15),
        (15, 16, 4, 4),
        (17, 16, 50, 9),  # two rounds either way
        (0, 4, 4, 1),
        (5, 4, 0, 1),
    ],
)
def test_cores_memory_and_cells_bound_it(cells, cores, at_once, workers):
    assert workers_for(cells, cores, at_once) == workers


@pytest.fixture
def cores(monkeypatch):
    """A machine with four free cores, on which nobody chose a number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(worker_pool, "threads_per_worker", lambda workers: 4 // workers)
    monkeypatch.setattr(worker_pool, "free_threads", lambda most: most)


def begun_by(tmp_path):
    """The worker process and its threads at its beginning, of each cell that began."""
    lines = [line.split() for line in (tmp_path / "begun.txt").read_text().splitlines()]
    return [(int(pid), int(seed)) for _, seed, pid, *_ in lines]


def test_as_many_cells_run_as_the_memory_holds(cores, open_odd, begun, tmp_path, monkeypatch):
    monkeypatch.setenv("ODD_AT_ONCE", "3")
    told = io.StringIO()
    with WorkerPool(open_odd) as pool:
        plan = run(study_of(*range(9)), tmp_path / "out", pool=pool, progress=Lines(told))
        assert pool.workers == 3
    assert sorted(begun()) == list(range(9))
    assert len({pid for pid, _ in begun_by(tmp_path)}) == 3
    assert [plan.store.get(c.id).outcome for c in plan.cells] == ["finished"] * 9
    assert "9 to run, 3 at a time" in told.getvalue()


@pytest.mark.parametrize("named", [1, 2])
def test_a_number_that_the_user_names_stands(cores, open_odd, begun, tmp_path, monkeypatch, named):
    monkeypatch.setenv("ODD_AT_ONCE", "3")
    with WorkerPool(open_odd, named) as pool:
        run(study_of(*range(6)), tmp_path / "out", pool=pool)
        assert pool.workers == named
    assert len({pid for pid, _ in begun_by(tmp_path)}) == named


def test_one_cell_at_a_time_where_the_user_chose_their_threads(open_odd, begun, tmp_path, monkeypatch):
    monkeypatch.setenv("ODD_AT_ONCE", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with WorkerPool(open_odd) as pool:
        plan = run(study_of(*range(4)), tmp_path / "out", pool=pool)
        assert pool.workers == 1
    assert len({pid for pid, _ in begun_by(tmp_path)}) == 1
    assert any("OMP_NUM_THREADS=1" in notice for notice in plan.notices) == (usable_cores() > 1)


@pytest.mark.parametrize(
    ("variables", "limited", "at_once", "cells", "told"),
    [
        (
            {"OMP_NUM_THREADS": "1"},
            False,
            9,
            9,
            "OMP_NUM_THREADS=1 is set; --workers 4",
        ),
        (
            {"MKL_NUM_THREADS": "2"},
            False,
            9,
            9,
            "MKL_NUM_THREADS=2 is set; --workers 2",
        ),
        (
            {},
            True,
            9,
            3,
            "time_limit is set, which is a cell's time with all cores; --workers 3 runs 3 at",
        ),
        ({"OMP_NUM_THREADS": "4"}, False, 9, 9, None),  # all of the cores
        ({"OMP_NUM_THREADS": "1"}, False, 1, 9, None),  # a GPU, or no memory for two
        ({"OMP_NUM_THREADS": "1"}, True, 9, 1, None),
        ({"OMP_NUM_THREADS": "4,2"}, False, 9, 9, None),  # of nested teams
        ({"OMP_NUM_THREADS": "2,1"}, False, 9, 9, "OMP_NUM_THREADS=2,1 is set; --workers 2 runs"),
        ({"OMP_NUM_THREADS": "1"}, True, 9, 9, "OMP_NUM_THREADS=1 is set and training.time_limit is set, which"),
        ({"BUSY": "3"}, False, 9, 9, "other processes keep the other cores busy; --workers 4 runs 4 at once"),
        ({}, False, 9, 9, None),
    ],
)
def test_why_cells_run_one_at_a_time_is_told(cores, monkeypatch, variables, limited, at_once, cells, told):
    monkeypatch.setattr(worker_pool, "usable_cores", lambda: 4)
    if "BUSY" in variables:
        monkeypatch.setattr(worker_pool, "free_threads", lambda most: 1)
        variables = {}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(worker_pool, "threads_per_worker", lambda workers: None)
    monkeypatch.setattr(Beside, "at_once", at_once)
    with WorkerPool(lambda threads: Beside()) as pool:
        found = pool.one_at_a_time(cells, limited)
    assert (found is None) == (told is None) and (told or "") in (found or ""), found
    with WorkerPool(lambda threads: Beside(), 1) as pool:
        assert pool.one_at_a_time(cells, limited) is None, "the user's own number"


@pytest.mark.parametrize("seed", [158, 100])
def test_a_cell_without_memory_beside_others_runs_again_by_itself(cores, open_odd, begun, tmp_path, monkeypatch, seed):
    """158 is out of memory the first time; 100 is killed each time, and that is its own result in the end."""
    monkeypatch.setenv("ODD_AT_ONCE", "2")
    told = io.StringIO()
    plan = run(study_of(0, seed, 1, 2), tmp_path / "out", pool=WorkerPool(open_odd), progress=Lines(told))
    assert begun().count(seed) == 2 and begun()[-1] == seed and sorted({*begun()}) == sorted({0, 1, 2, seed})
    outcomes = {c.seed: plan.store.get(c.id).outcome for c in plan.cells}
    assert outcomes == {0: "finished", 1: "finished", 2: "finished", seed: "finished" if seed == 158 else "failed"}
    (postponed,) = [line for line in told.getvalue().splitlines() if "runs by itself" in line]
    assert ("the card is full" if seed == 158 else "SIGKILL") in postponed
    started = [line.split("]")[0] for line in told.getvalue().splitlines() if ": started" in line]
    assert len(set(started)) == len(started) - 1, "that of the postponed one comes twice"
    assert told.getvalue().splitlines()[-1].startswith("[4/4]")


def test_one_without_memory_by_itself_is_not_tried_twice(open_odd, begun, tmp_path):
    plan = run(study_of(159, 0), tmp_path / "out", pool=WorkerPool(open_odd))
    assert begun() == [159, 0]
    assert [plan.store.get(c.id).outcome for c in plan.cells] == ["out_of_memory", "finished"]


@pytest.mark.parametrize(("workers", "least"), [(1, 0.5), (2, 1.5), (7, 6.5)])
def test_memory_holds_a_process_and_one_and_a_half_times_the_largest_step_each(tmp_path, monkeypatch, workers, least):
    cells = tuple(expand(study_file(tmp_path, STUDY)))
    largest = max(p.high_bytes for c in cells if c.training.steps and (p := predict_memory(c)))
    each = PROCESS_BYTES + BESIDE * largest
    monkeypatch.setattr(predict_cell, "free_host_bytes", lambda: int(least * each))
    found = foretell(cells)
    assert found.at_once in (workers, max(1, workers - 1)), "a family's largest stands for its cells"
    monkeypatch.setattr(predict_cell, "free_host_bytes", lambda: int((workers + 0.1) * each))
    assert foretell(cells).at_once == workers


def test_a_model_that_nothing_is_known_of_runs_by_itself(tmp_path):
    cells = tuple(expand(study_file(tmp_path, STUDY)))
    base = next(c for c in cells if not c.training.steps)
    other = base.model_copy(update={"model": base.model.model_copy(update={"name": "lorabench/tiny-4m"})})
    assert foretell(cells).at_once > 1
    assert foretell((*cells, other)).at_once == foretell((base,)).at_once == 1
    assert Foretold().at_once == 1


def test_what_the_command_line_takes():
    assert worker_count("auto") is None and worker_count("3") == 3
    with pytest.raises(Exception, match="'some' is no number of workers; allowed: auto, or a whole number such as 2"):
        worker_count("some")


class Beside(synthetic.Worker):
    """A worker that shares four cores, of whose cells one lacks memory in evaluation while it has company."""

    at_once, short, seen = 4, 2, []

    def limit(self, threads, cells):
        self.cells = cells
        self.seen.append(("limit", threads, cells))

    def run(self, cell, folder, on_event, *args):
        result = super().run(cell, folder, on_event, *args)
        self.seen.append(("run", cell.seed))
        if cell.seed != self.short:
            return result
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
        fault = Fault(kind="OutOfMemoryError", message="no room", phase="evaluate")
        return result.model_copy(update={"outcome": "out_of_memory", "error": fault})

    def repeat(self, before, phases, cell, folder, on_event):
        self.seen.append(("repeat", cell.seed, *phases))
        return before.model_copy(update={"outcome": "finished", "error": None})


def test_what_was_trained_beside_others_is_not_trained_again(cores, tmp_path):
    Beside.seen.clear()
    plan = run(study_of(0, 1, 2, 3, 4), tmp_path, pool=WorkerPool(lambda threads: Beside()))
    assert [plan.store.get(c.id).outcome for c in plan.cells] == ["finished"] * 5
    assert sorted(s for s in Beside.seen if s[0] == "run") == [("run", seed) for seed in range(5)]
    assert Beside.seen[-1][:3] == ("repeat", 2, "evaluate")
    assert Beside.seen[-2] == ("limit", 4, 1), "with all cores to itself"


def test_a_limit_in_seconds_was_meant_for_the_whole_machine(cores, tmp_path):
    Beside.seen.clear()
    timed = ODD.replace("SEEDS", "0, 1, 3").replace("steps: 20", "steps: 20, time_limit: 60")
    limited = read_study(parse_source(timed.lstrip(), "odd.yaml", tmp_path))
    for one, workers in ((study_of(0, 1, 3), 3), (limited, 1)):
        with WorkerPool(lambda threads: Beside()) as pool:
            run(one, tmp_path / str(workers), pool=pool)
            assert pool.workers == workers and pool.crowded == (workers > 1)


def test_a_pack_is_told_of_those_that_share_its_memory(open_odd, begun, tmp_path, monkeypatch):
    with WorkerPool(open_odd) as pool:
        one, sent = pool.first, []
        monkeypatch.setattr(one, "_send", lambda command: sent.append(command) or one._process.kill())
        one.limit(1, 3)
        first, second = expand(study_of(0, 1))
        one.run(first, tmp_path, lambda event: None, pack=(second,), gaining=True)
    assert sent[0] == {"do": "limit", "threads": 1}
    assert sent[1]["beside"] == 3


def test_parts_of_the_memory_are_what_a_pack_may_fill():
    prediction = MemoryPrediction(100, 90, 110, 1200)
    engine = SimpleNamespace(predict_memory=lambda cell: prediction)
    for command, parts, available in (({}, 1, 1200), ({}, 3, 400), ({"available": 300}, 3, 300)):
        assert worker._prediction(engine, None, command, parts).available_bytes == available
    assert packs.fitting(worker._prediction(engine, None, {}, 6), 8) == 8, "nothing is known of its parts"


def test_a_worker_keeps_to_its_threads(monkeypatch):
    """In a process of its own, whose numbers they are."""
    code = """
import os, torch, numpy, threadpoolctl
from lorabench.engine.environment import environment
from lorabench.runner.threads import FreeThreads, limit_threads
found = []
for most in (2, 1):
    limit_threads(most)
    blas = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    found.append((torch.get_num_threads(), blas, FreeThreads.of()._most, environment(torch.device("cpu")).cores))
assert found == [(n, {n}, n, n) for n in (2, 1)], found
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    subprocess.run([sys.executable, "-c", code], check=True)
