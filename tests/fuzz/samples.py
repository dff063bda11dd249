"""Sound files of every kind that users bring, as plain data or bytes; what is fuzzed is made from them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import yaml

from tests.fuzz.inputs import as_json
from tests.report.stores import STUDY

SOUND: dict[str, Any] = yaml.safe_load(STUDY)
RICH = SOUND | {
    "comparison": {"metric": "auto", "margin": 0.01},
    "evaluation": {"lm_eval": ["python-docs-cloze"], "limit": 20, "forgetting": "self", "batch_size": 4},
    "analysis": {"spectra": "full", "truncation": [1, 2], "per_module": True},
    "save": {"adapter": "best", "full": "none"},
    "exclude": [{"method.rank": 1, "quantization": "nf4"}],
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": {"tune": [1e-4, 1e-3]}, "optimizer": "adamw"},
}
PEFT_CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "meta-llama/Llama-3.2-1B", "r": 4,
    "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"], "bias": "none", "use_dora": False,
    "use_rslora": False, "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    "auto_mapping": {"base_model_class": "x", "parent_library": "os"}, "revision": None,
}  # fmt: skip
LM_EVAL = {
    "results": {"gsm8k": {"alias": "gsm8k", "sample_len": 100, "exact_match,strict-match": 0.4,
                          "exact_match_stderr,strict-match": 0.049, "acc,none": 0.6, "acc_stderr,none": "N/A"}},
    "higher_is_better": {"gsm8k": {"exact_match": True, "acc": True}},
    "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
    "config": {"model": "hf", "model_args": "pretrained=meta-llama/Llama-3.2-1B,peft=./a", "random_seed": 0},
    "date": 1795783534.3, "lm_eval_version": "0.4.13", "total_evaluation_time_seconds": "2.5",
}  # fmt: skip
MODEL_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 128,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "torch_dtype": "float32",
    "auto_map": {"AutoConfig": "owned.Owned", "AutoModelForCausalLM": "owned.Owned"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}  # fmt: skip
OWNED = "owned"  # the file that code from an input would leave, were it run
CODE = f"open({OWNED!r}, 'w').close()\nclass Owned: pass\n"


def as_yaml(plain: Any) -> bytes:
    return yaml.dump(plain, allow_unicode=True).encode()


def safetensors_file(header: Any, body: int = 2048) -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + bytes(i % 251 for i in range(body))


def _entry(shape: list[int], start: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, start + 4 * shape[0] * shape[1]]}


TENSORS = {
    "__metadata__": {"format": "pt"},
    **{
        f"base_model.model.model.layers.0.self_attn.{module}.lora_{side}.weight": _entry(shape, 512 * i + 256 * j)
        for i, module in enumerate(("q_proj", "v_proj"))
        for j, (side, shape) in enumerate((("A", [4, 16]), ("B", [16, 4])))
    },
}


class _Owner:
    """A pickle that runs code when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.words = function, arguments

    def __reduce__(self) -> Any:
        return self.words


@cache
def pickles() -> tuple[bytes, ...]:
    import torch

    made = []
    for owner in (
        _Owner(os.system, f"touch {OWNED}"), _Owner(exec, CODE), _Owner(eval, f"open({OWNED!r}, 'w')"),
        _Owner(open, OWNED, "w"), _Owner(os.mkdir, OWNED), _Owner(getattr, "", "join"), _Owner(shutil.rmtree, "x"),
    ):  # fmt: skip
        for content in (owner, {"x.lora_A.weight": owner}, {"state_dict": {"x": owner}}, [owner]):
            made += [pickle.dumps(content, protocol=p) for p in (0, 2, 4)]
    stream = io.BytesIO()
    torch.save({"q.lora_A.weight": torch.ones(4, 16), "q.lora_B.weight": torch.ones(16, 4)}, stream)
    made.append(stream.getvalue())
    with zipfile.ZipFile(io.BytesIO(stream.getvalue())) as sound:
        for owner in made[:3]:
            other = io.BytesIO()
            with zipfile.ZipFile(other, "w") as packed:
                for name in sound.namelist():
                    packed.writestr(name, owner if name.endswith("data.pkl") else sound.read(name))
                packed.writestr("../../owned", b"")
            made.append(other.getvalue())
    return tuple(made)


@cache
def sound_gguf() -> bytes:
    """A sound file of two tensors."""
    path = Path(tempfile.mkdtemp(prefix="lorabench-fuzz-")) / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(1)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    writer.add_tensor("output.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def sized_gguf(drawn: tuple[int, int, int]) -> bytes:
    """A sound GGUF of which one 64-bit number (a count, a length, an offset) is another."""
    place, number, size = drawn
    content, width = sound_gguf(), 4 if size else 8
    at = 4 + place % (len(content) - 12)
    return content[:at] + (number % 2 ** (8 * width)).to_bytes(width, "little") + content[at + width :]


CSV = (
    b"method,rank,quantization,learning_rate,seed,accuracy,items,eval_loss\n"
    b"lora,8,nf4,1e-4,0,61.5,400,1.5\nfull,,,1e-5,1,63.0,400,\n"
)


def csv_file(rows: list[list[Any]]) -> bytes:
    return b"\n".join(b",".join(str(v).encode("utf-8", "replace") for v in row) for row in rows)
