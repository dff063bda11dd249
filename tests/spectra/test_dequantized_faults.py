"""Quantized checkpoints that cannot be read, and files that are no whole checkpoint, are one sentence."""

import pytest
import torch
import transformers as t

from lorabench.errors import ModelError
from lorabench.spectra.files import Weights
from tests.spectra.quantized_checkpoints import scaled


@pytest.mark.parametrize(
    ("tensors", "quantization", "words"),
    [
        ({"m.qweight": torch.zeros(2, 2, dtype=torch.int32)}, {"quant_method": "gptq"}, "GPTQ or AWQ"),
        ({"m.qweight": torch.zeros(2, 2, dtype=torch.int32)}, {}, "GPTQ or AWQ"),
        ({"m.W_q": torch.zeros(2, 2, dtype=torch.uint8)}, {"quant_method": "hqq"}, "HQQ"),
        (
            {
                "e.gate_up_proj_blocks": torch.zeros(2, 2, dtype=torch.uint8),
                "e.gate_up_proj_scales": torch.zeros(2, 2, dtype=torch.uint8),
            },
            {"quant_method": "mxfp4"},
            "mxfp4",
        ),
        ({"m.weight": torch.zeros(2, 2)}, {"quant_method": "torchao"}, "torchao"),
        ({"m.weight": torch.zeros(2, 2)}, {"quant_method": "awq"}, "awq"),
        ({"m.weight_packed": torch.zeros(2, 2, dtype=torch.int32)}, {"quant_method": "compressed-tensors"}, "packed"),
    ],
)
def test_other_quantizations_are_refused_by_name(tensors, quantization, words, tmp_path):
    with pytest.raises(ModelError, match=words) as caught:
        scaled(tmp_path, tensors, **quantization)
    assert "take the unquantized checkpoint" in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "quantization", "words"),
    [
        ({"m.weight": torch.zeros(2, 2, dtype=torch.int8)}, {}, "int8 codes without a scale"),
        ({"m.weight": torch.zeros(2, 2, dtype=torch.uint8)}, {}, "uint8 codes"),
        (
            {"m.weight": torch.zeros(2, 2, dtype=torch.int8), "m.weight_scale": torch.ones(2, 1)},
            {},
            "int8 codes with weight_scale",
        ),
        ({"m.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, {"quant_method": "fp8"}, "without a scale"),
        (
            {"m.weight": torch.zeros(6, 6).to(torch.float8_e4m3fn), "m.weight_scale": torch.ones(4, 1)},
            {"quant_method": "fp8"},
            "the constants beside them do not match",
        ),
        ({"m.weight": torch.zeros(6, 6, dtype=torch.int8), "m.SCB": torch.ones(4)}, {}, "4 row constants for 6 rows"),
        (
            {
                "m.weight": torch.zeros(6, 6, dtype=torch.int8),
                "m.SCB": torch.ones(6),
                "m.weight_format": torch.tensor(2, dtype=torch.uint8),
            },
            {},
            "tiled for one kind of GPU",
        ),
    ],
)
def test_codes_that_are_not_understood_are_one_sentence(tensors, quantization, words, tmp_path):
    weights = scaled(tmp_path, tensors, **quantization)
    with pytest.raises(ModelError, match=words):
        weights.weight("m")


def test_two_tensors_of_one_name_are_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"are both m\.weight once"):
        scaled(tmp_path, {"m.weight": torch.zeros(2, 2), "_orig_mod.m.weight": torch.zeros(2, 2)})


def test_a_pointer_and_a_missing_shard_and_an_adapter_say_what_to_do(plain, tmp_path):
    for name, words in (
        ("pointer", "Git LFS pointer"),
        ("shard", "lacks model-00001-of-"),
        ("adapter", "an adapter of some/base, not a model"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if name == "pointer":
            (folder / "model.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
            )
        elif name == "shard":
            t.AutoModelForCausalLM.from_pretrained(plain / "llama").save_pretrained(folder, max_shard_size="40kB")
            next(folder.glob("model-00001-of-*")).unlink()
        else:
            (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
        with pytest.raises(ModelError, match=words):
            Weights(folder)
