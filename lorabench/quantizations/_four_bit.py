"""What fp4 and nf4 share: bitsandbytes' configuration, and how a weight comes back from its blocks.

Blocks of 64 run over the flat matrix, across its rows. bitsandbytes 0.50 gives weights back wrongly on CPUs with
AVX-512 where 64 does not divide a row's length and 16 does (it starts a new block with each row): a matrix given to it
as one long row comes back right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


BLOCK = 64


def config(kind: str, double_quant: bool, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """bitsandbytes' configuration; compute_dtype is a torch dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def roundtrip(kind: str, weight: torch.Tensor, double_quant: bool) -> torch.Tensor:
    """A weight as its quantized form gives it back, in its own dtype."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    row = weight.reshape(1, -1).contiguous()
    return dequantize_4bit(
        *quantize_4bit(row, compress_statistics=double_quant, quant_type=kind, blocksize=BLOCK)
    ).reshape(weight.shape)
