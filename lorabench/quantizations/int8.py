"""LLM.int8(): rows of 8-bit integers, outlier features in 16 bit (Dettmers et al. 2022, arXiv:2208.07339)"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


DOUBLE_QUANT = False


def config(double_quant: bool, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """bitsandbytes' configuration; products are always taken in float16 or wider, whatever the compute dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def roundtrip(weight: torch.Tensor, double_quant: bool) -> torch.Tensor:
    """A weight as its rows of integers give it back; bitsandbytes quantizes what float16 holds of it."""
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    codes, rows, _ = int8_vectorwise_quant(weight.half().contiguous())
    return int8_vectorwise_dequant(codes, rows).to(weight.dtype)
