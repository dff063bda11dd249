"""torchtune: torchtune.yaml, for its single-device recipes and the models that it has builders for"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

from lorabench.advice.types import Candidate, Workload
from lorabench.config.paths import model_directory
from lorabench.config.settings import ModelSpec
from lorabench.config.trainer import find_trainer
from lorabench.emitters import _setting

TRAINER = replace(find_trainer("torchtune"), clips=True)  # as the file says (clip_grad_norm)
"""the program whose memory and time the files are predicted by"""


@dataclass(frozen=True)
class _Model:
    """What torchtune has for a model: torchtune.models.<package>.[lora_]<builder>, its tokenizer, its checkpoint's type
    and number of files."""

    package: str
    builder: str
    kind: str
    files: int


_MODELS = {  # last part of the hub id in lower case, without -instruct; torchtune 0.6.1
    **{
        f"llama-2-{size}-hf": _Model("llama2", f"llama2_{size}", "LLAMA2", files)
        for size, files in (("7b", 2), ("13b", 3), ("70b", 15))
    },
    **{
        f"meta-llama-3-{size}": _Model("llama3", f"llama3_{size}", "LLAMA3", files)
        for size, files in (("8b", 4), ("70b", 30))
    },
    **{
        f"{meta}llama-3.1-{size}": _Model("llama3_1", f"llama3_1_{size}", "LLAMA3", files)
        for meta in ("", "meta-")
        for size, files in (("8b", 4), ("70b", 30))
    },
    **{
        f"llama-3.2-{size}": _Model("llama3_2", f"llama3_2_{size}", "LLAMA3_2", files)
        for size, files in (("1b", 1), ("3b", 2))
    },
    "llama-3.3-70b": _Model("llama3_3", "llama3_3_70b", "LLAMA3", 30),
    "mistral-7b-v0.1": _Model("mistral", "mistral_7b", "MISTRAL", 2),
    **{
        f"gemma-2-{size}": _Model("gemma2", f"gemma2_{size}", "GEMMA2", files)
        for size, files in (("2b", 3), ("9b", 8), ("27b", 24))
    },
    **{
        f"qwen2.5-{size}": _Model("qwen2_5", f"qwen2_5_{size.replace('.', '_')}", "QWEN2", files)
        for size, files in (("0.5b", 1), ("3b", 2))
    },
    **{
        f"qwen2.5-{size}{end}": _Model("qwen2_5", f"qwen2_5_{size.replace('.', '_')}{builder}", "QWEN2", files)
        for size, files in (("1.5b", 1), ("7b", 4), ("14b", 8), ("32b", 17), ("72b", 37))
        for end, builder in (("", "_base"), ("-instruct", "_instruct"))
    },
}
_TOKENIZERS = {
    "llama2": ("llama2.llama2_tokenizer", {"path": "tokenizer.model"}),
    "mistral": ("mistral.mistral_tokenizer", {"path": "tokenizer.model"}),
    "gemma2": ("gemma.gemma_tokenizer", {"path": "tokenizer.model"}),
    "qwen2_5": ("qwen2_5.qwen2_5_tokenizer", {"path": "vocab.json", "merges_file": "merges.txt"}),
    "llama3": ("llama3.llama3_tokenizer", {"path": "original/tokenizer.model"}),
}
_OPTIMIZERS: dict[str, dict[str, object]] = {
    "adamw": {"_component_": "torch.optim.AdamW", "fused": True},
    "adamw-8bit": {"_component_": "bitsandbytes.optim.AdamW8bit"},
    "paged-adamw": {"_component_": "bitsandbytes.optim.PagedAdamW"},
    "paged-adamw-8bit": {"_component_": "bitsandbytes.optim.PagedAdamW8bit"},
    "sgd": {"_component_": "torch.optim.SGD"},
}
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_MLP: set[str] = {"gate_proj", "up_proj", "down_proj"}


def emit(workload: Workload, candidate: Candidate) -> dict[str, str]:
    """torchtune.yaml; LorabenchError for models without a builder, int8, fp4, pissa and a linear schedule."""
    _setting.check("torchtune", workload, candidate)
    _setting.check_literal("torchtune", workload.model)
    attention = workload.trainer.attention if workload.trainer else None
    if attention not in (None, "sdpa"):
        raise _setting.refuse("torchtune", f"{attention} attention", "sdpa", "peft, trl, axolotl, llamafactory")
    builder, full = _builder(workload.model), _setting.trains_base(candidate)
    directory, files, notes = _checkpoint(workload.model, builder)
    dtype = _dtype(workload, candidate)
    tokenizer, paths = _TOKENIZERS.get(builder.package, _TOKENIZERS["llama3"])
    model = (
        {"_component_": f"torchtune.models.{builder.package}.{builder.builder}"}
        if full
        else _adapter(candidate, builder, notes)
    )
    settings: dict[str, object] = {
        "output_dir": "./model" if full else "./adapter",
        "model": model,
        "tokenizer": {
            "_component_": f"torchtune.models.{tokenizer}",
            **{key: f"{directory}/{file}" for key, file in paths.items()},
            "max_seq_len": workload.sequence_length,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": directory,
            "checkpoint_files": files,
            "recipe_checkpoint": None,
            "output_dir": "${output_dir}",
            "model_type": builder.kind,
        },
        "resume_from_checkpoint": False,
        **({} if full else {"save_adapter_weights_only": True}),
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "json",
            "data_files": _setting.DATA,
            "column_map": {"input": "prompt", "output": "response"},
            "train_on_input": False,
            "packed": False,
        },
        "seed": 0,
        "shuffle": True,
        "batch_size": candidate.micro_batch_size,
        "gradient_accumulation_steps": candidate.gradient_accumulation,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "optimizer": {
            **_OPTIMIZERS[candidate.optimizer],
            "lr": candidate.learning_rate,
            "weight_decay": candidate.weight_decay,
        },
        **({"optimizer_in_bwd": False} if full else {}),
        **_schedule(workload, candidate, notes),
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "clip_grad_norm": candidate.max_grad_norm,
        "device": workload.device,
        "dtype": dtype,
        "compile": False,
        "enable_activation_checkpointing": candidate.gradient_checkpointing,
        "enable_activation_offloading": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": True,
    }
    recipe = "full_finetune_single_device" if full else "lora_finetune_single_device"
    opening = _setting.opening(
        workload,
        candidate,
        f"Run: tune run {recipe} --config torchtune.yaml",
        f'{_setting.DATA} is yours to supply: each line is {{"prompt": ..., "response": ...}}, and only the response'
        " is learned; torchtune puts them into the tokenizer's chat format.",
        f"torchtune has no mixed precision: the whole model{'' if full else ', the adapter too,'} is {dtype}.",
        *notes,
    )
    return {"torchtune.yaml": _setting.as_yaml(opening, settings)}


def _builder(model: ModelSpec) -> _Model:
    word = model.name.rstrip("/").rpartition("/")[2].lower()
    builder = _MODELS.get(word) or _MODELS.get(word.removesuffix("-instruct"))
    if builder is None:
        raise _setting.refuse(
            "torchtune",
            f"the model {json.dumps(model.name)}",
            "Llama 2, 3, 3.1, 3.2 and 3.3, Mistral 7B v0.1, Gemma 2 and Qwen2.5 by their hub names",
            "peft, trl, axolotl, llamafactory",
        )
    return builder


def _checkpoint(model: ModelSpec, builder: _Model) -> tuple[str, object, list[str]]:
    """Directory, files and what to do first: torchtune reads a downloaded directory."""
    local = model_directory(model.name)
    if local is not None:
        shards = sorted(file.name for file in Path(local).glob("*.safetensors"))
        if shards:
            return str(local), shards, []
    if model.revision:
        raise _setting.refuse(
            "torchtune",
            f"the revision {json.dumps(model.revision)} of a hub id",
            "a downloaded directory",
            "peft, trl, axolotl, llamafactory",
        )
    directory = str(local) if local else "./" + model.name.rpartition("/")[2]
    files = (
        ["model.safetensors"]
        if builder.files == 1
        else {"filename_format": "model-{}-of-{}.safetensors", "max_filename": f"{builder.files:05d}"}
    )
    first = [] if local else [f"First: tune download {json.dumps(model.name)} --output-dir {directory}"]
    return directory, files, first


def _dtype(workload: Workload, candidate: Candidate) -> str:
    dtype, compute = _setting.precision(workload, candidate), candidate.quantization.compute_dtype
    if dtype == "bfloat16" and not workload.bf16:
        raise _setting.refuse(
            "torchtune",
            "training in bfloat16 on a card without it",
            "float32 there",
            "peft, trl, axolotl, llamafactory",
        )
    if dtype == "float16":
        raise _setting.refuse(
            "torchtune", "training in float16", "bfloat16 and float32", "peft, trl, axolotl, llamafactory"
        )
    if candidate.quantization.name != "none" and compute not in ("auto", dtype):
        raise _setting.refuse(
            "torchtune", f"4-bit products in {compute} beside a model in {dtype}", "one dtype for both", "peft, axolotl"
        )
    return {"bfloat16": "bf16", "float32": "fp32"}[dtype]


def _adapter(candidate: Candidate, builder: _Model, notes: list[str]) -> dict[str, object]:
    method, quantization = candidate.method, candidate.quantization
    assert method.rank is not None
    assert method.alpha is not None
    if method.name == "pissa":
        raise _setting.refuse("torchtune", "method pissa", "lora, rslora, dora and full", "peft, axolotl, llamafactory")
    if quantization.name not in ("none", "nf4") or (quantization.name == "nf4" and not quantization.double_quant):
        form = f"quantization {quantization.name}" + (
            "" if quantization.double_quant or quantization.name != "nf4" else " without double_quant"
        )
        raise _setting.refuse("torchtune", form, "none, and nf4 with double_quant", "peft, trl, axolotl, llamafactory")
    alpha = _setting.number(method.alpha)
    if method.name == "rslora":
        alpha = method.alpha * sqrt(method.rank)
        notes.append(
            f"torchtune scales by alpha / rank: lora_alpha is {method.alpha:g} * sqrt({method.rank}), so that the"
            " scaling is rsLoRA's."
        )
    nf4 = quantization.name == "nf4"
    return {
        "_component_": f"torchtune.models.{builder.package}.lora_{builder.builder}",
        **_targets(method.target_modules),
        "lora_rank": method.rank,
        "lora_alpha": alpha,
        "lora_dropout": method.dropout or 0.0,
        **({"use_dora": True} if method.name == "dora" else {}),
        **({"quantize_base": True} if nf4 else {}),  # the qlora_ builders are these with quantize_base
    }


def _targets(target_modules: str | tuple[str, ...] | None) -> dict[str, object]:
    """torchtune's own names: any of the attention's, at least one, and the MLP as a whole."""
    groups: dict[str, set[str]] = {"all-linear": {*_ATTENTION, *_MLP}, "attention": {*_ATTENTION}, "mlp": _MLP}
    names = (
        groups.get(target_modules or "all-linear", {str(target_modules)})
        if target_modules is None or isinstance(target_modules, str)
        else set(target_modules)
    )
    odd = sorted(names - set(_ATTENTION) - _MLP)
    if odd:
        raise _setting.refuse(
            "torchtune", f"the target module {json.dumps(odd[0])}", ", ".join([*_ATTENTION, *sorted(_MLP)])
        )
    if not names & set(_ATTENTION) or 0 < len(names & _MLP) < len(_MLP):
        raise _setting.refuse(
            "torchtune",
            f"adapters on {', '.join(sorted(names))} alone",
            "at least one of the attention's projections, and the MLP's all or none",
        )
    return {
        "lora_attn_modules": [own for name, own in _ATTENTION.items() if name in names],
        "apply_lora_to_mlp": bool(names & _MLP),
    }


def _schedule(workload: Workload, candidate: Candidate, notes: list[str]) -> dict[str, object]:
    """torchtune has the cosine alone, which is constant with no cycles, and counts its warm-up in steps."""
    if candidate.schedule not in ("cosine", "constant"):
        raise _setting.refuse(
            "torchtune", f"schedule {candidate.schedule}", "cosine and constant", "peft, trl, axolotl, llamafactory"
        )
    steps = 100
    if workload.examples is not None:
        steps = round(
            candidate.warmup * (workload.examples // (candidate.micro_batch_size * candidate.gradient_accumulation))
        )
    elif candidate.warmup:
        notes.append(
            f"Set num_warmup_steps yourself: {100 * candidate.warmup:g} % of the steps, which are examples /"
            f" {candidate.micro_batch_size * candidate.gradient_accumulation}."
        )
    component = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    cycles = {"num_cycles": 0.0} if candidate.schedule == "constant" else {}
    return {"lr_scheduler": {"_component_": component, "num_warmup_steps": steps if candidate.warmup else 0, **cycles}}
