"""Which settings go together: each rule once, with its sentence, for studies, predictions and emitters.

A function returns the sentence of the fault, None where there is none.
"""

from __future__ import annotations

from lorabench import plugins
from lorabench.config.paths import model_label
from lorabench.config.settings import Dtype, MethodSpec

PARAMETER_METHODS = ("lora", "rslora")


def takes_quantized_base(method: str) -> bool:
    """Whether a method trains on a quantized base, which it leaves as it is."""
    return not plugins.load("methods", method).UNQUANTIZED_ONLY


def quantized_base_fault(method: str, quantization: str, stored_model: str | None = None) -> str | None:
    """Of a method that needs an unquantized base and a quantized one; `stored_model` names the checkpoint that is
    stored so."""
    if quantization == "none" or takes_quantized_base(method):
        return None
    where = quantization if stored_model is None else f"{quantization}, in which {model_label(stored_model)} is stored"
    base = "quantization none" if stored_model is None else "the unquantized checkpoint"
    reason = plugins.load("methods", method).UNQUANTIZED_ONLY
    return (
        f"method {method} cannot be combined with quantization {where}: {reason}; allowed: {base}, or another method"
        " such as lora"
    )


def leaves_experts(method: MethodSpec) -> bool:
    """Whether adapters are asked for, on modules alone."""
    return method.target_modules is not None and method.target_parameters is None


def target_parameters_fault(method: MethodSpec, truncation: tuple[int, ...] = ()) -> str | None:
    """Of adapters on parameters and a method or a dropout that PEFT's layer for them has not
    (peft/tuners/lora/layer.py, ParamWrapper), and of cuts, which reach modules alone."""
    if method.target_parameters is None:
        return None
    if truncation:
        return (
            "analysis.truncation cannot be combined with target_parameters: a cell cuts modules alone, no experts;"
            " allowed: no truncation (lorabench truncate cuts saved adapters with their experts), or target_parameters:"
            " null"
        )
    if method.name not in PARAMETER_METHODS:
        return (
            f"method {method.name} cannot adapt target_parameters, which PEFT does by plain LoRA; allowed:"
            f" {', '.join(PARAMETER_METHODS)}, or target_parameters: null"
        )
    if method.dropout:
        return (
            f"dropout {method.dropout:g} cannot be combined with target_parameters, whose adapters drop nothing;"
            " allowed: dropout 0, or target_parameters: null"
        )
    return None


def dtype_fault(method: str, dtype: Dtype) -> str | None:
    """Of a method that trains the base's own weights, where those are float16."""
    return float16_fault(method) if dtype == "float16" and plugins.load("methods", method).TRAINS_BASE else None


def float16_fault(method: str) -> str:
    """The sentence of `dtype_fault`."""
    return (
        f"method {method} cannot train float16 weights, whose updates and second moments underflow; "
        "allowed: auto, float32, bfloat16"
    )


def is_paged(optimizer: str) -> bool:
    """Whether an optimizer's state is paged between GPU and host memory."""
    return optimizer.startswith("paged")


def optimizer_fault(optimizer: str, device: str) -> str | None:
    """Of a paged optimizer without a CUDA device; device is cpu or cuda."""
    if device == "cuda" or not is_paged(optimizer):
        return None
    return (
        f"optimizer {optimizer} pages between GPU and host memory and needs a CUDA device; allowed on a CPU: adamw,"
        " adamw-8bit, sgd"
    )


def length_fault(sequence_length: int, positions: int | None, model: str) -> str | None:
    """Of a sequence that is longer than the model's positions, None where it has no end."""
    if positions is None or sequence_length <= positions:
        return None
    return (
        f"sequence length {sequence_length} is beyond the {positions} positions of {model}; at most {positions} is"
        " allowed"
    )
