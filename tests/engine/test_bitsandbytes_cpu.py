"""A quantized base gives the same numbers on processors with AVX-512 BF16 and without: what decides it in bitsandbytes
is patched here.
"""

import contextlib

import bitsandbytes
import pytest
import torch

from lorabench import plugins
from lorabench.engine.bitsandbytes_cpu import keep_4bit_right
from lorabench.engine.cell import run_cell
from lorabench.engine.model import load_base
from lorabench.record.spectrum import load_spectra
from tests.engine.conftest import cell_of, small_model

CPU = torch.device("cpu")


def on_such_a_processor(monkeypatch, there):
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: there)


def cell_on(folder, *settings):
    """A cell whose model is a folder of weights alone."""
    cell = cell_of(*settings)
    return cell.model_copy(update={"model": cell.model.model_copy(update={"name": str(folder)})})


def stored(model):
    """Bytes of every 4-bit weight and of its constants."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    return {
        n: (m.weight.data.clone(), m.weight.quant_state.absmax.clone(), m.weight.quant_state.dtype)
        for n, m in layers.items()
    }


def test_the_patch_makes_bitsandbytes_repack_a_layer_of_its_own(monkeypatch):
    """The claim below could not fail where the patch did nothing."""
    on_such_a_processor(monkeypatch, True)
    layer = (
        bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32).to("cpu").eval()
    )
    before = layer.weight.data.clone()
    with (
        torch.no_grad(),
        contextlib.suppress(Exception),
    ):  # the kernel itself is not on every processor; the repacking comes first
        layer(torch.ones(1, 64))
    assert layer.weight.quant_state.packing_format_for_cpu
    assert layer.weight.data.shape != before.shape


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_an_evaluation_leaves_4_bit_weights_as_they_were_loaded(quantization, monkeypatch):
    on_such_a_processor(monkeypatch, True)
    model = load_base(cell_of(f"quantization={quantization}", "quantization.double_quant=true"), CPU)
    before = stored(model)
    assert before
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None])
    after = stored(model)
    for name, (weight, constants, dtype) in before.items():
        assert torch.equal(after[name][0], weight)
        assert torch.equal(after[name][1], constants)
        assert after[name][2] == dtype


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_cell_measures_the_same_on_both_kinds_of_processors(method, monkeypatch, tmp_path):
    cell = cell_of(f"method={method}", "quantization=nf4", "evaluation.forgetting=self")
    results = {}
    for there in (False, True):
        on_such_a_processor(monkeypatch, there)
        folder = tmp_path / str(there) / "cells" / cell.id
        folder.mkdir(parents=True)
        result = run_cell(cell, folder)
        assert result.outcome == "finished", result.error
        read = {
            r.metric: r.value for r in result.readings if "seconds" not in r.metric and r.metric != "tokens_per_second"
        }
        values = {s.module: s.singular_values.tolist() for s in load_spectra(folder / "spectra.safetensors")}
        results[there] = read, values, (folder / "curve.csv").read_text().count("\n")
    assert results[True] == results[False]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("columns", [2, 16, 48, 96, 128, 176, 172, 63])
def test_weights_come_back_from_the_blocks_that_they_were_put_into(columns, kind, double):
    """By hand: code of each nibble, the high one first, times the constant of its block of 64 in the flat matrix."""
    functional = bitsandbytes.functional
    keep_4bit_right(torch.nn.Module())
    weight = torch.randn(32, columns, generator=torch.Generator().manual_seed(columns))
    packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    constants = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if double else state.absmax
    nibbles = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()[: weight.numel()].long()
    by_hand = (state.code[nibbles] * constants.repeat_interleave(64)[: weight.numel()]).view_as(weight)
    assert torch.equal(functional.dequantize_4bit(packed, state), by_hand)
    assert torch.equal(plugins.load("quantizations", kind).roundtrip(weight, double), by_hand)


def test_a_layer_multiplies_by_its_weights_and_passes_their_gradient(tmp_path):
    """hidden 32 and intermediate 48 are no multiples of 64."""
    small_model("llama").save_pretrained(tmp_path)
    model = load_base(cell_on(tmp_path, "quantization=nf4"), CPU)
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert any(m.weight.quant_state.shape[1] % 64 for m in layers)
    for layer in layers:
        weight = by_blocks(layer)
        seen = torch.randn(3, weight.shape[1], requires_grad=True)
        out = layer(seen)
        assert torch.allclose(out, seen @ weight.T, atol=1e-5)
        out.sum().backward()
        assert torch.allclose(seen.grad, weight.sum(0).expand(3, -1), atol=1e-4)


def by_blocks(layer):
    state = layer.weight.quant_state
    assert not state.nested
    nibbles = torch.stack([layer.weight.data.flatten() >> 4, layer.weight.data.flatten() & 15], dim=1).flatten().long()
    return (state.code[nibbles] * state.absmax.repeat_interleave(64)[: len(nibbles)]).view(state.shape)


def test_rows_that_32_does_not_divide_are_evaluated(monkeypatch, tmp_path):
    """hidden 32, intermediate 48: bitsandbytes' repacking ends with an AssertionError on such layers."""
    on_such_a_processor(monkeypatch, True)
    small_model("llama").save_pretrained(tmp_path)
    model = load_base(cell_on(tmp_path, "quantization=nf4"), CPU)
    assert any(m.weight.quant_state.shape[0] % 32 for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit))
    with torch.no_grad():
        assert bool(torch.isfinite(model(input_ids=torch.arange(8)[None]).logits).all())
