"""In which dtype a cell's weights, mixed precision and products are, by the rules of config.precision, without its
weights."""

from __future__ import annotations

import torch

from lorabench import plugins
from lorabench.config import precision
from lorabench.config.precision import DtypeName
from lorabench.config.trainer import OWN
from lorabench.engine.model import torch_dtype
from lorabench.memory.train_config import TrainConfig


def resolve_dtype(setting: TrainConfig) -> torch.dtype:
    """The dtype of the weights, as engine.model resolves it for a cell."""
    return torch_dtype(_weights(setting))


def resolve_autocast(setting: TrainConfig) -> torch.dtype | None:
    """The dtype of mixed precision, as engine.model resolves it; None without it."""
    name = _autocast(setting)
    return torch_dtype(name) if name else None


def resolve_compute_dtype(setting: TrainConfig) -> torch.dtype:
    """The dtype that 4-bit layers are told to compute in, as engine.model resolves it."""
    return torch_dtype(precision.compute_dtype(setting.quantization, _autocast(setting), _weights(setting)))


def product_dtype(setting: TrainConfig) -> torch.dtype:
    """The dtype of the base's products, as engine.model resolves it."""
    return torch_dtype(precision.product_dtype(setting.quantization, _autocast(setting), _weights(setting)))


def _autocast(setting: TrainConfig) -> DtypeName | None:
    trainer = setting.trainer
    if trainer.name == OWN:
        return precision.autocast_dtype(
            setting.training.autocast, setting.device, setting.bf16, lambda: setting.shape.is_large
        )
    if not trainer.mixed_precision or setting.training.autocast == "none":
        return None
    if setting.training.autocast == "bfloat16":
        return "bfloat16"
    trains_base = plugins.load("methods", setting.method.name).TRAINS_BASE
    return precision.trainer_autocast(
        setting.device, setting.bf16, _weights(setting), trains_base, trainer.weights_follow
    )


def _weights(setting: TrainConfig) -> DtypeName:
    """Other trainers keep the checkpoint's dtype: bfloat16, float16 on cards without it, where weights that are trained
    are float32; and float32 of trainers whose weights follow mixed precision, where there is none."""
    trainer, keeps = setting.trainer, precision.trainer_holds_bfloat16(setting.device, setting.bf16)
    if trainer.name == OWN or setting.model.dtype != "auto":
        weights = precision.weights_dtype(
            setting.model.dtype, setting.method.name, setting.device, setting.bf16, lambda: setting.shape.is_large
        )
    elif plugins.load("methods", setting.method.name).TRAINS_BASE:
        weights = trainer.full_dtype if keeps else "float32"
    else:
        weights = "bfloat16" if keeps else "float16"
    if trainer.weights_follow and weights == "bfloat16" and setting.device == "cpu":
        return "float32"
    return weights
