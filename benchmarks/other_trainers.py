"""Memory of trainers that are no test dependency, run for real on this CPU: LLaMA-Factory and torchtune.

    python benchmarks/other_trainers.py --json FILE [--only WORD ...]
    python benchmarks/memory.py trainers --measured FILE --json FILE     the trace beside it

Each library wants versions of its own, so this file runs under the Python of an environment that has the library,
torch and this package:

    LLaMA-Factory 0.9.5    transformers 5.6, PEFT 0.18, accelerate 1.11; under transformers 5.24 its checkpointing fails
    torchtune 0.6.1        torchao 0.10, the last kind that has the NF4 tensor which it imports

LLaMA-Factory runs by its own entry (train.tuner.run_exp) on tiny-4m, torchtune by its recipe
(recipes/lora_finetune_single_device.py) on a Llama of its own builder with random weights, four layers of 256; three
optimizer steps each, on rows of exactly `length` tokens. Bytes are live tensors', as in benchmarks/trainers.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import torch
from trainers import Row, versions

from lorabench.config.paths import MODELS
from lorabench.engine.measure import LiveBytes, held_tensors

STEPS = 3
ROWS = """
llamafactory  tiny-4m        none  lora  16  2  256  ckpt reentrant
llamafactory  tiny-4m        none  lora  16  2  256
llamafactory  tiny-4m        nf4   lora  16  2  256  ckpt reentrant
llamafactory  tiny-4m        none  full  0   2  256  ckpt reentrant
torchtune     narrow-llama   none  lora  16  2  256  ckpt
torchtune     narrow-llama   none  lora  16  2  256
torchtune     narrow-llama   none  lora  16  1  1024 ckpt
"""
NARROW_LLAMA = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def with_llamafactory(row: Row, folder: Path) -> int:
    os.environ["DISABLE_VERSION_CHECK"] = "1"  # it names accelerate and datasets that torch 2.13 does not need
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    words = ["the", "a", "of", "and", "def", "class", "return", "import"]
    text = [" ".join(random.choices(words, k=2 * row.length)) for _ in range(2)]
    entry = {"instruction": text[0], "input": "", "output": text[1]}  # both are cut, so that a row is full
    (folder / "rows.json").write_text(json.dumps([entry] * (row.batch * STEPS)))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    found: list[LiveBytes] = []

    class Probe(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            found.append(LiveBytes(held_tensors(model)))
            found[0].__enter__()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            found[0].__exit__(None, None, None)

    full = row.method == "full"
    adapter = {"lora_rank": row.rank, "lora_alpha": row.rank, "lora_dropout": 0.0, "lora_target": "all"}
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(MODELS / row.model),
            "dataset": "rows",
            "dataset_dir": str(folder),
            "template": "empty",
            "cutoff_len": row.length,
            "finetuning_type": row.method,
            **({} if full else adapter),
            **({} if row.quantization == "none" else {"quantization_bit": 4, "double_quantization": False}),
            "disable_gradient_checkpointing": "ckpt" not in row.options,
            "per_device_train_batch_size": row.batch,
            "gradient_accumulation_steps": 1,
            "max_steps": STEPS,
            "bf16": True,
            "use_cpu": True,
            "optim": "adamw_torch",
            "output_dir": str(folder / "out"),
            "report_to": "none",
            "save_strategy": "no",
            "overwrite_cache": True,
        },
        [Probe()],
    )
    return found[0].peak


class Tokenizer:
    """As much of one as torchtune's recipe asks for."""

    pad_id = 0


class Rows(torch.utils.data.Dataset[Any]):
    """Random tokens, in torchtune's form."""

    length = count = 0

    def __init__(self, tokenizer: Tokenizer, packed: bool = False) -> None:
        pass

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens = torch.randint(5, 500, (self.length,)).tolist()
        return {"tokens": tokens, "labels": tokens}


def with_torchtune(row: Row, folder: Path) -> int:
    import torchtune
    import transformers
    from omegaconf import OmegaConf

    parts: Any = types.ModuleType("probe_parts")
    parts.Tokenizer, parts.Rows = Tokenizer, Rows
    Rows.length, Rows.count = row.length, row.batch * STEPS
    sys.modules["probe_parts"] = parts
    config = transformers.LlamaConfig(**NARROW_LLAMA)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    narrow: Any = NARROW_LLAMA
    model = {
        "_component_": "torchtune.models.llama3_1.lora_llama3_1",
        "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
        "apply_lora_to_mlp": True,
        "apply_lora_to_output": False,
        "vocab_size": narrow["vocab_size"],
        "num_layers": narrow["num_hidden_layers"],
        "num_heads": narrow["num_attention_heads"],
        "num_kv_heads": narrow["num_key_value_heads"],
        "embed_dim": narrow["hidden_size"],
        "intermediate_dim": narrow["intermediate_size"],
        "max_seq_len": narrow["max_position_embeddings"],
        "lora_rank": row.rank,
        "lora_alpha": row.rank,
        "lora_dropout": 0.0,
    }
    checkpointer = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(folder / "model"),
        "checkpoint_files": ["model.safetensors"],
        "recipe_checkpoint": None,
        "output_dir": str(folder / "out"),
        "model_type": "LLAMA3",
    }
    schedule = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    logger = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": str(folder / "logs")}
    settings = OmegaConf.create(
        {
            "output_dir": str(folder / "out"),
            "device": "cpu",
            "dtype": "bf16",
            "seed": 0,
            "shuffle": False,
            "batch_size": row.batch,
            "epochs": 1,
            "max_steps_per_epoch": STEPS,
            "gradient_accumulation_steps": 1,
            "clip_grad_norm": None,
            "compile": False,
            "enable_activation_checkpointing": "ckpt" in row.options,
            "enable_activation_offloading": False,
            "resume_from_checkpoint": False,
            "save_adapter_weights_only": True,
            "model": model,
            "tokenizer": {"_component_": "probe_parts.Tokenizer"},
            "checkpointer": checkpointer,
            "dataset": {"_component_": "probe_parts.Rows", "packed": False},
            "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": 1e-4},
            "lr_scheduler": {"_component_": schedule, "num_warmup_steps": 1},
            "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
            "metric_logger": logger,
        }
    )
    file = Path(torchtune.__file__).parents[1] / "recipes" / "lora_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("lora_finetune_single_device", file)
    assert spec is not None and spec.loader is not None
    recipes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipes)
    recipe = recipes.LoRAFinetuneRecipeSingleDevice(cfg=settings)
    recipe.setup(cfg=settings)
    recipe.save_checkpoint = lambda epoch: None  # after training
    with LiveBytes([*recipe._model.parameters(), *recipe._model.buffers()]) as live:
        recipe.train()
    return live.peak


TRAINERS = {"llamafactory": with_llamafactory, "torchtune": with_torchtune}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="rows of another environment in it are kept")
    parser.add_argument("--only", nargs="*", default=[], help="words that a row must contain")
    options = parser.parse_args()
    kept = json.loads(options.json.read_text()) if options.json.is_file() else {"versions": {}, "rows": []}
    for line in ROWS.strip().splitlines():
        row = Row.read(line)
        if not all(word in str(row) for word in options.only):
            continue
        began, found = time.monotonic(), {"row": str(row), **vars(row), "options": sorted(row.options)}
        with tempfile.TemporaryDirectory() as folder:
            try:
                found["peak_bytes"] = TRAINERS[row.trainer](row, Path(folder))
            except Exception as e:
                found["fault"] = f"{type(e).__name__}: {e}"[:600]
        found["seconds"] = round(time.monotonic() - began, 1)
        print(found.get("peak_bytes", found.get("fault")), found["row"], flush=True)
        package = {"llamafactory": "llamafactory", "torchtune": "torchtune"}[row.trainer]
        found["versions"] = versions((package, "torch", "transformers", "peft", "accelerate", "torchao"))
        kept["versions"] = versions(("torch",))
        kept["rows"] = [r for r in kept["rows"] if r["row"] != found["row"]] + [found]
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
