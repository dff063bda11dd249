"""A real worker that is killed at a random step of a long cell goes on with the next run, to the last digit of an
undisturbed one."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
STUDY = """
schema: 1
name: long
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4, dropout: 0.2}
training: {steps: 150, batch_size: 4, sequence_length: 48, learning_rate: 3e-3, checkpoint_every: 4}
evaluation: {lm_eval: [], max_sequences: 16, forgetting: none}
"""
PACKED = """
schema: 1
name: packed
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4}
grid: {method.rank: [2, 4, 8, 16]}
training: {steps: 10, batch_size: 2, sequence_length: 48, learning_rate: 3e-3}
evaluation: {lm_eval: [], max_sequences: 64, batch_size: 2}
"""
COMMAND = [sys.executable, "-m", "lorabench", "run", "study.yaml", "--out", "out"]


def start(folder, study=STUDY, *options):
    (folder / "study.yaml").write_text(study)
    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def worker_of(runner):
    (child,) = (int(p) for p in Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split())
    return child


def without_clocks(frame):
    return frame[[c for c in frame if not c.endswith("_seconds") and c != "tokens_per_second"]]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the worker", "SIGTERM"])
def test_killed_at_a_random_step_it_goes_on_to_the_last_digit(way, tmp_path, whole):
    runner = start(tmp_path)
    cells = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 120
    while not list(cells.glob("*.partial/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.6))
    if way == "the worker":
        os.kill(worker_of(runner), signal.SIGKILL)
    else:
        runner.send_signal(signal.SIGTERM)
    runner.communicate(timeout=120)
    assert (left := list(cells.glob("*.partial/checkpoint.pt"))), "it was killed too late"
    assert len(left) == 1

    again = start(tmp_path)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    (step,) = map(int, re.findall(r"resumed at step (\d+) of 150", output))
    assert step % 4 == 0
    assert not list(cells.glob("*.partial"))
    assert not list(cells.rglob("checkpoint*"))
    ours, theirs = (
        pd.read_csv(next(d.glob("out/cells/*/curve.csv")), float_precision="round_trip") for d in (tmp_path, whole)
    )
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"), check_exact=True)
    assert ours.seconds.is_monotonic_increasing
    ours, theirs = (
        without_clocks(pd.read_csv(d / "out" / "cells.csv", float_precision="round_trip")) for d in (tmp_path, whole)
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    runner = start(folder)
    output, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("most", [0.0, 1.5])
def test_a_pack_killed_after_its_last_step_ends_with_the_last_digit_of_an_undisturbed_one(most, tmp_path):
    """Its adapters are evaluated beside each other or, later, their cells are under way."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    runner = start(whole, PACKED, "--pack", "4")
    output, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, output
    runner = start(killed, PACKED, "--pack", "4")
    deadline = time.monotonic() + 120
    while not list(killed.glob("out/packs/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, most))
    os.killpg(runner.pid, signal.SIGKILL)
    runner.communicate(timeout=120)
    assert list(killed.glob("out/packs/*.pt")), "it was killed too late"
    runner = start(killed, PACKED, "--pack", "4")
    output, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, output
    assert not (killed / "out" / "packs").exists()
    ours, theirs = (pd.read_csv(d / "out" / "cells.csv", float_precision="round_trip") for d in (killed, whole))
    assert (theirs.pack_cells == 4).all() and theirs.pack_eval_seconds.notna().all()
    pd.testing.assert_frame_equal(without_clocks(ours), without_clocks(theirs), check_exact=True)
