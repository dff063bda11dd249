"""A study runs from its file to its table with the real engine, and a killed run ends as an undisturbed one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import lorabench as lb

ROOT = Path(__file__).parents[1]
STUDY = """
schema: 1
name: small
question: Does it run?
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, alpha: 16}
training: {steps: 12, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}
grid: {method.rank: [2], quantization: [none, nf4]}
include: [{method: full, quantization: none, training.learning_rate: 1e-3}, {method: base, quantization: none}]
seeds: [0, 1]
reference: {method: full}
evaluation: {lm_eval: [python-docs-cloze], limit: 20, max_sequences: 16}
"""
COMMAND = [sys.executable, "-m", "lorabench", "run", "study.yaml", "--out", "out"]
MEASURED = r"_seconds$|^tokens_per_second$"  # what differs from run to run


def start(folder):
    (folder / "study.yaml").write_text(STUDY)
    return subprocess.Popen(
        COMMAND,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_an_undisturbed_one(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole")
    output, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, output

    killed = start(tmp_path / "killed")
    cells = tmp_path / "killed" / "out" / "cells"
    deadline = time.monotonic() + 300
    while len(finished(cells)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = finished(cells)
    stamps = {p: p.stat().st_mtime_ns for p in before}
    assert 2 <= len(before) < 7

    again = start(tmp_path / "killed")
    output, _ = again.communicate(timeout=500)
    assert again.returncode == 0, output
    assert f"{len(before)} done" in output
    assert all(p.stat().st_mtime_ns == t for p, t in stamps.items()), "finished cells are not run again"
    assert not list(cells.glob("*.partial"))

    tables = [pd.read_csv(tmp_path / n / "out" / "cells.csv") for n in ("whole", "killed")]
    tables = [t.loc[:, ~t.columns.str.contains(MEASURED)] for t in tables]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert len(tables[0]) == 7
    texts = [
        re.sub(r"[\d,.]+ *(tok|s\b)", "", (tmp_path / n / "out" / "table.md").read_text()) for n in ("whole", "killed")
    ]
    assert [row.count("|") for row in texts[0].splitlines()] == [row.count("|") for row in texts[1].splitlines()]


def finished(cells):
    return [p for p in cells.glob("*/result.json") if not p.parent.name.endswith(".partial")] if cells.is_dir() else []


@pytest.mark.slow
def test_the_python_api_gives_a_tidy_frame(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0]").replace("limit: 20", "limit: 4"))
    study = lb.load_study(tmp_path / "study.yaml", ["training.steps=2", "grid.quantization=[nf4]"])
    results = lb.run(study, tmp_path / "out")
    tidy = results.frame()
    assert set(tidy["outcome"]) == {"finished"}
    loss = tidy[tidy.metric == "eval_loss"].set_index("method")["value"]
    assert set(loss.index) == {"lora", "full", "base"}
    assert loss["full"] < loss["base"]
    for name in ("study.yaml", "cells.csv", "table.md", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    again = lb.run(study, tmp_path / "out")
    pd.testing.assert_frame_equal(again.frame(), tidy)
