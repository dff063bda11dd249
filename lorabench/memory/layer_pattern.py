"""How the layers of a model repeat, so that a step of few of them tells the whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorabench.config.checkpoint import declared_quantization
from lorabench.memory.meta_model import build
from lorabench.memory.trace import layers_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MOST_FIRST = 4  # layers before a pattern that are looked for: DeepSeek-V3 has three dense ones


@dataclass(frozen=True)
class Pattern:
    """How the kinds of layers repeat."""

    period: int
    """after how many layers"""
    first: int = 0
    """layers of other kinds before the pattern begins"""


_PERIODS: dict[str, Pattern | None] = {}
"""by configuration: to see what its layers are made of, the whole model is built"""


def pattern(config: PretrainedConfig) -> Pattern | None:
    """How the kinds of layers repeat, by their declared types and by what they are made of; None where they do not."""
    key = f"{type(config).__name__} {config.to_json_string()}"
    if key not in _PERIODS:
        declared = getattr(config.get_text_config(), "layer_types", None)
        kinds = list(zip(declared or itertools.repeat(None), layer_kinds(config), strict=False))
        _PERIODS[key] = next(
            (
                Pattern(p, first)
                for first in range(MOST_FIRST + 1)
                for p in range(1, (len(kinds) - first) // 3 + 1)
                if all(kind == kinds[first + i % p] for i, kind in enumerate(kinds[first:]))
            ),
            None,
        )
    return _PERIODS[key]


def skips_by_number(config: PretrainedConfig) -> bool:
    """Whether a checkpoint leaves modules of single layers unquantized ("model.layers.3.mlp"), so that its layers are
    not alike."""
    stored = declared_quantization(config.to_dict())
    return stored is not None and any(part.isdigit() for name in stored.skipped for part in name.split("."))


def layer_kinds(config: PretrainedConfig) -> list[tuple[tuple[str, torch.Size], ...]]:
    """What each layer of a model is made of: names and shapes of its parameters."""
    return [
        tuple((n, p.shape) for n, p in layer.named_parameters()) for layer in layers_of(build(config, torch.bfloat16))
    ]
