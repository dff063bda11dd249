"""A base is loaded once for the cells that share it, and no cell leaves anything in it for the next."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from lorabench.engine import kept_base
from lorabench.engine.cell import run_cell
from lorabench.engine.kept_base import base_for, kept_bytes
from lorabench.engine.model import load_base
from lorabench.engine.quantized_weights import weight_bytes
from lorabench.memory.predict_cell import available_bytes
from tests.engine.conftest import cell_of, small_model

CPU = torch.device("cpu")
IDS = torch.arange(1, 13).view(2, 6)


class NothingIsKept(dict):
    """So that each cell's memory is measured."""

    def __contains__(self, key):
        return False


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(kept_base, "_KEPT", {})
    monkeypatch.setattr("lorabench.engine.domain._DOMAINS", {})
    monkeypatch.setattr("lorabench.engine.cell_measure._PEAKS", NothingIsKept())


def outcome(cell, folder):
    """All that a cell computed, without its clocks and without whether its base was loaded for it."""
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    values = {r.metric: r.value for r in result.readings if "seconds" not in r.metric and "_per_second" not in r.metric}
    with (folder / "curve.csv").open() as lines:
        curve = [[row["loss"], row["grad_norm"]] for row in csv.DictReader(lines)]
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    return (values, curve, result.resolved.model_copy(update={"base_kept": None})), adapter, result


BEFORE = {
    "none": ("method=full", "method=base", "method=pissa", "method=dora", "training.gradient_checkpointing=true"),
    "nf4": ("method=dora", "training.gradient_checkpointing=true", "method.target_modules=attention"),
    "int8": ("method=dora", "training.gradient_checkpointing=true"),
}


@pytest.mark.parametrize("quantization", ["none", *(pytest.param(q, marks=pytest.mark.slow) for q in ("nf4", "int8"))])
def test_a_cell_computes_the_same_bits_whichever_cells_came_before_it(quantization, folder, tmp_path):
    shared = (f"quantization={quantization}", "training.steps=2", "analysis.spectra=none")
    cell = cell_of(*shared, "method.dropout=0.1", "evaluation.forgetting=self")
    (other := tmp_path / "cells" / "other").mkdir()
    first, adapter, alone = outcome(cell, folder)
    assert alone.value("load_seconds") > 0 and alone.resolved.base_kept is None
    for setting in BEFORE[quantization]:
        run_cell(cell_of(*shared, setting, "training.learning_rate=0.1"), other)
    again, same, result = outcome(cell, folder)
    assert result.resolved.base_kept and result.value("load_seconds") is None
    assert again == first
    assert adapter.keys() == same.keys() and all(torch.equal(adapter[n], same[n]) for n in adapter)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3", "falcon", "bloom", "gptj", "gpt2", "gpt_neox", "opt"])
def test_modules_of_ones_own_lie_over_the_same_weights_and_compute_the_same(kind):
    model = small_model(kind).eval()
    own = kept_base._over(model)
    with torch.no_grad():
        assert torch.equal(own(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert not {id(m) for m in own.modules()} & {id(m) for m in model.modules()}
    places = [{p.data_ptr() for p in (*m.parameters(), *m.buffers())} for m in (own, model)]
    assert places[0] == places[1]
    assert len(list(own.parameters())) == len(list(model.parameters())), "what is tied stays tied"


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_one_base_is_kept_and_its_bytes_count_as_available(quantization):
    cell = cell_of(f"quantization={quantization}")
    loaded, was_kept = base_for(cell, CPU)
    assert not was_kept and base_for(cell, CPU)[1]
    assert kept_bytes(CPU) == weight_bytes(loaded) == weight_bytes(load_base(cell, CPU))
    for other in ("method.rank=2", "seeds=[3]", "training.learning_rate=1", "method=dora", "method=base"):
        assert base_for(cell_of(f"quantization={quantization}", other), CPU)[1], other
    wider = cell_of(f"quantization={quantization}", "model.dtype=bfloat16")
    assert not base_for(wider, CPU)[1]
    assert len(kept_base._KEPT) == 1 and not base_for(cell, CPU)[1]


def test_what_the_kept_base_takes_is_no_reason_to_skip_the_next_cell(monkeypatch):
    monkeypatch.setattr("lorabench.memory.predict_cell.free_host_bytes", lambda: 10)
    base, _ = base_for(cell_of(), CPU)
    assert available_bytes(CPU) == 10 + weight_bytes(base)


def test_full_fine_tuning_trains_weights_of_its_own():
    (base, _), (own, was_kept) = (base_for(cell_of(f"method={m}"), CPU) for m in ("lora", "full"))
    assert not was_kept and not kept_base._KEPT
    assert {p.data_ptr() for p in base.parameters()}.isdisjoint(p.data_ptr() for p in own.parameters())


def test_a_base_that_was_written_to_is_not_handed_out_again():
    before = load_base(cell_of(), CPU).state_dict()
    model, _ = base_for(cell_of(), CPU)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    again, was_kept = base_for(cell_of(), CPU)
    assert not was_kept
    assert all(torch.equal(before[n], t) for n, t in again.state_dict().items())
