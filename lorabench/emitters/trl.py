"""TRL: sft.sh, the command line of trl sft"""

from __future__ import annotations

import re
import shlex

from lorabench.advice.types import Candidate, Workload
from lorabench.config.paths import model_source
from lorabench.config.trainer import find_trainer
from lorabench.emitters import _setting, _variant

TRAINER = find_trainer("trl")
"""the program whose memory and time the files are predicted by"""
_FOLDER = "./data"


def emit(workload: Workload, candidate: Candidate) -> dict[str, str]:
    """sft.sh."""
    _setting.check("trl", workload, candidate)
    model, attention = workload.model, _variant.attention(workload, _variant.ATTENTIONS)
    options: dict[str, object] = {
        "model_name_or_path": model_source(model.name),
        **({"model_revision": model.revision} if model.revision else {}),
        **({"trust_remote_code": True} if model.trust_remote_code else {}),
        "dtype": _dtype(workload, candidate),
        **({"attn_implementation": attention} if attention else {}),
        **_quantization(candidate),
        **({} if _setting.trains_base(candidate) else _adapter(workload, candidate)),
        "dataset_name": _FOLDER,
        "max_length": workload.sequence_length,
        "per_device_train_batch_size": candidate.micro_batch_size,
        "gradient_accumulation_steps": candidate.gradient_accumulation,
        "gradient_checkpointing": candidate.gradient_checkpointing,  # TRL's own default is on
        **({"gradient_checkpointing_kwargs": '{"use_reentrant": false}'} if candidate.gradient_checkpointing else {}),
        "optim": _setting.OPTIMIZERS[candidate.optimizer],
        "learning_rate": candidate.learning_rate,
        "lr_scheduler_type": _setting.schedule(candidate),
        "warmup_steps": candidate.warmup,
        "weight_decay": candidate.weight_decay,
        "max_grad_norm": candidate.max_grad_norm,
        **_mixed_precision(workload, candidate),
        **_loss(workload, candidate),
        "num_train_epochs": 1,
        "report_to": "none",
        "output_dir": "./model" if _setting.trains_base(candidate) else "./adapter",
    }
    opening = _setting.opening(
        workload,
        candidate,
        "Needs trl, peft, transformers 5 (a warm-up below 1 is a share of the steps) and, for quantized bases and 8-bit"
        " optimizers, bitsandbytes.",
        f'{_FOLDER} is yours to supply: a folder with train.jsonl, each line {{"text": ...}}, or {{"prompt": ...,'
        ' "completion": ...}, of which only the completion is learned.',
        *_setting.precision_notes(workload, candidate),
    )
    command = " \\\n  ".join(["trl sft", *(_argument(name, value) for name, value in options.items())])
    return {"sft.sh": f"#!/bin/sh\n{opening}set -e\n\n{command}\n"}


def _argument(name: str, value: object) -> str:
    """One option; a text stands behind =, where a leading dash makes it no option."""
    if isinstance(value, tuple):
        return " ".join([f"--{name}", *map(shlex.quote, value)])
    return f"--{name}={shlex.quote(str(value))}"


def _loss(workload: Workload, candidate: Candidate) -> dict[str, object]:
    loss = _variant.loss(workload, TRAINER)
    if loss == "full":
        raise _setting.refuse("trl", "the loss full", "chunked and fused since 1.15", "peft, axolotl, llamafactory")
    if _variant.kbit_preparation(workload, candidate):
        raise _setting.refuse("trl", "prepare_model_for_kbit_training", "a quantized base as it is", "peft")
    packs = workload.trainer is not None and workload.trainer.packing
    return {**({"use_liger_kernel": True} if loss == "fused" else {}), **({"packing": True} if packs else {})}


def _mixed_precision(workload: Workload, candidate: Candidate) -> dict[str, object]:
    """TRL mixes in bfloat16 where neither is named, and casts adapters on a quantized base to bfloat16 (TRL 0.24 and
    later), whose gradients torch cannot unscale for float16."""
    mixed = _setting.mixed_precision(workload, candidate)
    if mixed == "float16" and candidate.quantization.name != "none":
        raise _setting.refuse(
            "trl",
            f"quantization {candidate.quantization.name} on a card without bfloat16",
            "quantization none there",
            "peft, axolotl, llamafactory",
        )
    return {"bf16": mixed == "bfloat16", **({"fp16": True} if mixed == "float16" else {})}


def _dtype(workload: Workload, candidate: Candidate) -> str:
    """TRL has one dtype for weights and 4-bit products."""
    declared, compute = workload.model.dtype, candidate.quantization.compute_dtype
    if candidate.quantization.name not in ("nf4", "fp4") or compute == "auto":
        return _setting.trainer_precision(workload, candidate)
    if declared not in ("auto", compute):
        raise _setting.refuse(
            "trl", f"4-bit products in {compute} beside weights in {declared}", "one dtype for both", "peft, axolotl"
        )
    return compute


def _quantization(candidate: Candidate) -> dict[str, object]:
    quantization = candidate.quantization
    if quantization.name == "int8":
        return {"load_in_8bit": True}
    if quantization.name == "none":
        return {}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quantization.name,
        "use_bnb_nested_quant": quantization.double_quant,
    }


def _adapter(workload: Workload, candidate: Candidate) -> dict[str, object]:
    method = candidate.method
    if method.name == "pissa":
        raise _setting.refuse(
            "trl", "method pissa on its command line", "lora, rslora, dora and full", "peft, axolotl, llamafactory"
        )
    stacks = _setting.parameters("trl", workload.model, method)
    return {
        "use_peft": True,
        "lora_r": method.rank,
        "lora_alpha": _setting.whole_alpha("trl", method),
        "lora_dropout": method.dropout or 0.0,
        "lora_target_modules": _targets(_setting.modules(workload.model, method)),
        **({"lora_target_parameters": stacks} if stacks else {}),
        **({"use_rslora": True} if method.name == "rslora" else {}),
        **({"use_dora": True} if method.name == "dora" else {}),
    }


def _targets(names: tuple[str, ...] | None) -> str | tuple[str, ...]:
    """TRL hands a single word to PEFT as a text, which PEFT takes for a regular expression over the whole name."""
    if names is None:
        return ("all-linear",)
    return names if len(names) > 1 else (rf"(.*\.)?{re.escape(names[0])}",)
