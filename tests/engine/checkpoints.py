"""Checkpoints as they lie around: the shipped 300k model, or a tiny random one, saved in another way. All below 1.5 MB,
none kept.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import MODEL

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 128,
}


def copied(folder):
    """The shipped model as it is, in a folder of its own."""
    shutil.copytree(MODEL, folder)
    return Path(folder)


def random_model(folder, config, maker="AutoModelForCausalLM", quantization=None):
    """A random model of a configuration with the shipped tokenizer, saved by transformers, quantized where asked
    for."""
    import transformers

    torch.manual_seed(0)
    maker = getattr(transformers, maker)
    model = maker.from_config(config) if hasattr(maker, "from_config") else maker(config)
    model.save_pretrained(folder)
    if quantization is not None:
        model = maker.from_pretrained(folder, quantization_config=quantization, device_map={"": "cpu"})
        shutil.rmtree(folder)
        model.save_pretrained(folder)
    add_tokenizer(folder)
    return Path(folder)


def add_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder)


def bitsandbytes_config(form, double_quant=False, **more):
    from transformers import BitsAndBytesConfig

    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **more)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=form, bnb_4bit_use_double_quant=double_quant, **more
    )


def quantized(folder, form, double_quant=False, **more):
    """The shipped model as transformers saves it from bitsandbytes."""
    from transformers import AutoModelForCausalLM

    config = bitsandbytes_config(form, double_quant, **more)
    AutoModelForCausalLM.from_pretrained(
        MODEL, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    ).save_pretrained(folder)
    add_tokenizer(folder)
    return Path(folder)


def weights(folder):
    return load_file(folder / "model.safetensors")


def put(folder, tensors):
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def renamed(folder, name_of):
    return put(folder, {name_of(n): t for n, t in weights(folder).items()})


def configured(folder, **fields):
    """config.json with other fields; None takes one away."""
    path = folder / "config.json"
    plain = {k: v for k, v in (json.loads(path.read_text()) | fields).items() if v is not None}
    path.write_text(json.dumps(plain))
    return folder


def sharded(folder, leave_out=None, index=True):
    """The weights in two shards."""
    tensors, names = weights(folder), [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = dict(zip(names, (keys[: len(keys) // 2], keys[len(keys) // 2 :]), strict=True))
    for name, part in parts.items():
        if name != leave_out:
            save_file({k: tensors[k].contiguous() for k in part}, folder / name, metadata={"format": "pt"})
    if index:
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {k: n for n, part in parts.items() for k in part}})
        )
    return folder


def pickled(folder, content=lambda tensors: tensors, **how):
    """pytorch_model.bin in place of safetensors."""
    tensors = weights(folder)
    (folder / "model.safetensors").unlink()
    torch.save(content(tensors), folder / "pytorch_model.bin", **how)
    return folder


def without_repacking(model):
    """A model of transformers' own whose 4-bit layers stay as they were stored, whatever the processor."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model
