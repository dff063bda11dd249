"""4-bit floats (2 exponent bits, 1 mantissa bit) in blocks of 64"""

from __future__ import annotations

from typing import Any

DOUBLE_QUANT = True


def config(double_quant: bool, compute_dtype: Any) -> Any:
    """bitsandbytes' configuration; compute_dtype is a torch dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="fp4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def roundtrip(weight: Any, double_quant: bool) -> Any:
    """A weight as its quantised form gives it back, in its own dtype."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return dequantize_4bit(*quantize_4bit(weight.contiguous(), compress_statistics=double_quant, quant_type="fp4", blocksize=64))
