"""A worker that hangs or runs out of memory costs its own cell, with a sentence, and no other."""

import functools
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lorabench.config.grid import expand
from lorabench.executors import local
from lorabench.runner import patience as module
from lorabench.runner.oom_kills import counters, kills
from lorabench.runner.patience import Patience
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import ENGINE, study_of


def limited(*seeds, seconds=1.5):
    study = study_of(*seeds)
    return study.model_copy(update={"training": study.training.model_copy(update={"time_limit": seconds})})


def outcomes(plan):
    return [plan.store.get(c.id).outcome for c in plan.cells]


def test_a_cell_that_hangs_is_killed_at_its_time_limit_and_the_others_run(open_odd, begun, tmp_path):
    began = time.monotonic()
    plan = run(limited(0, 108, 1), tmp_path / "out", pool=WorkerPool(open_odd))
    assert time.monotonic() - began < 20
    assert outcomes(plan) == ["finished", "failed", "finished"]
    error = plan.store.get(plan.cells[1].id).error
    assert (error.kind, error.step) == ("TimeLimit", 7)
    assert error.message == (
        "the worker process took longer than the cell's time limit of 1.5 s and was killed in the phase 'train' after"
        " step 7; raise training.time_limit if it was only slow: the next run goes on from its checkpoint"
    )
    assert begun() == [0, 108, 1]


def test_a_time_limit_is_no_part_of_what_a_cell_is():
    one, other = expand(study_of(0)), expand(limited(0, seconds=60))
    assert [c.id for c in one] == [c.id for c in other]
    assert other[0].training.time_limit == 60


@pytest.mark.slow
def test_a_worker_without_a_sign_of_life_is_killed(begun, tmp_path):
    frozen = functools.partial(
        local.open_worker, engine=ENGINE, predictor=f"{ENGINE}.predict_cell", silent=module.BEAT_SECONDS + 2
    )
    plan = run(study_of(109, 1), tmp_path / "out", pool=WorkerPool(frozen))
    assert outcomes(plan) == ["failed", "finished"]
    error = plan.store.get(plan.cells[0].id).error
    assert error.kind == "NoHeartbeat"
    assert "gave no sign of life for 7.0 s and was killed in the phase 'train' after step 7" in error.message


def test_only_time_in_which_the_runner_was_awake_counts(monkeypatch):
    clock = iter([0.0, 0.5, 1000.0, 1000.5, 1001.0, 1001.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    waiting = Patience(limit=2.2, silent=100)
    for _ in range(3):
        waiting.look(heard=False)
        assert waiting.ended is None
    waiting.look(heard=False)
    waiting.look(heard=False)
    assert waiting.ended[0] == "TimeLimit"


@pytest.mark.slow
def test_memory_that_the_system_refuses_ends_the_cell_as_out_of_memory(open_odd, begun, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_AS)
    pool = WorkerPool(open_odd)
    try:
        resource.prlimit(pool.first._process.pid, resource.RLIMIT_AS, (600 * 2**20, before[1]))
        plan = run(study_of(0, 110, 1), tmp_path / "out", pool=pool)
    finally:
        pool.close()
    assert [plan.store.get(c.id).outcome for c in plan.cells] == ["finished", "out_of_memory", "finished"]
    assert begun() == [0, 110, 1]
    run(study_of(0, 110, 1), tmp_path / "out", pool=WorkerPool(open_odd))
    assert begun() == [0, 110, 1], "another try would end the same way"


@pytest.fixture
def group():
    """A control group that may hold 300 MB."""
    for folder, limit in (
        (Path("/sys/fs/cgroup/memory/lorabench-test"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup/lorabench-test"), "memory.max"),
    ):
        try:
            folder.mkdir(exist_ok=True)
            (folder / limit).write_text(str(300 * 2**20))
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            continue
        yield folder
        for _ in range(50):  # until the last process in it is gone
            time.sleep(0.2)
            with suppress(OSError):
                folder.rmdir()
                return
        return
    pytest.skip("no control group can be made here")


@pytest.mark.slow
def test_a_worker_that_the_system_kills_for_memory_ends_the_cell_as_out_of_memory(open_odd, begun, tmp_path, group):
    pool = WorkerPool(open_odd)
    (group / "cgroup.procs").write_text(str(pool.first._process.pid))
    assert kills(counters(pool.first._process.pid)) == 0
    plan = run(study_of(0, 110, 1), tmp_path / "out", pool=pool)
    assert outcomes(plan) == ["finished", "out_of_memory", "finished"]
    error = plan.store.get(plan.cells[1].id).error
    assert error.message == (
        "the operating system ran out of memory and ended the worker process in the phase 'train' after step 7"
    )
    assert begun() == [0, 110, 1]
