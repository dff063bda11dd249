"""How a quantized base holds its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorabench import plugins
from lorabench.config.settings import QuantizationSpec

Quantize = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""a base weight as it was loaded, and as the base held it: its quantized form given back"""


def quantizer(spec: QuantizationSpec, dtype: torch.dtype) -> Quantize | None:
    """How a base of that quantization holds a weight that is loaded in a precision; None where it is not quantized."""
    if spec.name == "none":
        return None
    turn = plugins.load("quantizations", spec.name).roundtrip

    def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loaded = weight.to(dtype)
        return loaded, turn(loaded, spec.double_quant)

    return quantize
