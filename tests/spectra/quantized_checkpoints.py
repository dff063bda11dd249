"""Quantized checkpoints as their libraries store them."""

import json

from safetensors.torch import save_file

from lorabench.spectra.files import Weights


def scaled(tmp_path, tensors, **quantization):
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    if quantization:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))
    return Weights(tmp_path)
