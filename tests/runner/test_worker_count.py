"""How many cells run at a time where nobody says so: by cores, memory and cells, and what happens where the memory does
not hold them after all."""

from __future__ import annotations

import io
import itertools

import pytest

from lorabench.commands.arguments import worker_count
from lorabench.config import expand
from lorabench.engine.events import Foretold
from lorabench.memory import predict_cell
from lorabench.memory.predict_cell import BESIDE, PROCESS_BYTES, foretell, predict_memory
from lorabench.runner import worker_pool
from lorabench.runner.display import Lines
from lorabench.runner.run import run
from lorabench.runner.worker_count import SHARED, workers_for
from lorabench.runner.worker_pool import WorkerPool
from tests.report.stores import STUDY
from tests.report.stores import study_of as study_file
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
        run(study_of(*range(4)), tmp_path / "out", pool=pool)
        assert pool.workers == 1
    assert len({pid for pid, _ in begun_by(tmp_path)}) == 1


@pytest.mark.parametrize("seed", [158, 100])
def test_a_cell_without_memory_beside_others_runs_again_by_itself(cores, open_odd, begun, tmp_path, monkeypatch, seed):
    """158 is out of memory the first time; 100 is killed each time, and that is its own result in the end."""
    monkeypatch.setenv("ODD_AT_ONCE", "2")
    told = io.StringIO()
    plan = run(study_of(0, seed, 1, 2), tmp_path / "out", pool=WorkerPool(open_odd), progress=Lines(told))
    assert begun().count(seed) == 2 and begun()[-1] == seed and sorted({*begun()}) == sorted({0, 1, 2, seed})
    outcomes = {c.seed: plan.store.get(c.id).outcome for c in plan.cells}
    assert outcomes == {0: "finished", 1: "finished", 2: "finished", seed: "finished" if seed == 158 else "failed"}
    assert told.getvalue().count("runs again by itself") == 1
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
