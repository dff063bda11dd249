"""A training that was stopped at any step goes on to the same last digit; what is no checkpoint of it is told and not
used.
"""

import csv
import random

import pytest
import torch
from safetensors.torch import load_file

from lorabench.engine import checkpoint
from lorabench.engine.cell import run_cell
from lorabench.record.items import FILE
from lorabench.record.store import CHECKPOINT
from tests.engine.conftest import cell_of, cells_of

EVERY = ("training.steps=11", "training.checkpoint_every=2")
FEW = """
schema: 1
name: few
model: lorabench/tiny-300k
task: {name: instruct, train: rows.jsonl, eval: more.jsonl, prompt: "{q}", response: "{a}"}
method: {name: lora, rank: 4, dropout: 0.3}
training: {steps: 11, batch_size: 4, sequence_length: 48, learning_rate: 5e-3, checkpoint_every: 2}
evaluation: {lm_eval: [], max_sequences: 8, forgetting: none}
"""
SETTINGS = {
    "dropout": ("method.dropout=0.3",),
    "full": ("method={name: full}",),
    "full accumulated": ("method={name: full}", "training.gradient_accumulation=3", "training.optimizer=adamw-8bit"),
    "sgd": ("training.optimizer=sgd", "training.learning_rate=0.5"),
    "8-bit": ("method.rank=64", "training.optimizer=adamw-8bit"),
    "paged": ("training.optimizer=paged-adamw-8bit", "method.dropout=0.1"),
    "pissa": ("method={name: pissa}", "method.dropout=0.2"),
    "dora": ("method={name: dora}", "method.dropout=0.2", "training.gradient_checkpointing=true"),
    "nf4": ("quantization=nf4", "method.dropout=0.2"),
    "planted": ("task={name: planted, rank: 2}",),
}
COVERED = ("full", "8-bit", "paged", "planted")
"""by "full accumulated", which has 8-bit states, too; paged ones are the same on a CPU, and a task keeps no state"""


class Stopped(RuntimeError):
    pass


def stopped_at(step):
    def report(event):
        if event.step == step:
            raise Stopped(f"at step {step}")

    return report


def curve(folder):
    with (folder / "curve.csv").open() as stream:
        return [(r["step"], r["loss"], r["learning_rate"], r["grad_norm"]) for r in csv.DictReader(stream)]


def measured(result):
    return {
        r.metric: (r.value, r.stderr)
        for r in result.readings
        if not r.metric.endswith("_seconds") and r.metric != "tokens_per_second"
    }


def compare(cell, folder, whole, step):
    """Runs a cell until a step and again, beside one that is not disturbed."""
    whole.mkdir(parents=True)
    undisturbed = run_cell(cell, whole)
    assert undisturbed.outcome == "finished", undisturbed.error
    assert run_cell(cell, folder, stopped_at(step)).error.kind == "Stopped"
    notes = []
    torch.manual_seed(random.randrange(2**31))
    resumed = run_cell(cell, folder, lambda e: notes.append(e.note))
    assert [n for n in notes if n] == [f"resumed at step {(step - 1) // 2 * 2} of 11"]
    assert curve(folder) == curve(whole)
    assert len(curve(whole)) == 11
    assert measured(resumed) == measured(undisturbed)
    assert (folder / FILE).read_bytes() == (whole / FILE).read_bytes()
    for name in ("adapter/adapter_model.safetensors", "spectra.safetensors"):
        assert (whole / name).exists() == (folder / name).exists()
        if (whole / name).exists():
            ours, theirs = load_file(folder / name), load_file(whole / name)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COVERED else name for name in SETTINGS]
)
def test_a_stopped_training_goes_on_to_the_last_digit(name, folder, tmp_path):
    compare(cell_of(*EVERY, *SETTINGS[name]), folder, tmp_path / "cells" / "whole.partial", random.randint(3, 11))


def test_epochs_that_run_across_batches_go_on_to_the_last_digit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, numbers in (("rows.jsonl", range(7)), ("more.jsonl", range(20, 25))):
        (tmp_path / name).write_text("".join(f'{{"q": "word {i}", "a": "number {i * i}"}}\n' for i in numbers))
    (cell,) = cells_of(text=FEW)
    compare(cell, folder, tmp_path / "cells" / "whole.partial", 8)


def test_one_stopped_after_training_takes_no_step_again(folder):
    def report(event):
        if event.phase == "evaluate":
            raise Stopped("in the evaluation")

    cell = cell_of(*EVERY)
    assert run_cell(cell, folder, report).outcome == "failed"
    seen = []
    assert run_cell(cell, folder, seen.append).outcome == "finished"
    assert not [e for e in seen if e.step]
    assert [e.note for e in seen if e.note] == ["resumed at step 11 of 11"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "another cell's", "another device's", "another format"])
def test_what_is_no_checkpoint_of_it_is_told_and_training_starts_at_zero(harm, folder):
    cell = cell_of(*EVERY)
    run_cell(cell, folder, stopped_at(7))
    file = folder / CHECKPOINT
    whole = bytearray(file.read_bytes())
    if harm in ("cut", "empty"):
        file.write_bytes(whole[: len(whole) // 2 if harm == "cut" else 0])
    elif harm == "flipped":
        for i in range(len(whole) // 2, len(whole) // 2 + 256):  # more than the padding between two tensors
            whole[i] ^= 255
        file.write_bytes(whole)
    else:
        key, value = {
            "another cell's": ("cell", "0" * 12),
            "another device's": ("device", "Tesla T4"),
            "another format": ("format", 99),
        }[harm]
        torch.save(torch.load(file, weights_only=True) | {key: value}, file)
    seen = []
    assert run_cell(cell, folder, seen.append).outcome == "finished"
    (told,) = [e.warning for e in seen if e.warning]
    assert told.endswith("training starts at step 0")
    assert [e.step for e in seen if e.step] == list(range(1, 12))


def test_a_disk_without_room_is_told_once_and_ends_nothing(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    seen = []
    assert run_cell(cell_of(*EVERY), folder, seen.append).outcome == "finished"
    assert [e.warning for e in seen if e.warning] == [
        "its checkpoint cannot be written (No space left on device); training goes on without it"
    ]
    assert not list(folder.glob("checkpoint*"))


def test_never_writes_none_and_auto_writes_by_the_clock(folder, monkeypatch):
    run_cell(cell_of("training.checkpoint_every=never"), folder)
    assert not (folder / CHECKPOINT).exists()
    run_cell(cell_of(), folder)
    assert not (folder / CHECKPOINT).exists(), "six steps take no five minutes"
    monkeypatch.setattr(checkpoint, "AUTO_SECONDS", 0.0)
    run_cell(cell_of(), folder)
    assert (folder / CHECKPOINT).exists()
