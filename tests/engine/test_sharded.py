"""A cell that two processes train together (FSDP by accelerate, gloo on the CPU) has the losses and weights of one that
a single process trains."""

import pandas as pd
import pytest
from safetensors.torch import load_file

from lorabench.engine.cell import run_cell
from lorabench.engine.sharded import WEIGHTS, train_sharded, unshardable
from tests.engine.conftest import cells_of

STUDY = """
schema: 1
name: sharded
model: lorabench/tiny-300k
task: python-docs
method: full
training: {steps: 5, batch_size: 3, gradient_accumulation: 2, sequence_length: 48, learning_rate: 1e-3, warmup: 0}
evaluation: {lm_eval: [], max_sequences: 8}
save: {full: all}
"""


def cell_of(*settings: str):
    (cell,) = cells_of(*settings, text=STUDY)
    return cell


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 1])
def test_two_processes_have_the_losses_and_weights_of_one(tmp_path, rows):
    """Of 3 rows one process has two and the other one, of 1 the other none: the losses are sums over all of them, not
    means of means."""
    cell, (alone, two) = (
        cell_of(f"training.batch_size={rows}"),
        [tmp_path / name / "cells" / "x" for name in ("alone", "two")],
    )
    for folder in (alone, two):
        folder.mkdir(parents=True)
    events = []
    one = run_cell(cell, alone)
    both = run_cell(cell, two, packed=train_sharded(cell, two, 2, events.append))
    assert one.outcome == both.outcome == "finished"
    ours, theirs = (pd.read_csv(folder / "curve.csv") for folder in (two, alone))
    assert ours["loss"].to_numpy() == pytest.approx(theirs["loss"].to_numpy(), rel=1e-5)
    assert ours["grad_norm"].to_numpy() == pytest.approx(theirs["grad_norm"].to_numpy(), rel=1e-4)
    assert (ours["learning_rate"] == theirs["learning_rate"]).all()
    for metric in ("eval_loss", "train_loss", "train_tokens", "padding_percent", "trainable_parameters"):
        assert both.value(metric) == pytest.approx(one.value(metric), rel=1e-5), metric
    assert (one.value("train_cards"), both.value("train_cards")) == (None, 2)
    assert [e.step for e in events if e.step] == [1, 2, 3, 4, 5]
    assert events[0].note.startswith("trains in 2 processes; no checkpoint is written")
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (alone, two))
    assert before.keys() == after.keys()
    for name, weight in before.items():  # Adam's first steps are about the rate's size, whatever the gradient's
        assert (weight - after[name]).abs().max() < 1e-4, name
    assert not (two / WEIGHTS).exists()


@pytest.mark.slow
def test_a_rate_that_diverges_ends_all_processes_and_the_cell_as_it_would_alone(tmp_path):
    cell, (alone, two) = cell_of("training.learning_rate=1e30"), [tmp_path / n / "cells" / "x" for n in ("one", "two")]
    for folder in (alone, two):
        folder.mkdir(parents=True)
    result, expected = run_cell(cell, two, packed=train_sharded(cell, two, 2)), run_cell(cell, alone)
    assert (result.outcome, result.error) == (expected.outcome, expected.error)
    assert result.outcome == "diverged"
    assert len(pd.read_csv(two / "curve.csv")) == len(pd.read_csv(alone / "curve.csv"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("method={name: lora}",), "lora trains adapters; only full fine-tuning is sharded"),
        (("training.optimizer=adamw-8bit",), "adamw-8bit takes no sharded tensors"),
    ],
)
def test_what_cannot_be_sharded_is_told_and_left_to_one_gpu(tmp_path, changes, words):
    events = []
    cell = cell_of(*changes)
    assert words in unshardable(cell)
    assert train_sharded(cell, tmp_path, 2, events.append) is None
    assert words in events[0].note
