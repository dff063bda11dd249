"""Runs of whole studies: real worker processes over the odd engine, killed, interrupted and shared."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import psutil
import pytest

from lorabench.errors import LorabenchError, StoreError, StudyError
from lorabench.record.store import Store
from lorabench.runner.display import Lines
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import STUDY, source_of, study_of


def outcomes(plan):
    return [plan.store.get(c.id).outcome for c in plan.cells]


def test_a_crash_is_recorded_and_the_study_goes_on(open_odd, begun, tmp_path):
    plan = run(study_of(0, 100, 101, 1), tmp_path / "out", pool=WorkerPool(open_odd))
    assert outcomes(plan) == ["finished", "failed", "failed", "finished"]
    rows = list(csv.DictReader((tmp_path / "out" / "cells.csv").open()))
    assert [r["outcome"] for r in rows] == outcomes(plan)
    assert rows[1]["eval_loss"] == ""
    assert "SIGKILL" in rows[1]["error"]
    assert not list((tmp_path / "out" / "cells").glob("*.partial"))


def test_a_second_run_runs_what_is_missing_and_what_failed(open_odd, begun, tmp_path):
    run(study_of(0, 101), tmp_path / "out", pool=WorkerPool(open_odd))
    run(study_of(0, 101, 1), tmp_path / "out", pool=WorkerPool(open_odd))
    assert begun() == [0, 101, 101, 1]
    run(study_of(0, 101, 1), tmp_path / "out", pool=WorkerPool(open_odd), retry=())
    assert begun() == [0, 101, 101, 1]


def test_several_workers_run_each_cell_once(open_odd, begun, tmp_path):
    plan = run(study_of(*range(8)), tmp_path / "out", pool=WorkerPool(open_odd, workers=2))
    assert outcomes(plan) == ["finished"] * 8
    assert sorted(begun()) == list(range(8))
    assert len({line.split()[2] for line in (tmp_path / "begun.txt").read_text().splitlines()}) == 2


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("grid:\n  method.rank: [4,\n    64]\n", "odd.yaml:10"),
        ("include:\n  - {method.alpha: 8}\n  - method.rank: 64\n", "odd.yaml:10"),
        ("include:\n  - method: {name: rslora,\n      rank: 64}\n", "odd.yaml:10"),
        ("include:\n  - quantization: nf4\n    grid:\n      method.rank:\n        - 8\n        - 64\n", "odd.yaml:13"),
    ],
)
def test_a_problem_found_by_the_engine_names_the_line_its_value_came_from(open_odd, begun, tmp_path, more, place):
    source = source_of(0, 1, more=more)
    with pytest.raises(StudyError, match=f"^{place}: rank 64 is above 48$"):
        run(study_of(0, 1, more=more), tmp_path / "out", pool=WorkerPool(open_odd), source=source)
    assert begun() == []
    assert not (tmp_path / "out").exists()


def test_a_problem_of_the_base_setting_names_its_line(open_odd, begun, tmp_path):
    from lorabench.config.load import read_study
    from lorabench.config.source import override, parse_source

    source = parse_source(STUDY.replace("SEEDS", "0").replace("rank: 4", "rank: 64").lstrip(), "odd.yaml", tmp_path)
    with pytest.raises(StudyError, match=r"^odd\.yaml:5: rank 64"):
        run(read_study(source), tmp_path / "out", pool=WorkerPool(open_odd), source=source)
    source = override(source_of(0), ("method.rank=64",))
    with pytest.raises(StudyError, match=r"^--set method\.rank: rank 64"):
        run(read_study(source), tmp_path / "out", pool=WorkerPool(open_odd), source=source)


def test_no_workers_is_an_error():
    with pytest.raises(LorabenchError, match="0 workers"):
        WorkerPool("synthetic", workers=0)


# a runner of its own process


def begin(tmp_path, *seeds, out="out"):
    study = tmp_path / "odd.yaml"
    study.write_text(STUDY.replace("SEEDS", ", ".join(map(str, seeds))))
    command = [sys.executable, "-m", "tests.runner.odd_runner", "run", str(study), "--out", str(tmp_path / out)]
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a job in the background of a script inherits a SIGINT that is ignored
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    )


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def worker_of(runner):
    return psutil.Process(runner.pid).children()[0]


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_kill_9_in_mid_study_leaves_no_orphan_and_costs_only_the_half_cell(begun, tmp_path):
    first = begin(tmp_path, 0, 202, 1)
    until(lambda: begun() == [0, 202])
    worker = worker_of(first)
    first.kill()
    first.communicate()
    until(lambda: gone(worker), 5)
    (half,) = (tmp_path / "out" / "cells").glob("*.partial")
    (half / "left over").write_text("by the killed runner")

    second = begin(tmp_path, 0, 202, 1)
    out, _ = second.communicate(timeout=60)
    assert "3 cells, 1 done, 2 to run" in out
    assert begun() == [0, 202, 202, 1]
    assert not list((tmp_path / "out" / "cells").glob("*.partial"))
    assert not list((tmp_path / "out" / "cells").rglob("left over"))
    assert [r.value("eval_loss") for r in Store(tmp_path / "out").results()] == pytest.approx([1.0, 1.202, 1.001])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("to_group", [True, False])
def test_an_interrupted_run_keeps_what_is_finished_and_says_how_to_go_on(begun, tmp_path, number, code, to_group):
    runner = begin(tmp_path, 0, 800, 1)
    until(lambda: 800 in begun())
    worker = worker_of(runner)
    (os.killpg if to_group else os.kill)(runner.pid, number)
    try:
        _, err = runner.communicate(timeout=60)  # a tenth of what is left of the cell: it is not waited for
    finally:
        runner.kill()
    assert runner.returncode == code
    assert err.startswith(
        "lorabench: stopped; what has finished is kept; the same command continues from there: lorabench run "
    )
    assert "Traceback" not in err
    assert gone(worker)
    assert [r.outcome for r in Store(tmp_path / "out").results()] == ["finished"]
    assert len((tmp_path / "out" / "cells.csv").read_text().splitlines()) == 2


def test_a_run_whose_reader_has_left_ends_and_is_continued(begun, tmp_path):
    """`lorabench run STUDY.yaml | head -3`"""
    runner = begin(tmp_path, 0, 230, 1)
    until(lambda: 230 in begun())
    worker = worker_of(runner)
    runner.stdout.close()
    try:
        assert runner.wait(60) == 141  # what a shell shows for SIGPIPE
    finally:
        runner.kill()
    assert "Traceback" not in runner.stderr.read()
    assert gone(worker)
    assert [r.outcome for r in Store(tmp_path / "out").results()] == ["finished"]


def test_two_runners_share_a_directory_and_run_each_cell_once(begun, tmp_path):
    seeds = (*range(6), 101)
    runners = [begin(tmp_path, *seeds), begin(tmp_path, *seeds)]
    texts = [r.communicate(timeout=90) for r in runners]
    assert Counter(begun()) == Counter(seeds), texts
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert len(plan["cells"]) == 7
    assert len(Store(tmp_path / "out").results()) == 7
    assert not list((tmp_path / "out" / "cells").glob("*.partial"))


def test_a_folder_that_cannot_be_written_is_one_sentence(begun, tmp_path):
    (tmp_path / "out").write_text("a file in the way")
    runner = begin(tmp_path, 0)
    _, err = runner.communicate(timeout=30)
    assert runner.returncode == 2
    assert "cannot be written" in err
    assert len(err.splitlines()) == 1


def test_what_may_not_fit_is_warned_of_and_run(open_odd, begun, tmp_path):
    stream = io.StringIO()
    plan = run(study_of(0, 106, 107), tmp_path / "out", pool=WorkerPool(open_odd), progress=Lines(stream))
    assert outcomes(plan) == ["finished"] * 3
    assert begun() == [0, 106, 107]
    told = [line for line in stream.getvalue().splitlines() if "warning" in line]
    assert len(told) == 2
    assert "seed 106: warning: predicted not to fit into memory: 30.0 to 40.0 GB predicted, 20.0 GB free" in told[0]
    assert "seed 107: warning: may not fit into memory: 15.0 to 25.0 GB predicted, 20.0 GB free" in told[1]
    assert [plan.store.get(c.id).value("predicted_train_peak_bytes") for c in plan.cells] == [None, 1e10, 1e10]


def test_what_is_predicted_not_to_fit_is_skipped_where_that_is_wanted_and_tried_by_the_next_run(
    open_odd, begun, tmp_path
):
    plan = run(study_of(106, 107, 1), tmp_path / "out", pool=WorkerPool(open_odd), skip_infeasible=True)
    assert outcomes(plan) == ["skipped", "finished", "finished"]
    assert "30.0 to 40.0 GB predicted, 20.0 GB free" in plan.store.get(plan.cells[0].id).error.message
    assert begun() == [107, 1]
    plan = run(study_of(106, 107, 1), tmp_path / "out", pool=WorkerPool(open_odd))
    assert outcomes(plan) == ["finished"] * 3
    assert begun() == [107, 1, 106]


def test_measured_and_invented_results_do_not_mix(open_odd, begun, tmp_path):
    run(study_of(0), tmp_path / "invented", pool=WorkerPool("synthetic"))
    with pytest.raises(StoreError, match="holds invented results of the executor synthetic"):
        run(study_of(0, 1), tmp_path / "invented", pool=WorkerPool("local"))
    assert outcomes(run(study_of(0, 1), tmp_path / "invented", pool=WorkerPool("synthetic"))) == ["finished"] * 2


def test_an_empty_name_is_no_results_directory(open_odd, begun):
    with pytest.raises(StoreError, match="empty name"):
        run(study_of(0), "", pool=WorkerPool(open_odd))
