"""How a quantised base holds its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorabench import plugins
from lorabench.config.settings import QuantizationSpec

Quantise = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""a base weight as it was loaded, and as the base held it: its quantised form given back"""


def quantiser(spec: QuantizationSpec, dtype: torch.dtype) -> Quantise | None:
    """How a base of that quantisation holds a weight that is loaded in a precision; None where it is not quantised."""
    if spec.name == "none":
        return None
    turn = plugins.load("quantizations", spec.name).roundtrip

    def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loaded = weight.to(dtype)
        return loaded, turn(loaded, spec.double_quant)

    return quantise
