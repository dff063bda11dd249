"""4-bit floats (2 exponent bits, 1 mantissa bit) in blocks of 64"""

from __future__ import annotations

from typing import Any

from lorabench.quantizations import _four_bit

DOUBLE_QUANT = True


def config(double_quant: bool, compute_dtype: Any) -> Any:
    """bitsandbytes' configuration; compute_dtype is a torch dtype."""
    return _four_bit.config("fp4", double_quant, compute_dtype)


def roundtrip(weight: Any, double_quant: bool) -> Any:
    """A weight as its quantised form gives it back, in its own dtype."""
    return _four_bit.roundtrip("fp4", weight, double_quant)
