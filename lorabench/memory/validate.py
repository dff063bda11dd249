"""From the words of a command line to a setting, checked as a study is: one sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from lorabench import plugins
from lorabench.config.architectures import find_architecture
from lorabench.config.checkpoint import as_stored, stored_quantization
from lorabench.config.explain import sentence
from lorabench.config.frozen import Frozen
from lorabench.config.precision import DeviceKind
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.trainer import Trainer
from lorabench.config.validity import (
    dtype_fault,
    length_fault,
    optimizer_fault,
    quantized_base_fault,
    target_parameters_fault,
)
from lorabench.engine.adapt import linear_modules, odd_linear, resolve_targets
from lorabench.engine.check import unquantizable
from lorabench.engine.parameter_targets import resolve_parameters, stack_fault
from lorabench.errors import LorabenchError, UnpredictableError
from lorabench.memory.meta_model import build, with_layers
from lorabench.memory.train_config import TrainConfig


class Request(Frozen):
    """What estimate asks for, in the words of a study."""

    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    method: MethodSpec = MethodSpec()
    training: TrainingSpec = TrainingSpec()


def setting_from(
    words: Mapping[str, object], device: DeviceKind = "cuda", trainer: Trainer | None = None
) -> TrainConfig:
    """A setting of nested words such as {"method": {"rank": 8}}; LorabenchError where one is amiss.

    The quantization is the checkpoint's own where the model is stored quantized.
    """
    try:
        request = Request.model_validate(words, context={"folders": (Path.cwd(),)})
    except ValidationError as e:
        raise LorabenchError(sentence(e, Request)[1].removeprefix("model.name: ")) from None
    kind = (
        request.quantization
        if plugins.load("quantizations", request.quantization.name).DOUBLE_QUANT
        else request.quantization.model_copy(update={"double_quant": False, "compute_dtype": "auto"})
    )
    setting = TrainConfig(request.model, as_stored(request.model, kind), used(request.method), request.training, device)
    setting = replace(setting, trainer=trainer or setting.trainer)
    check(setting)
    return setting


def used(method: MethodSpec) -> MethodSpec:
    """The method with the fields that it does not use emptied."""
    plugin = plugins.load("methods", method.name)
    unused = {f: None for f in ("rank", "alpha", "dropout", "target_modules") if f not in plugin.FIELDS}
    return method.model_copy(update=unused | ({} if plugin.FIELDS else {"target_parameters": None}))


def model_from(name: str) -> ModelSpec:
    """The model of a name; LorabenchError where a local path leads nowhere."""
    try:
        return ModelSpec.model_validate({"name": name}, context={"folders": (Path.cwd(),)})
    except ValidationError as e:
        raise LorabenchError(sentence(e, ModelSpec)[1].removeprefix("name: ")) from None


def check(setting: TrainConfig) -> None:
    """LorabenchError where the model has not the positions, modules or sides that are asked for, or method and
    quantization do not go together, with each other or with the trainer."""
    method, trainer = plugins.load("methods", setting.method.name), setting.trainer
    for kind, value in (("method", setting.method.name), ("quantization", setting.quantization.name)):
        if value in trainer.unavailable:
            allowed = [n for n in plugins.names(f"{kind}s") if n not in (*trainer.unavailable, "base")]
            raise LorabenchError(f"{trainer.title} has no {kind} {value}; allowed: {', '.join(allowed)}")
    if not method.TRAINS:
        raise LorabenchError(
            f"method {setting.method.name} trains nothing, so there is no training step to predict; allowed: full, lora"
            " and its variants"
        )
    if setting.method.target_parameters and "target_parameters" in trainer.unavailable:
        raise LorabenchError(f"{trainer.title} has no target_parameters; allowed for it: target_modules alone")
    stored = stored_quantization(setting.model.name, setting.model.revision)
    for fault in (
        quantized_base_fault(setting.method.name, setting.quantization.name, setting.model.name if stored else None),
        target_parameters_fault(setting.method),
        dtype_fault(setting.method.name, setting.model.dtype),
        optimizer_fault(setting.training.optimizer, setting.device),
    ):
        if fault:
            raise LorabenchError(fault)
    preset = find_architecture(setting.model.name)
    if preset is not None and preset.parameters_only:
        raise UnpredictableError(
            f"the parameters of {setting.model.name} can be counted (lorabench parameters), but a training step cannot"
            " be predicted: it is not a causal language model that transformers builds, or only its sizes are known"
        )
    if fault := length_fault(setting.training.sequence_length, setting.shape.positions, setting.model.name):
        raise LorabenchError(fault)
    import torch

    model = build(with_layers(setting.shape.config, 1), torch.bfloat16, setting.model.trust_remote_code)
    odd = odd_linear(model) if setting.quantization.name != "none" else None
    if odd:
        raise LorabenchError(unquantizable(setting.quantization.name, odd))
    if setting.method.target_modules is None:
        return
    shapes = linear_modules(model)
    smallest = min(resolve_targets(model, setting.method.target_modules), key=lambda n: min(shapes[n]))
    rank, side = setting.method.rank or 0, min(shapes[smallest])
    if rank > side:
        raise LorabenchError(
            f"rank {rank} is above the smaller side of {smallest} ({shapes[smallest][1]} x {shapes[smallest][0]}); at"
            f" most {side} is allowed"
        )
    if setting.method.target_parameters and (
        fault := stack_fault(resolve_parameters(setting.shape.model, setting.method.target_parameters), rank)
    ):
        raise LorabenchError(fault)
