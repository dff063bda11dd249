"""The local executor: the real worker process, over an engine that misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from lorabench.config.grid import expand
from lorabench.errors import LorabenchError, ModelError
from lorabench.record.result import CellResult, Fault
from lorabench.runner.worker import is_spoilt
from tests.runner.conftest import study_of


@pytest.fixture
def worker(open_odd, begun):
    worker = open_odd()
    yield worker
    worker.close()


def cells(*seeds):
    return expand(study_of(*seeds))


def run(worker, cell, tmp_path, events=None):
    folder = tmp_path / cell.id
    folder.mkdir(exist_ok=True)
    return worker.run(cell, folder, (events if events is not None else []).append)


def test_one_process_runs_cell_after_cell_and_reports_each_step(worker, tmp_path):
    events: list = []
    first, second = (run(worker, c, tmp_path, events) for c in cells(0, 1))
    assert (first.outcome, second.outcome) == ("finished", "finished")
    assert second.value("eval_loss") == pytest.approx(1.001)
    assert [e.step for e in events if e.cell == first.cell.id] == [None, *range(1, 21)]
    pids = {line.split()[2] for line in (tmp_path / "begun.txt").read_text().splitlines()}
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("seed", "kind", "words"),
    [
        (100, "killed by signal 9 (SIGKILL)", "run out of memory"),
        (101, "exit code 3", "exit code 3 in the phase 'train' after step 7"),
        (103, "killed by signal 11 (SIGSEGV)", "SIGSEGV"),
        (104, "SystemExit", "5"),
        (105, "RuntimeError", "the library is at fault"),
    ],
)
def test_a_cell_that_dies_is_recorded_and_the_next_one_runs(worker, tmp_path, seed, kind, words):
    bad, good = cells(seed, 1)
    result = run(worker, bad, tmp_path)
    assert (result.outcome, result.error.kind, result.error.step) == ("failed", kind, 7)
    assert words in result.error.message
    assert "\n" not in result.error.message
    assert run(worker, good, tmp_path).outcome == "finished"


def test_what_a_crash_leaves_is_in_the_log(worker, tmp_path):
    for cell, word in zip(cells(101, 103, 105), ("last words", "Segmentation fault", "Traceback"), strict=True):
        run(worker, cell, tmp_path)
        assert word in (tmp_path / cell.id / "log.txt").read_text()


def test_prints_of_libraries_go_to_the_log_and_leave_the_protocol_alone(worker, tmp_path, capfd):
    noisy, quiet = cells(102, 1)
    assert run(worker, noisy, tmp_path).outcome == "finished"
    assert run(worker, quiet, tmp_path).outcome == "finished"
    log = (tmp_path / noisy.id / "log.txt").read_bytes()
    for words in (b"from python", b"to standard error", b"\xff\xfe", b"from a child of ours", b"and its errors"):
        assert words in log
    assert (tmp_path / quiet.id / "log.txt").read_bytes() == b""
    assert capfd.readouterr() == ("", "")


def test_threads_are_set_before_any_library_loads(open_odd, begun, tmp_path, monkeypatch):
    monkeypatch.setattr("lorabench.runner.threads._physical_cores", lambda: 5)
    monkeypatch.setattr("lorabench.runner.threads.busy_cores", lambda: 2)
    worker = open_odd(3)
    run(worker, cells(0)[0], tmp_path)
    worker.close()
    assert (tmp_path / "begun.txt").read_text().split()[3] == "3"


def test_check_answers_with_problems_errors_and_faults(worker, begun):
    def ask(rank):
        return worker.check(expand(study_of(0, more=f"grid: {{method.rank: [{rank}]}}\n")))

    assert ask(4) == ()
    assert ask(64)[0].message == "rank 64 is above 48"
    with pytest.raises(ModelError, match="no such model"):
        ask(63)
    with pytest.raises(RuntimeError, match="a fault of the check itself"):
        ask(62)
    with pytest.raises(LorabenchError, match="ended with exit code 7 before the first cell: cannot go on"):
        ask(61)


def test_too_little_memory_to_begin_is_one_sentence(begun, tmp_path, monkeypatch):
    from lorabench.executors import local

    (tmp_path / "narrow").mkdir()
    (tmp_path / "narrow" / "__init__.py").write_text("raise MemoryError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = local.open_worker(engine="narrow")
    with pytest.raises(LorabenchError, match=r"first cell: MemoryError; free memory, or raise its limit \(ulimit -v\)"):
        worker.check(cells(0))
    worker.close()


def test_an_engine_that_cannot_be_imported_is_one_sentence(begun):
    from lorabench.executors import local

    worker = local.open_worker(engine="tests.runner.no_such_engine")
    with pytest.raises(LorabenchError, match="exit code 1 before the first cell: ModuleNotFoundError"):
        worker.check(cells(0))
    worker.close()


def test_a_killed_runner_leaves_no_worker(tmp_path, begun):
    code = (
        "import time; from lorabench.executors import local; worker ="
        " local.open_worker(engine='tests.runner.odd_engine',"
        " predictor='tests.runner.odd_engine.predict_cell');print(worker._process.pid, flush=True); time.sleep(60)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(runner.stdout.readline()))
    runner.kill()
    runner.wait()
    runner.stdout.close()
    end = time.monotonic() + 10
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.02)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_opening_a_slot_imports_nothing_heavy():
    code = (
        "import sys; from lorabench.executors import local; print([m for m in ('torch', 'pydantic', 'numpy') if m in"
        " sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert out.stdout.strip() == "[]"


def test_the_result_is_of_the_very_cell_that_was_asked_for(worker, tmp_path):
    full = expand(study_of(0, more="grid: {method: [{name: full}]}\n"))[0]
    assert full.method.rank is None
    assert run(worker, full, tmp_path).cell == full


@pytest.mark.parametrize(
    ("outcome", "kinds", "spoilt"),
    [
        ("finished", [], False),
        ("out_of_memory", [], False),
        ("failed", [], True),
        ("finished", ["OutOfMemoryError"], False),
        ("finished", ["AcceleratorError"], True),
    ],
)
def test_a_fault_on_a_gpu_ends_the_process_even_after_the_cell_has_finished(monkeypatch, outcome, kinds, spoilt):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True)))
    cell = expand(study_of(0))[0]
    faults = tuple(Fault(kind=kind, message="at fault", phase="measure") for kind in kinds)
    result = CellResult(cell=cell, outcome=outcome, faults=faults, started_at="2026-01-01")
    assert is_spoilt(cell, result) is spoilt
    assert is_spoilt(cell, None), "what ended past the engine"
