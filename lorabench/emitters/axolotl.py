"""Axolotl: axolotl.yaml, for axolotl train"""

from __future__ import annotations

from lorabench.advice.types import Candidate, Workload
from lorabench.config.paths import model_source
from lorabench.config.precision import DtypeName
from lorabench.config.trainer import find_trainer
from lorabench.emitters import _setting, _variant

TRAINER = find_trainer("axolotl")
"""the program whose memory and time the files are predicted by"""

_CUT: dict[str, object] = {
    "plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"],
    "cut_cross_entropy": True,
}


def emit(workload: Workload, candidate: Candidate) -> dict[str, str]:
    """axolotl.yaml."""
    _setting.check("axolotl", workload, candidate)
    model, full = workload.model, _setting.trains_base(candidate)
    dtype = _setting.trainer_precision(workload, candidate, TRAINER.weights_follow)
    attention = _variant.attention(workload, _variant.ATTENTIONS)
    settings: dict[str, object] = {
        "base_model": model_source(model.name),
        **({"revision_of_model": model.revision} if model.revision else {}),
        **({"trust_remote_code": True} if model.trust_remote_code else {}),
        **({"attn_implementation": attention} if attention else {}),
        **_loss(workload, dtype),
        **({"bf16": "auto"} if dtype == "bfloat16" else {"bf16": False, "fp16": dtype == "float16"}),
        **_quantization(candidate),
        **({} if full else _adapter(workload, candidate)),
        "datasets": [{"path": _setting.DATA, "ds_type": "json", "type": _COLUMNS}],
        "val_set_size": 0,
        "sequence_len": workload.sequence_length,
        "sample_packing": False,
        "micro_batch_size": candidate.micro_batch_size,
        "gradient_accumulation_steps": candidate.gradient_accumulation,
        "gradient_checkpointing": candidate.gradient_checkpointing,
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if candidate.gradient_checkpointing else {}),
        "optimizer": _setting.OPTIMIZERS[candidate.optimizer],
        "learning_rate": candidate.learning_rate,
        "lr_scheduler": _setting.schedule(candidate),
        "warmup_ratio": candidate.warmup,
        "weight_decay": candidate.weight_decay,
        "max_grad_norm": candidate.max_grad_norm,
        "num_epochs": 1,
        "output_dir": "./model" if full else "./adapter",
    }
    notes = [
        "Run: axolotl train axolotl.yaml",
        (
            f'{_setting.DATA} is yours to supply: each line is {{"prompt": ..., "response": ...}}, and only the'
            ' response is learned. For lines {"text": ...}: type: completion, field: text.'
        ),
    ]
    if dtype == "float16":
        notes += _setting.precision_notes(workload, candidate)
    if dtype == "float32":
        notes.append("Weights are float32, and so are products: axolotl loads weights in the dtype of mixed precision.")
    if candidate.method.name == "pissa":
        notes.append(
            "The adapter is saved as it is, not converted: PEFT starts it from the singular vectors again when it is"
            " loaded."
        )
    return {"axolotl.yaml": _setting.as_yaml(_setting.opening(workload, candidate, *notes), settings)}


_COLUMNS = {
    "field_instruction": "prompt",
    "field_output": "response",
    "format": "{instruction}",
    "no_input_format": "{instruction}",
}


def _loss(workload: Workload, dtype: DtypeName) -> dict[str, object]:
    """Cut cross entropy is a plug-in, which takes no float32 (integrations/cut_cross_entropy/args.py)."""
    if _variant.loss(workload, TRAINER) != "fused":
        return {}
    if dtype == "float32":
        raise _setting.refuse("axolotl", "the loss fused in float32", "bfloat16 and float16", "peft, trl")
    return _CUT


def _quantization(candidate: Candidate) -> dict[str, object]:
    quantization = candidate.quantization
    if quantization.name == "int8":
        return {"load_in_8bit": True}
    if quantization.name == "none":
        return {}
    bnb: dict[str, object] = {
        "bnb_4bit_quant_type": quantization.name,
        "bnb_4bit_use_double_quant": quantization.double_quant,
    }
    if quantization.compute_dtype != "auto":
        bnb["bnb_4bit_compute_dtype"] = quantization.compute_dtype
    return {"load_in_4bit": True, "bnb_config_kwargs": bnb}


def _adapter(workload: Workload, candidate: Candidate) -> dict[str, object]:
    method = candidate.method
    names = _setting.modules(workload.model, method)
    stacks = _setting.parameters("axolotl", workload.model, method)
    return {
        "adapter": "qlora" if candidate.quantization.name in ("nf4", "fp4") else "lora",
        "lora_r": method.rank,
        "lora_alpha": _setting.whole_alpha("axolotl", method),
        "lora_dropout": method.dropout or 0.0,
        **({"lora_target_linear": True} if names is None else {"lora_target_modules": list(names)}),
        **({"lora_target_parameters": list(stacks)} if stacks else {}),
        **({"peft_use_rslora": True} if method.name == "rslora" else {}),
        **({"peft_use_dora": True} if method.name == "dora" else {}),
        **({"peft_init_lora_weights": "pissa"} if method.name == "pissa" else {}),
    }
