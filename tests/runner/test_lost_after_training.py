"""A cell whose worker is killed while it evaluates has its prediction when the next run has finished it."""

import os
import signal

import psutil

from lorabench.config import load_study
from lorabench.runner.run import run

STUDY = """
schema: 1
name: lost
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 2}
training: {steps: 4, batch_size: 4, sequence_length: 48}
evaluation: {lm_eval: [], forgetting: none}
analysis: {spectra: none}
"""


class Killing:
    """Kills the worker as it begins to evaluate."""

    def __init__(self):
        self.killed = 0

    def event(self, event):
        if event.phase == "evaluate" and not self.killed:
            self.killed += 1
            for child in psutil.Process().children():
                if "lorabench.runner.worker" in child.cmdline():
                    os.kill(child.pid, signal.SIGKILL)

    def __getattr__(self, name):
        return lambda *_: None


def test_a_cell_lost_after_training_has_its_prediction_too(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    study, killing = load_study(tmp_path / "study.yaml"), Killing()
    (lost,) = run(study, tmp_path / "out", progress=killing).store.results()
    assert killing.killed == 1 and lost.outcome == "failed" and lost.is_trained
    (repeated,) = run(study, tmp_path / "out").store.results()
    (undisturbed,) = run(study, tmp_path / "whole").store.results()
    ours, theirs = ({r.metric: r.value for r in result.readings} for result in (repeated, undisturbed))
    assert set(theirs) - set(ours) == {"save_seconds", "cell_seconds"}  # of what was not seen to its end
    predicted = {m for m in theirs if m.startswith("predicted_")}
    assert "predicted_train_peak_bytes" in predicted
    assert {m: ours[m] for m in predicted} == {m: theirs[m] for m in predicted}
