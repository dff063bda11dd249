"""In which dtype a cell's weights, mixed precision and products are, by the engine's own rules, without its weights."""

from __future__ import annotations

from typing import Any

import torch

from lorabench import plugins
from lorabench.config.settings import FLOAT32_BELOW
from lorabench.engine.model import autocast_dtype
from lorabench.memory.meta_model import build, with_layers
from lorabench.memory.train_config import TrainConfig


def resolve_dtype(setting: TrainConfig, config: Any) -> torch.dtype:
    """The dtype of the weights, as engine.model resolves it for a cell."""
    if setting.model.dtype != "auto":
        return getattr(torch, setting.model.dtype)  # type: ignore[no-any-return]  # names of torch dtypes
    if plugins.load("methods", setting.method.name).TRAINS_BASE:
        return torch.float32
    for part in (
        with_layers(config, 1),
        config,
    ):  # one layer and the embeddings tell most models apart: 80 layers take 0.3 s to build
        if (
            sum(p.numel() for p in build(part, torch.bfloat16, setting.model.trust_remote_code).parameters())
            >= FLOAT32_BELOW
        ):
            return torch.bfloat16
    return torch.float32


def resolve_autocast(setting: TrainConfig) -> torch.dtype | None:
    """The dtype of mixed precision, by the engine's own rule."""
    return autocast_dtype(setting.training, setting.device == "cuda" and setting.bf16)


def product_dtype(setting: TrainConfig) -> torch.dtype:
    """The dtype of the base's products: that of mixed precision, else of 4-bit layers the one they are declared to
    compute in, of int8 ones float16, else the weights'."""
    if autocast := resolve_autocast(setting):
        return autocast
    kind, declared = setting.quantization.name, setting.quantization.compute_dtype
    if kind == "int8":
        return torch.float16
    return (
        getattr(torch, declared)
        if kind != "none" and declared != "auto"
        else resolve_dtype(setting, setting.shape.config)
    )  # type: ignore[no-any-return]  # names of torch dtypes
