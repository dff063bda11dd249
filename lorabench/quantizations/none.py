"""base weights as the checkpoint stores them: float32, bfloat16 or float16, or its own quantization"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


DOUBLE_QUANT = False


def config(double_quant: bool, compute_dtype: torch.dtype) -> None:
    """No quantization configuration."""
    return None


def roundtrip(weight: torch.Tensor, double_quant: bool) -> torch.Tensor:
    """The weight itself."""
    return weight
