"""base weights as the checkpoint stores them: float32, bfloat16 or float16, or its own quantisation"""

from __future__ import annotations

from typing import Any

DOUBLE_QUANT = False


def config(double_quant: bool, compute_dtype: Any) -> None:
    """No quantisation configuration."""
    return None


def roundtrip(weight: Any, double_quant: bool) -> Any:
    """The weight itself."""
    return weight
