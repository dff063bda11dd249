"""What a model's weights take as they are stored, bitsandbytes' packed codes and constants included."""

from __future__ import annotations

import torch
from torch import nn

from lorabench.engine.adapt import is_adapter


def logical_numel(parameter: torch.Tensor) -> int:
    """Entries of a weight as the model means it: bitsandbytes packs two 4-bit entries into one byte."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the base weights as stored, quantization constants included; adapters are not counted."""
    base = [p for name, p in model.named_parameters() if not is_adapter(name)]
    tensors = {t.untyped_storage().data_ptr(): t for t in (*base, *quantization_tensors(model))}  # tied ones once
    return sum(t.untyped_storage().nbytes() for t in tensors.values())


def quantization_tensors(model: nn.Module) -> list[torch.Tensor]:
    """All constants of a model's quantized weights, wherever bitsandbytes keeps them: int8 moves its own at the first
    forward pass.
    """
    constants = [t for p in model.parameters() for t in quantization_state(p)]
    rows = [getattr(getattr(m, "state", None), "SCB", None) for m in model.modules()]
    return constants + [t for t in rows if isinstance(t, torch.Tensor)]


def quantization_state(parameter: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that bitsandbytes keeps beside a quantized weight: block or row constants, and their own."""
    constants = []
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        constants += [
            t for t in (state.absmax, state.code, getattr(state, "offset", None)) if isinstance(t, torch.Tensor)
        ]
        state = state.state2
    rows = getattr(parameter, "SCB", None)
    return [*constants, rows] if isinstance(rows, torch.Tensor) else constants
