"""Quantized checkpoints are read as the weights that they stand for: transformers' and bitsandbytes' own values, and
hand counts."""

import shutil

import pytest
import torch
import transformers as t
from bitsandbytes import functional
from safetensors.torch import load_file, save_file
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from lorabench.commands.main import main
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from lorabench.workflows import spectrum
from tests.spectra.quantized_checkpoints import scaled

FORMS = {
    "int8": {"load_in_8bit": True},
    "int8 skip": {"load_in_8bit": True, "llm_int8_skip_modules": ["down_proj", "c_proj", "lm_head"]},
    "fp4": {"load_in_4bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 dq": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "bfloat16",
    },
}


def stored(plain, kind, form, folder, dtype=torch.float32, **more):
    """The same model as transformers saves it quantized; and as it loads it again."""
    config = t.BitsAndBytesConfig(**FORMS[form])
    t.AutoModelForCausalLM.from_pretrained(plain / kind, quantization_config=config, dtype=dtype).save_pretrained(
        folder, **more
    )
    return t.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_bitsandbytes_own_of_logical_shape(form, kind, plain, tmp_path):
    model, weights, before = stored(plain, kind, form, tmp_path), Weights(tmp_path), Weights(plain / kind)
    seen = 0
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
            seen += 1
            true = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
            torch.testing.assert_close(weights.weight(name), true, rtol=1e-6, atol=1e-8)
            assert weights.shape(f"{name}.weight") == before.shape(f"{name}.weight") == tuple(true.shape)
            assert (weights.weight(name) - before.weight(name)).norm() < 0.15 * before.weight(name).norm()
    assert seen
    assert weights.names() == before.names(), "constants are no weights"
    assert (
        weights.form == {"int8 skip": "int8", "nf4 dq": "nf4 with double quantization"}.get(form, form)
        and before.form is None
    )


def test_four_bits_of_bfloat16_are_rounded_as_training_saw_them(plain, tmp_path):
    model = stored(plain, "llama", "nf4 dq", tmp_path, torch.bfloat16)
    layer = model.model.layers[1].mlp.up_proj
    found = Weights(tmp_path).weight("model.layers.1.mlp.up_proj")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state))


def test_blocks_of_four_bits_run_on_over_the_ends_of_rows(tmp_path):
    """96 columns: every second block lies in two rows. In one long row bitsandbytes' kernels for processors have them
    right, too."""
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    save_file(
        {"m.weight": codes, **{f"m.weight.{k}": v for k, v in state.as_dict(packed=True).items()}},
        tmp_path / "model.safetensors",
    )
    flat = functional.dequantize_4bit(*functional.quantize_4bit(weight.view(1, -1), quant_type="nf4", blocksize=64))
    assert torch.equal(Weights(tmp_path).weight("m"), flat.view(6, 96))


def test_shards_and_wrappers_are_the_same_weights(plain, tmp_path):
    stored(plain, "llama", "nf4 dq", tmp_path / "one")
    stored(plain, "llama", "nf4 dq", tmp_path / "many", max_shard_size="40kB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    wrapped = tmp_path / "wrapped"
    shutil.copytree(tmp_path / "one", wrapped)
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    save_file(
        {f"module._orig_mod.{k.replace('.layers.', '._fsdp_wrapped_module.layers.')}": v for k, v in tensors.items()},
        wrapped / "model.safetensors",
    )
    whole = Weights(tmp_path / "one")
    for other in (Weights(tmp_path / "many"), Weights(wrapped)):
        assert other.names() == whole.names()
        for name in whole.names():
            assert torch.equal(other.tensor(name), whole.tensor(name)), name


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("shape", "grid", "block", "scales"),
    [
        ((6, 8), (), None, torch.float32),
        ((6, 8), (1,), None, torch.bfloat16),
        ((6, 8), (6,), None, torch.float32),
        ((6, 8), (6, 1), None, torch.bfloat16),
        ((6, 8), (1, 8), None, torch.float32),
        ((8, 12), (2, 3), [4, 4], torch.float32),
        ((7, 10), (2, 3), [4, 4], torch.float32),
        ((6, 12), (2, 3), [4, 5], torch.bfloat16),
        ((192, 130), (2, 2), [128, 128], torch.float32),
        ((192, 130), (2, 2), "not said", torch.float32),
    ],
)
def test_scaled_float8_is_code_times_scale_entry_by_entry(shape, grid, block, scales, dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(shape, generator=generator).to(dtype)
    scale = (torch.rand(grid, generator=generator) + 0.5).to(scales)
    declared = {"quant_method": "fp8"} | ({} if block == "not said" else {"weight_block_size": block})
    found = scaled(tmp_path, {"m.weight": codes, "m.weight_scale_inv": scale}, **declared)
    rows, columns = block if isinstance(block, list) else (128, 128)
    expected = torch.empty(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            one = (
                scale
                if scale.dim() == 0
                else (
                    scale[0]
                    if grid == (1,)
                    else (
                        scale[i]
                        if len(grid) == 1
                        else scale[
                            i if grid[0] == shape[0] else i // rows if grid[0] > 1 else 0,
                            j if grid[1] == shape[1] else j // columns if grid[1] > 1 else 0,
                        ]
                    )
                )
            )
            expected[i, j] = float(codes[i, j]) * float(one)
    assert torch.equal(found.weight("m"), expected)
    assert (found.form, found.shape("m.weight")) == ("fp8", shape)


def test_float8_without_a_scale_is_a_plain_number(tmp_path):
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        codes = torch.randn(4, 6).to(dtype)
        found = scaled(tmp_path, {"m.weight": codes})
        assert torch.equal(found.weight("m"), codes.float())
        assert found.form is None


def test_scales_of_one_byte_are_exponents(tmp_path):
    codes, scale = torch.ones(2, 64).to(torch.float8_e4m3fn), torch.tensor([[127, 129], [126, 127]], dtype=torch.uint8)
    found = scaled(
        tmp_path, {"m.weight": codes, "m.weight_scale_inv": scale}, quant_method="mxfp8", weight_block_size=[1, 32]
    ).weight("m")
    assert found[:, [0, 32]].tolist() == [[1.0, 4.0], [0.5, 1.0]]


def test_scaled_integers_of_compressed_tensors(tmp_path):
    codes = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 8]], dtype=torch.int8)
    group = {
        "config_groups": {"g": {"weights": {"group_size": 2}}},
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
    }
    found = scaled(
        tmp_path,
        {
            "m.weight": codes,
            "m.weight_scale": torch.tensor([[0.5, 2.0], [1.0, 3.0]]),
            "m.weight_zero_point": torch.tensor([[1, 0], [0, 2]], dtype=torch.int8),
        },
        **group,
    )
    assert found.weight("m").tolist() == [[0.0, -1.5, 6.0, 8.0], [5.0, 6.0, -27.0, 18.0]]


def test_the_change_against_a_quantized_base_is_told_and_of_its_true_weights(plain, tmp_path):
    stored(plain, "llama", "int8", tmp_path)
    found = spectrum.spectrum(str(plain / "llama"), base=str(tmp_path), find=lambda name: tmp_path)
    assert dict(found.facts)["base"].endswith(
        "stored in int8: its dequantized weights are used; what quantization lost is part of the difference"
    )
    codes = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    true = (
        load_file(plain / "llama" / "model.safetensors")[f"{name}.weight"].double()
        - codes[f"{name}.weight"].double() * codes[f"{name}.SCB"].double()[:, None] / 127
    )
    (delta,) = [d for d in open_learned(str(plain / "llama"), str(tmp_path)).deltas() if d.module == name]
    assert delta.matrix().norm() == pytest.approx(float(true.norm()), rel=1e-4)


def test_the_error_of_a_stored_form_is_none_and_others_are_of_what_is_left(plain, tmp_path, capsys):
    stored(plain, "llama", "nf4", tmp_path)
    assert main(["quantization-error", str(tmp_path), "--quantization", "nf4", "int8"]) == 0
    told = capsys.readouterr().out
    assert "is stored in nf4 already: quantizing to that form again loses nothing (error 0)" in told
    errors = spectrum.quantization_error(str(tmp_path), ["nf4", "int8"], find=lambda name: tmp_path).errors
    assert {e.relative_error for e in errors if e.form == "nf4"} == {0.0}
    assert all(0 < e.relative_error < 0.01 for e in errors if e.form == "int8")
