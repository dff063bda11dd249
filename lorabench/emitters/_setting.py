"""What all emitters ask of a setting: what no tool can do, module names of a model family, transformers' words, the
opening comment."""

from __future__ import annotations

import json
import math
from pathlib import Path

import yaml
from safetensors import safe_open

from lorabench import plugins
from lorabench.advice.types import Candidate, Workload
from lorabench.config.architectures import find_architecture, model_type
from lorabench.config.gguf_file import gguf_of
from lorabench.config.paths import model_directory, model_label, model_source
from lorabench.config.precision import (
    DtypeName,
    is_large,
    trainer_autocast,
    trainer_holds_bfloat16,
    trainer_weights,
    weights_dtype,
)
from lorabench.config.settings import MethodSpec, ModelSpec
from lorabench.config.validity import dtype_fault, quantized_base_fault
from lorabench.errors import LorabenchError, unknown

DATA = "data.jsonl"

OPTIMIZERS = {  # transformers' names
    "adamw": "adamw_torch_fused",
    "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw": "paged_adamw_32bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}

_GATED = ("gate_proj", "up_proj", "down_proj")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_FUSED = ("query_key_value", "dense"), ("dense_h_to_4h", "dense_4h_to_h")
_FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # transformers' model_type: attention, mlp
    **dict.fromkeys(
        (
            *(
                "llama",
                "mistral",
                "gemma",
                "gemma2",
                "gemma3_text",
                "qwen2",
                "qwen3",
                "smollm3",
                "olmo",
                "olmo2",
                "olmo3",
            ),
            *("granite", "qwen2_moe"),
        ),
        (_PROJECTIONS, _GATED),
    ),
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "phimoe", "granitemoe", "gpt_oss"), (_PROJECTIONS, ())),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3"),
        (("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"), _GATED),
    ),
    "starcoder2": (_PROJECTIONS, ("c_fc", "c_proj")),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), _FUSED),
    "gpt2": (("c_attn", "attn.c_proj"), ("c_fc", "mlp.c_proj")),
    "gptj": (("q_proj", "k_proj", "v_proj", "out_proj"), ("fc_in", "fc_out")),
    "opt": (("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2")),
    "phi": (("q_proj", "k_proj", "v_proj", "dense"), ("fc1", "fc2")),
    "phi3": (("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj")),
    "stablelm": (_PROJECTIONS, _GATED),
}
_EXPERT_STACKS = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")
_STACKED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3")
_USUAL = (  # of all families, each so that it means one group alone
    (
        *_PROJECTIONS,
        "out_proj",
        "qkv_proj",
        "c_attn",
        "attn.c_proj",
        "query_key_value",
        "self_attention.dense",
        "self_attn.dense",
        "attention.dense",
    ),
    (
        *_GATED,
        "gate_up_proj",
        "fc1",
        "fc2",
        "fc_in",
        "fc_out",
        "c_fc",
        "mlp.c_proj",
        "dense_h_to_4h",
        "dense_4h_to_h",
        "w1",
        "w2",
        "w3",
    ),
)
_SPELLED = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "full": "full fine-tuning"}


def refuse(tool: str, setting: str, allowed: str, others: str = "peft") -> LorabenchError:
    """One sentence for what a tool cannot carry out."""
    return LorabenchError(
        f"{tool} cannot carry out {setting}; it takes {allowed}; use another --emit ({others}) or another setting"
    )


def check(tool: str, workload: Workload, candidate: Candidate) -> None:
    """LorabenchError for what no tool can do."""
    method, quantization = candidate.method.name, candidate.quantization.name
    if method == "base":
        raise LorabenchError(
            f"method base trains nothing, so there is nothing that {tool} could do; allowed: full, lora, rslora, dora,"
            " pissa"
        )
    if workload.model.name.endswith(".gguf"):
        raise refuse(
            tool,
            f"a training of the GGUF file {model_label(workload.model.name)}",
            "a transformers folder or a hub id: the model that the file was made from",
            "none of them reads GGUF",
        )
    preset = find_architecture(workload.model.name)
    if preset and "vision_config" in preset.config:
        raise LorabenchError(
            f"files for {workload.model.name} are not written: its image tower has modules of the same names as its"
            f" language model, and {tool} would adapt both; allowed: models without one, or recommend without --emit"
        )
    if candidate.method.target_parameters and tool in ("llamafactory", "torchtune"):
        raise refuse(tool, "target_parameters", "target_modules alone", "peft, trl, axolotl")
    if fault := quantized_base_fault(method, quantization) or dtype_fault(method, workload.model.dtype):
        raise LorabenchError(fault)
    if candidate.optimizer not in OPTIMIZERS:
        raise LorabenchError(unknown("optimizer", candidate.optimizer, OPTIMIZERS))


def check_literal(tool: str, model: ModelSpec) -> None:
    """LorabenchError for names that OmegaConf, which reads this tool's YAML, would take for a reference to another
    value."""
    if "${" in model_source(model.name):
        raise refuse(
            tool,
            f"the model {json.dumps(model.name)}, whose name its YAML reader would expand",
            "names without ${",
            "peft, trl, axolotl",
        )


def trains_base(candidate: Candidate) -> bool:
    """Whether every parameter is trained, with no adapter."""
    return bool(plugins.load("methods", candidate.method.name).TRAINS_BASE)


def modules(model: ModelSpec, method: MethodSpec) -> tuple[str, ...] | None:
    """Names (or ends of names) of the adapted modules; None for all linear ones, which every tool has a word for."""
    target_modules = method.target_modules
    if target_modules is None or target_modules == "all-linear":
        return None
    if target_modules in ("attention", "mlp"):
        return _FAMILIES.get(model_type(model.name) or "", _USUAL)[target_modules == "mlp"]
    return (target_modules,) if isinstance(target_modules, str) else target_modules


def parameters(tool: str, model: ModelSpec, method: MethodSpec) -> tuple[str, ...] | None:
    """Names of the adapted stacks of experts; None for none."""
    asked = method.target_parameters
    if not isinstance(asked, str):
        return asked
    if model_type(model.name) not in _STACKED:
        raise LorabenchError(
            f"{tool} is told the parameters of experts by name, and those of {model.name} are not known; allowed:"
            f" experts for {', '.join(sorted(_STACKED))}, or the names themselves (target_parameters)"
        )
    return _EXPERT_STACKS


def precision(workload: Workload, candidate: Candidate) -> DtypeName:
    """The dtype of unquantized weights: the candidate's, else as the engine chooses it."""
    model = workload.model
    declared = model.dtype if candidate.dtype == "auto" else candidate.dtype
    keeps = trainer_holds_bfloat16(workload.device, workload.bf16)
    return weights_dtype(declared, candidate.method.name, workload.device, keeps, lambda: _is_large(model))


def mixed_precision(workload: Workload, candidate: Candidate, follows: bool = False) -> DtypeName | None:
    """The dtype of mixed precision that a trainer, whose weights may follow it, is told to take on the card; None for
    none."""
    weights = precision(workload, candidate)
    return trainer_autocast(workload.device, workload.bf16, weights, trains_base(candidate), follows)


def trainer_precision(workload: Workload, candidate: Candidate, follows: bool = False) -> DtypeName:
    """The dtype of unquantized weights beside that mixed precision."""
    return trainer_weights(precision(workload, candidate), mixed_precision(workload, candidate, follows), follows)


def precision_notes(workload: Workload, candidate: Candidate) -> tuple[str, ...]:
    """What is otherwise on a card without bfloat16."""
    if mixed_precision(workload, candidate) != "float16":
        return ()
    return ("The card does not compute in bfloat16: mixed precision is float16.",)


def _is_large(model: ModelSpec) -> bool:
    parameters = _parameters(model)
    return parameters is None or is_large(parameters)


def _parameters(model: ModelSpec) -> int | None:
    directory = model_directory(model.name)
    if directory is None:
        preset = find_architecture(model.name)
        return preset.published_parameters if preset else None
    gguf = gguf_of(directory)
    return gguf.numbers if gguf else sum(map(_entries, directory.glob("*.safetensors"))) or None


def _entries(file: Path) -> int:
    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - no mapping
    except Exception:  # safetensors' own error has no public base; what cannot be read is of unknown size
        return 0


def schedule(candidate: Candidate) -> str:
    """transformers' name: its "constant" ignores warm-up."""
    if candidate.schedule not in ("cosine", "linear", "constant"):
        raise LorabenchError(unknown("schedule", candidate.schedule, ("cosine", "linear", "constant")))
    return "constant_with_warmup" if candidate.schedule == "constant" and candidate.warmup else candidate.schedule


def number(value: float) -> int | float:
    """16 for 16.0."""
    return int(value) if float(value).is_integer() else value


def whole_alpha(tool: str, method: MethodSpec) -> int:
    """alpha for a tool that takes whole numbers alone."""
    assert method.alpha is not None  # such methods keep theirs
    if not float(method.alpha).is_integer():
        raise refuse(tool, f"alpha {method.alpha:g}", "whole numbers")
    return int(method.alpha)


def opening(workload: Workload, candidate: Candidate, *notes: str) -> str:
    """Comment lines: who wrote the file and for which setting. Names are in JSON's form, whose escapes leave no line
    break."""
    method, quantization = candidate.method, candidate.quantization
    adapter = f" in {candidate.dtype}" if trains_base(candidate) and candidate.dtype != "auto" else ""
    if not trains_base(candidate):
        adapter = (
            f" rank {method.rank}, alpha {method.alpha:g}, dropout {method.dropout or 0:g} on"
            f" {_shown(method.target_modules)}"
        )
    stored = {"none": "unquantized"}.get(quantization.name, quantization.name) + (
        " with double quantization" if quantization.double_quant else ""
    )
    lines = [
        f"Written by lorabench recommend: {_SPELLED.get(method.name, method.name)}{adapter}, {stored}",
        f"model {json.dumps(workload.model.name)}, {candidate.micro_batch_size} x {candidate.gradient_accumulation}"
        f" sequences of {workload.sequence_length} tokens a step"
        + (", gradient checkpointing" if candidate.gradient_checkpointing else ""),
        (
            f"{candidate.optimizer} at {candidate.learning_rate:g}, {candidate.schedule}, warm-up"
            f" {100 * candidate.warmup:g} % of the steps"
        ),
        *notes,
    ]
    return "".join(f"# {line}\n" for line in lines)


def _shown(targets: str | tuple[str, ...] | None) -> str:
    return (
        "all-linear"
        if targets is None
        else targets
        if targets in ("all-linear", "attention", "mlp")
        else json.dumps(targets)
    )


def as_yaml(opening: str, settings: dict[str, object]) -> str:
    """The comment and the settings, in their order; ASCII alone, so that no character ends a line."""
    return opening + "\n" + yaml.safe_dump(settings, sort_keys=False, width=10**6)
