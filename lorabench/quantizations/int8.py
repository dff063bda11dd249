"""LLM.int8(): rows of 8-bit integers, outlier features in 16 bit (Dettmers et al. 2022, arXiv:2208.07339)"""

from __future__ import annotations

from typing import Any

DOUBLE_QUANT = False


def config(double_quant: bool, compute_dtype: Any) -> Any:
    """bitsandbytes' configuration; products are always taken in float16 or wider, whatever the compute dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)
