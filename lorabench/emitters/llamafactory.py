"""LLaMA-Factory: llamafactory.yaml, for llamafactory-cli train, and the dataset_info.json that it looks data up in"""

from __future__ import annotations

import json
from dataclasses import replace

from lorabench.advice.types import Candidate, Workload
from lorabench.config.paths import model_source
from lorabench.config.precision import DtypeName
from lorabench.config.trainer import Attention, find_trainer
from lorabench.emitters import _setting, _variant

TRAINER = replace(find_trainer("llamafactory"), reentrant=False)  # as the file says (use_reentrant_gc)
"""the program whose memory and time the files are predicted by"""
_NAME = "data"
_ATTENTIONS: dict[Attention, str] = {"sdpa": "sdpa", "flash": "fa2", "eager": "disabled"}
_MIXED: dict[DtypeName | None, dict[str, bool]] = {
    "bfloat16": {"bf16": True},
    "float16": {"fp16": True},
    None: {"bf16": False, "fp16": False},
}


def emit(workload: Workload, candidate: Candidate) -> dict[str, str]:
    """llamafactory.yaml and dataset_info.json."""
    _setting.check("llamafactory", workload, candidate)
    _setting.check_literal("llamafactory", workload.model)
    model, full = workload.model, _setting.trains_base(candidate)
    _compute(workload, candidate)
    attention = _variant.attention(workload, _ATTENTIONS)
    settings: dict[str, object] = {
        "model_name_or_path": model_source(model.name),
        **({"model_revision": model.revision} if model.revision else {}),
        "trust_remote_code": model.trust_remote_code,
        **_quantization(candidate),
        **({"flash_attn": attention} if attention else {}),
        **({"enable_liger_kernel": True} if _variant.loss(workload, TRAINER) == "fused" else {}),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if full else "lora",
        **({} if full else _adapter(workload, candidate)),
        "dataset": _NAME,
        "dataset_dir": ".",
        "template": "empty",
        "cutoff_len": workload.sequence_length,
        "per_device_train_batch_size": candidate.micro_batch_size,
        "gradient_accumulation_steps": candidate.gradient_accumulation,
        "disable_gradient_checkpointing": not candidate.gradient_checkpointing,
        "use_reentrant_gc": False,
        "optim": _setting.OPTIMIZERS[candidate.optimizer],
        "learning_rate": candidate.learning_rate,
        "lr_scheduler_type": _setting.schedule(candidate),
        "warmup_ratio": candidate.warmup,
        "weight_decay": candidate.weight_decay,
        "max_grad_norm": candidate.max_grad_norm,
        **_MIXED[_mixed_precision(workload, candidate)],
        "num_train_epochs": 1.0,
        "logging_steps": 10,
        "report_to": "none",
        "output_dir": "./model" if full else "./adapter",
    }
    pissa = (
        ["The adapter for the unchanged base is adapter/pissa_converted."] if candidate.method.name == "pissa" else []
    )
    opening = _setting.opening(
        workload,
        candidate,
        "Run here, beside dataset_info.json: llamafactory-cli train llamafactory.yaml",
        (
            "Frozen weights that are not quantized keep the dtype of their checkpoint."
            if not full
            else "Weights are trained in float32 under mixed precision."
        ),
        f'{_setting.DATA} is yours to supply: each line is {{"prompt": ..., "response": ...}}, and only the response'
        " is learned. A chat model needs its own template in place of empty.",
        *pissa,
        *_setting.precision_notes(workload, candidate),
    )
    data = {_NAME: {"file_name": _setting.DATA, "columns": {"prompt": "prompt", "response": "response"}}}
    return {
        "llamafactory.yaml": _setting.as_yaml(opening, settings),
        "dataset_info.json": json.dumps(data, indent=2) + "\n",
    }


def _mixed_precision(workload: Workload, candidate: Candidate) -> DtypeName | None:
    """float16 beside float16 weights, too."""
    mixed = _setting.mixed_precision(workload, candidate)
    return "float16" if mixed and workload.model.dtype == "float16" else mixed


def _compute(workload: Workload, candidate: Candidate) -> None:
    """LLaMA-Factory takes frozen weights and 4-bit products in the dtype of mixed precision."""
    mixed = _mixed_precision(workload, candidate)
    compute = candidate.quantization.compute_dtype
    if mixed and candidate.quantization.name in ("nf4", "fp4") and compute not in ("auto", mixed):
        raise _setting.refuse(
            "llamafactory",
            f"4-bit products in {compute} beside mixed precision in {mixed}",
            "one dtype for both",
            "peft, axolotl",
        )
    if workload.model.dtype == "float32" and not _setting.trains_base(candidate):
        raise _setting.refuse(
            "llamafactory", "a frozen base in float32 under mixed precision", "bfloat16 and float16", "peft, trl"
        )


def _quantization(candidate: Candidate) -> dict[str, object]:
    quantization = candidate.quantization
    if quantization.name == "none":
        return {}
    if quantization.name == "int8":
        return {"quantization_method": "bnb", "quantization_bit": 8}
    return {
        "quantization_method": "bnb",
        "quantization_bit": 4,
        "quantization_type": quantization.name,
        "double_quantization": quantization.double_quant,
    }


def _adapter(workload: Workload, candidate: Candidate) -> dict[str, object]:
    method = candidate.method
    names = _setting.modules(workload.model, method)
    comma = next((name for name in names or () if "," in name), None)
    if comma is not None:
        raise _setting.refuse("llamafactory", f"the target module {json.dumps(comma)}", "names without commas")
    return {
        "lora_rank": method.rank,
        "lora_alpha": _setting.whole_alpha("llamafactory", method),
        "lora_dropout": method.dropout or 0.0,
        "lora_target": "all" if names is None else ",".join(names),
        **({"use_rslora": True} if method.name == "rslora" else {}),
        **({"use_dora": True} if method.name == "dora" else {}),
        **({"pissa_init": True, "pissa_iter": -1, "pissa_convert": True} if method.name == "pissa" else {}),
    }
