"""What a config.json says of quantized weights is told from it alone."""

import json
import struct
import subprocess
import sys

import pytest

from lorabench.config.checkpoint import as_stored, declared_quantization, matched
from lorabench.config.checkpoint_files import Stored, stored_tensors, weight_files
from lorabench.config.settings import ModelSpec, QuantizationSpec
from lorabench.errors import ModelError

NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("said", "words", "readable"),
    [
        ({"load_in_8bit": True}, "int8", True),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "int8", True),
        ({"load_in_4bit": True}, "fp4", True),  # bitsandbytes' own default
        (NF4, "nf4 with double quantization", True),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "bitsandbytes", False),
        ({"quant_method": "fp8"}, "fp8", False),
        ({"bits": 4, "group_size": 128}, "an unnamed method", False),
    ],
)
def test_the_form_is_named(said, words, readable):
    for config in (
        {"quantization_config": said},
        {"compression_config": said},
        {"text_config": {"quantization_config": said}},
    ):
        stored = declared_quantization(config)
        assert (stored.words, stored.readable) == (words, readable)


@pytest.mark.parametrize(
    "config",
    [{}, {"quantization_config": None}, {"quantization_config": {}}, {"text_config": {}}, {"quantization": "none"}],
)
def test_nothing_said_is_nothing(config):
    assert declared_quantization(config) is None


def test_mlx_is_known_by_its_own_word():
    assert declared_quantization({"quantization": {"bits": 4, "group_size": 64}}).words == "MLX (4 bits)"


def test_none_means_as_stored_and_a_compute_dtype_may_be_chosen():
    stored = declared_quantization({"quantization_config": NF4})
    own = QuantizationSpec(name="nf4", double_quant=True, compute_dtype="bfloat16")
    assert matched("m", stored, QuantizationSpec()) == own
    assert matched("m", stored, QuantizationSpec(name="nf4")) == own
    chosen = QuantizationSpec(name="nf4", compute_dtype="float32")
    assert matched("m", stored, chosen) == own.model_copy(update={"compute_dtype": "float32"})
    with pytest.raises(ModelError, match="cannot be turned into int8"):
        matched("m", stored, QuantizationSpec(name="int8"))


def test_a_model_that_is_not_here_keeps_what_was_asked_for():
    asked = QuantizationSpec(name="nf4")
    assert as_stored(ModelSpec(name="org/not-here"), asked) == asked


def test_headers_are_read_without_the_weights(tmp_path):
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "F8_E4M3", "shape": [2, 3], "data_offsets": [0, 6]}}
    ).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))
    assert stored_tensors(weight_files(tmp_path)) == {"a": Stored("F8_E4M3", (2, 3), file)}
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(5))
    with pytest.raises(ModelError, match="is not a complete safetensors file"):
        stored_tensors(weight_files(tmp_path))


def test_an_index_that_names_files_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelError, match="outside its folder"):
        weight_files(tmp_path)


def test_none_of_it_loads_torch():
    code = (
        "import sys, lorabench.config.checkpoint, lorabench.config.checkpoint_files; sys.exit('torch' in sys.modules or"
        " 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
