"""What failed after training is repeated from the saved weights, and gives the numbers of an undisturbed run."""

import stat

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorabench.engine.cell import repeat_cell, run_cell
from lorabench.engine.cell_evaluate import Scorer
from lorabench.engine.faults import fault_of, outcome_of
from lorabench.engine.train import Diverged
from lorabench.errors import ModelError
from lorabench.record.result import REPEATED
from tests.engine.conftest import cell_of


def numbers(result):
    """All but clocks."""
    return {
        r.metric: r for r in result.readings if not r.metric.endswith("_seconds") and r.metric != "tokens_per_second"
    }


def failing(self, known=None):
    raise OSError("no network")


def settings(*more):
    return cell_of("evaluation.forgetting=self", "training.steps=3", *more)


@pytest.mark.parametrize(
    "more",
    [
        ["method=lora"],
        pytest.param(["method=dora"], marks=pytest.mark.slow),
        ["method=pissa"],
        ["method=pissa", "model.dtype=bfloat16"],
        ["method=full"],
        ["method=full", "save.full=all"],
        ["quantization=nf4"],
    ],
    ids=" ".join,
)
def test_a_repeated_evaluation_gives_an_undisturbed_run_to_the_last_digit(more, tmp_path, monkeypatch):
    cell = settings(*more)
    whole, broken = tmp_path / "a" / "cells" / "x", tmp_path / "b" / "cells" / "x"
    for folder in (whole, broken):
        folder.mkdir(parents=True)
    undisturbed = run_cell(cell, whole)
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", failing)
        failed = run_cell(cell, broken)
    assert (failed.outcome, failed.error.phase, failed.error.message) == ("failed", "evaluate", "no network")
    assert failed.is_trained and failed.value("train_loss") is not None and failed.value("eval_loss") is None
    repeated = repeat_cell(cell, broken, failed, REPEATED)
    assert repeated.outcome == "finished", repeated.error
    assert numbers(repeated) == numbers(undisturbed)
    ours, theirs = (load_file(d / "spectra.safetensors") for d in (broken, whole))
    assert {n: t.tolist() for n, t in ours.items()} == {n: t.tolist() for n, t in theirs.items()}
    assert repeated.value("train_seconds") == failed.value("train_seconds"), "training was not repeated"
    assert repeated.started_at == failed.started_at


def test_a_failed_analysis_is_named_and_can_be_repeated_alone(folder, monkeypatch):
    cell = settings("method=lora")

    def broken(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("lorabench.engine.cell_evaluate.adapter_deltas", broken)
        result = run_cell(cell, folder)
    assert result.outcome == "finished"
    assert [(f.phase, f.kind) for f in result.faults] == [("decompose", "OutOfMemoryError")]
    assert not (folder / "spectra.safetensors").exists()
    repeated = repeat_cell(cell, folder, result, ("decompose",))
    assert (repeated.faults, numbers(repeated)) == ((), numbers(result))
    assert (folder / "spectra.safetensors").exists()


def test_a_repetition_that_fails_leaves_the_finished_result(folder, monkeypatch):
    result = run_cell(settings(), folder)
    monkeypatch.setattr(Scorer, "score", failing)
    again = repeat_cell(result.cell, folder, result, ("evaluate",))
    assert (again.outcome, again.readings) == ("finished", result.readings)
    assert [(f.phase, f.message) for f in again.faults] == [("evaluate", "no network")]


def test_weights_of_full_fine_tuning_load_with_transformers_and_are_readable_by_all(folder):
    result = run_cell(settings("method=full", "save.full=all"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert sum(p.numel() for p in model.parameters()) == result.value("total_parameters")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (folder / "model").rglob("*") if p.is_file()}
    assert modes == {0o644}


def test_adapters_are_readable_by_all(folder):
    run_cell(settings(), folder)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (folder / "adapter").iterdir()} == {0o644}
    assert stat.S_IMODE((folder / "adapter").stat().st_mode) == 0o755


def test_without_saved_weights_one_sentence_says_so(folder):
    result = run_cell(settings("method=full"), folder)
    assert not (folder / "model").exists()
    again = repeat_cell(result.cell, folder, result, ("decompose",))
    assert again.outcome == "finished"
    assert "no weights of this full fine-tuning were kept" in again.faults[0].message


def a_bug(*args):
    return {}["no such key"]


@pytest.mark.parametrize("phase", ["decompose", "truncate", "measure"])
def test_a_bug_in_an_analysis_is_a_recorded_fault_and_loses_nothing_else(phase, folder, monkeypatch, capfd):
    where = {
        "decompose": "cell_evaluate.adapter_deltas",
        "truncate": "cell_evaluate.truncations",
        "measure": "cell_measure.held_tensors",
    }
    monkeypatch.setattr("lorabench.engine.cell_measure._PEAKS", {})
    cell = settings("method=lora", "analysis.truncation=[1]")
    with monkeypatch.context() as patched:
        patched.setattr(f"lorabench.engine.{where[phase]}", a_bug)
        result = run_cell(cell, folder)
    assert result.outcome == "finished"
    (fault,) = result.faults
    assert (fault.phase, fault.kind) == (phase, "KeyError")
    assert "no such key" in fault.message and "log.txt" in fault.message
    assert "in a_bug" in capfd.readouterr().err, "its traceback goes to the cell's log"
    repeated = repeat_cell(cell, folder, result, (phase,))
    assert repeated.faults == ()
    assert numbers(result).items() <= numbers(repeated).items()


def test_a_bug_in_the_evaluation_keeps_what_was_read_before_it(folder, monkeypatch, capfd):
    monkeypatch.setattr("lorabench.engine.cell_evaluate.forgetting_reading", a_bug)
    result = run_cell(settings("method=full"), folder)
    assert (result.outcome, result.error.phase, result.error.kind) == ("failed", "evaluate", "KeyError")
    assert "bug" in result.error.message and "in a_bug" in capfd.readouterr().err
    assert result.value("train_loss") is not None and result.value("eval_loss") is not None
    assert (folder / "model").is_dir(), "the evaluation can be repeated from its weights"


def test_a_foreseen_fault_is_told_in_its_own_sentence_alone():
    assert fault_of(OSError("no network"), "evaluate").message == "no network"
    assert fault_of(ModelError("no such model"), "load").message == "no such model"
    assert fault_of(Diverged(3, "loss"), "train").message == str(Diverged(3, "loss"))
    assert outcome_of(torch.OutOfMemoryError("CUDA out of memory")) == "out_of_memory"
    assert outcome_of(KeyError("x")) == "failed"
