"""Result files as PEFT's method comparison writes them, with the keys that its run.py has."""

from __future__ import annotations

import copy
import json

LORA = {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.0, "target_modules": ["v_proj", "q_proj"],
        "use_rslora": False, "use_dora": False, "init_lora_weights": True, "use_bdlora": None}  # fmt: skip
RUN = {
    "run_info": {
        "created_at": "2026-07-15T05:41:18+00:00",
        "experiment_name": "lora/llama-3.2-3B-rank32",
        "peft_branch": "main",
        "error_msg": "",
        "train_config": {
            "model_id": "meta-llama/Llama-3.2-3B", "dtype": "bfloat16", "max_seq_length": 768, "batch_size": 4,
            "max_steps": 5000, "eval_steps": 2500, "use_gc": False, "seed": 0, "grad_norm_clip": 1.0,
            "optimizer_type": "AdamW", "optimizer_kwargs": {"lr": 0.0001, "weight_decay": 0.1},
            "lr_scheduler": "cosine",
        },
        "peft_config": LORA,
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 14_000_000_000,
        "accelerator_memory_max": 22_000_000_000,
        "accelerator_memory_reserved_99th": 20_000_000_000,
        "train_time": 942.0,
        "file_size": 36_715_216,
        "num_trainable_params": 9_175_040,
        "num_total_params": 3_221_924_864,
        "status": "success",
        "metrics": [
            {"step": 2500, "valid accuracy": 0.4, "train loss": 0.7, "train time": 300.0},
            {"step": 5000, "valid accuracy": 0.5, "train loss": 0.61, "train time": 285.0},
            {"step": 5000, "test accuracy": 631 / 1319, "train loss": 0.6068, "train samples": 20000,
             "train total tokens": 4_198_050, "forgetting": 0.05},
        ],
    },
    "meta_info": {
        "model_info": {"sha": "13afe51"},
        "package_info": {"peft-version": "0.19.2.dev0", "transformers-version": "5.13.1", "torch-version": "2.13.0"},
        "system_info": {"system": "Linux", "release": "6.17", "accelerator": "NVIDIA L40S"},
    },
}  # fmt: skip
FULL = {"run_info.peft_config": None, "run_info.experiment_name": "full-finetuning/llama-3.2-3B-lr_0.00001",
        "run_info.train_config.optimizer_kwargs": {"lr": 1e-5}, "accuracy": 622 / 1319}  # fmt: skip


def run(changes=None):
    """A result with changes by dotted names; `accuracy` is the test's, None takes a value away but from peft_config."""
    plain = copy.deepcopy(RUN)
    for name, value in (changes or {}).items():
        if name == "accuracy":
            plain["train_info"]["metrics"][-1]["test accuracy"] = value
            continue
        if name == "forgetting":
            plain["train_info"]["metrics"][-1]["forgetting"] = value
            continue
        *route, last = name.split(".")
        at = plain
        for part in route:
            at = at[part]
        if value is None and last != "peft_config":
            del at[last]
        else:
            at[last] = value
    return plain


def write(path, changes=None):
    """The same in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run(changes)), encoding="utf-8")
    return path


def rerun(created, peft, right):
    """What differs in a re-run of another day with another version: `right` of 1,319 answers."""
    return {"run_info.created_at": created, "meta_info.package_info.peft-version": peft, "accuracy": right / 1319}
