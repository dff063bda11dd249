"""A condition's memory is measured once in a process, and is what each of its cells would measure."""

import pytest
import torch
import transformers

from lorabench.engine import cell_measure
from lorabench.engine.cell import run_cell
from tests.engine.conftest import cell_of

PEAKS = ("eval_peak_bytes", "train_peak_bytes")


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """What was measured in the test: (phase, rows) in order."""
    monkeypatch.setattr(cell_measure, "_PEAKS", {})
    found = []
    for phase in ("evaluation", "training"):
        own = getattr(cell_measure, f"_{phase}_peak")

        def seen(context, loaded, rows, own=own, phase=phase):
            found.append((phase, len(rows)))
            return own(context, loaded, rows)

        monkeypatch.setattr(cell_measure, f"_{phase}_peak", seen)
    return found


def peaks(folder, *settings, seed=0):
    cell = cell_of("training.steps=2", "training.batch_size=3", "analysis.spectra=none", *settings)
    result = run_cell(cell.model_copy(update={"seed": seed}), folder)
    assert result.outcome == "finished" and not result.faults
    return [result.value(name) for name in PEAKS]


BOTH = [("evaluation", 4), ("training", 3)]
FEW = ("evaluation.batch_size=4",)


@pytest.mark.parametrize(
    "settings",
    [
        ("method.dropout=0.1",),
        ("method=full",),
        ("method=pissa", "training.gradient_accumulation=2"),
        ("quantization=nf4", "training.gradient_checkpointing=true", "method=dora"),
    ],
    ids=["lora", "full", "pissa", "dora over nf4"],
)
def test_cells_of_a_condition_are_measured_once_and_would_have_measured_the_same(
    settings, folder, measured, monkeypatch
):
    first = peaks(folder, *FEW, *settings)
    assert measured == BOTH
    again = peaks(folder, *FEW, *settings, seed=1)
    assert measured == BOTH, "another seed measures nothing"
    assert again == first
    for seed in (1, 7):
        monkeypatch.setattr(cell_measure, "_PEAKS", {})
        assert peaks(folder, *FEW, *settings, seed=seed) == first, "to the byte"
    assert measured == 3 * BOTH


def test_rates_that_are_chosen_from_share_a_measurement(folder, measured):
    cell = cell_of("training.steps=1", "training.batch_size=3", "analysis.spectra=none", *FEW)
    own = cell.training
    for rate in (1e-3, 1e-2):
        tried = own.model_copy(update={"learning_rate": rate})
        run_cell(cell.model_copy(update={"training": tried, "tuned_over": (1e-3, 1e-2)}), folder)
    assert measured == BOTH


@pytest.mark.parametrize("setting", ["method.rank=8", "training.batch_size=4", "training.gradient_checkpointing=true"])
def test_another_condition_measures_its_own(setting, folder, measured):
    first = peaks(folder, *FEW)
    other = peaks(folder, *FEW, setting)
    assert len(measured) == 4
    assert other[1] != first[1]


def test_other_rows_of_the_same_condition_are_measured_anew(folder, measured, monkeypatch):
    peaks(folder, *FEW)
    longest = cell_measure.largest_batch
    monkeypatch.setattr(cell_measure, "largest_batch", lambda rows, size: longest(rows, size)[:2])
    peaks(folder, *FEW)
    assert measured == [*BOTH, ("evaluation", 2), ("training", 2)]


def test_int8_is_measured_in_each_cell_since_its_outliers_follow_the_activations(folder, measured):
    peaks(folder, *FEW, "quantization=int8")
    peaks(folder, *FEW, "quantization=int8", seed=1)
    assert measured == 2 * BOTH


def test_experts_are_measured_in_each_cell_since_rows_are_routed(folder, measured, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.MixtralConfig(vocab_size=2048, num_key_value_heads=1, num_local_experts=4, **sizes)
    from lorabench.config.paths import MODELS

    where = tmp_path / "mixture"
    transformers.MixtralForCausalLM(config).save_pretrained(where)
    transformers.AutoTokenizer.from_pretrained(MODELS / "tiny-300k").save_pretrained(where)
    for seed in (0, 1):
        peaks(folder, *FEW, f"model={where}", "method.target_modules=attention", seed=seed)
    assert measured == 2 * BOTH


def test_what_a_broken_adapter_cannot_show_is_left_out_and_measured_by_the_next(folder, measured):
    """Weights that blow up in the last update take no step any more, and so have no optimizer's state."""
    own = ("training.steps=2", "training.batch_size=3", "training.schedule=constant", "training.warmup=0")
    cell = cell_of(*own, "analysis.spectra=none", *FEW)

    def at(rate):
        training = cell.training.model_copy(update={"learning_rate": rate})
        tried = cell.model_copy(update={"training": training, "tuned_over": (1e-3, 1e3)})
        return run_cell(tried, folder)

    broken, sane = at(1e3), at(1e-3)
    assert broken.outcome == sane.outcome == "finished"
    assert broken.value("train_peak_bytes") is None and broken.value("eval_peak_bytes") is not None
    assert sane.value("train_peak_bytes") == peaks(folder, *FEW)[1]
    again = at(1e3)
    assert again.value("train_peak_bytes") == sane.value("train_peak_bytes"), "known by now"


def test_a_fault_in_the_first_measurement_leaves_it_to_the_next_cell(folder, measured, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(cell_measure, "_training_peak", lambda *_: 1 / 0)
        cell = cell_of("training.steps=1", "training.batch_size=3", "analysis.spectra=none", *FEW)
        broken = run_cell(cell, folder)
    assert [f.phase for f in broken.faults] == ["measure"] and broken.value("eval_peak_bytes")
    again = run_cell(cell.model_copy(update={"seed": 1}), folder)
    assert not again.faults and again.value("train_peak_bytes")
    assert measured == BOTH
