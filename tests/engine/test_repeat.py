"""What failed after training is repeated from the saved weights, and gives the numbers of an undisturbed run."""

import stat

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorabench.engine import cell as engine
from lorabench.engine.cell import repeat_cell, run_cell
from lorabench.record.result import REPEATED
from tests.engine.conftest import cell_of


def numbers(result):
    """All but clocks."""
    return {
        r.metric: r for r in result.readings if not r.metric.endswith("_seconds") and r.metric != "tokens_per_second"
    }


def failing(self, data):
    raise OSError("no network")


def settings(*more):
    return cell_of("evaluation.forgetting=self", "training.steps=3", *more)


@pytest.mark.parametrize(
    "more",
    [
        ["method=lora"],
        ["method=dora"],
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
        patched.setattr(engine._Run, "_accuracy", failing)
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
        patched.setattr("lorabench.engine.cell.adapter_deltas", broken)
        result = run_cell(cell, folder)
    assert result.outcome == "finished"
    assert [(f.phase, f.kind) for f in result.faults] == [("decompose", "OutOfMemoryError")]
    assert not (folder / "spectra.safetensors").exists()
    repeated = repeat_cell(cell, folder, result, ("decompose",))
    assert (repeated.faults, numbers(repeated)) == ((), numbers(result))
    assert (folder / "spectra.safetensors").exists()


def test_a_repetition_that_fails_leaves_the_finished_result(folder, monkeypatch):
    result = run_cell(settings(), folder)
    monkeypatch.setattr(engine._Run, "_accuracy", failing)
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
