"""A model of a published configuration with random weights, really there: what its training holds does not depend on
what the weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lorabench import plugins
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.library_messages import quiet
from lorabench.memory.meta_model import configuration
from lorabench.memory.step_dtypes import resolve_compute_dtype, resolve_dtype
from lorabench.memory.trainer_step import prepared, with_adapter_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.memory.train_config import TrainConfig


def random_model(setting: TrainConfig, where: torch.device) -> PreTrainedModel:
    """The adapted model of a setting on a device, in training mode, as its trainer prepares it."""
    return adapted_base(setting, random_base(setting, where))


def random_base(setting: TrainConfig, where: torch.device) -> PreTrainedModel:
    """The frozen base, quantized where the setting asks: bitsandbytes quantizes each weight on the device."""
    import bitsandbytes as bnb
    import transformers
    from transformers.quantizers.auto import AutoHfQuantizer

    dtype, spec = resolve_dtype(setting), setting.quantization
    with where, quiet():
        model = transformers.AutoModelForCausalLM.from_config(configuration(setting.model), dtype=dtype)
    model.requires_grad_(False)
    model.config.use_cache = False
    config = plugins.load("quantizations", spec.name).config(spec.double_quant, resolve_compute_dtype(setting))
    if config is None:
        return model
    conv1d = transformers.pytorch_utils.Conv1D
    weights = {
        name: (module.weight.data, module.bias)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | conv1d)
    }
    with quiet():
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map={"": where}, dtype=dtype)
    for name, module in model.named_modules():
        if not isinstance(module, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
            continue
        weight, module.bias = weights.pop(name)
        random_weight: Any = weight.T.contiguous() if module.source_cls is conv1d else weight
        if isinstance(module, bnb.nn.Linear4bit):
            old: Any = module.weight
            random_weight = bnb.nn.Params4bit(
                random_weight,
                requires_grad=False,
                compress_statistics=old.compress_statistics,
                quant_type=old.quant_type,
                module=module,
            )
        else:
            random_weight = bnb.nn.Int8Params(random_weight, requires_grad=False, has_fp16_weights=False)
        module.weight = random_weight.to(where)
    quantizer.postprocess_model(model)
    return model


def adapted_base(setting: TrainConfig, base: PreTrainedModel) -> PreTrainedModel:
    """A base with its trainer's preparation and the setting's method, in training mode."""
    method, dtype = setting.method, resolve_dtype(setting)
    targets = resolve_targets(base, method.target_modules) if method.target_modules else ()
    with quiet():
        model = plugins.load("methods", method.name).attach(
            prepared(setting, base), method, peft_targets(base, targets) if targets else []
        )
    adapted: PreTrainedModel = with_adapter_dtype(setting, model, dtype).train()
    return adapted
