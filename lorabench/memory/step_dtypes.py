"""In which dtype a cell's weights, mixed precision and products are, by the rules of config.precision, without its
weights."""

from __future__ import annotations

import torch

from lorabench.config import precision
from lorabench.config.precision import DtypeName
from lorabench.engine.model import torch_dtype
from lorabench.memory.meta_model import build, with_layers
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
    return precision.autocast_dtype(setting.training.autocast, setting.device, setting.bf16)


def _weights(setting: TrainConfig) -> DtypeName:
    return precision.weights_dtype(setting.model.dtype, setting.method.name, lambda: _is_large(setting))


def _is_large(setting: TrainConfig) -> bool:
    """One layer and the embeddings tell most models apart; 80 layers take 0.3 s to build."""
    config, own_code = setting.shape.config, setting.model.trust_remote_code
    return any(
        precision.is_large(sum(p.numel() for p in build(part, torch.bfloat16, own_code).parameters()))
        for part in (with_layers(config, 1), config)
    )
