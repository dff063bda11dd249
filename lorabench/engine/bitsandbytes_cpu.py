"""Keeps quantized bases on a CPU right, so that a number means the same on every machine.

Two faults of bitsandbytes 0.50 on processors with AVX-512, both without a word:

Repacking. Where the processor has BF16, a 4-bit layer's weight is repacked at its first forward pass in evaluation mode
for a kernel of its own. That kernel has no derivative (what is trained afterwards gets no gradient through the layer),
its constants are rounded to bfloat16 (losses differ from those of other processors), it needs a number of rows that 32
divides, and what later reads the weight (memory probe, spectra, merge) reads another one. It is switched off in each
layer that is loaded.

Dequantization. Blocks of 64 run over the flat matrix, but where 64 does not divide a row's length and 16 does, they are
read as if each row began a new one: the weights that training, evaluation, DoRA and merges see are others than were
stored (25 % off in place of 9 % for 64 x 96). The operator gets such a matrix as one long row instead.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_4bit_right(model: PreTrainedModel) -> None:
    """Switches repacking off in a model's 4-bit layers, and mends their dequantization in this process."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    _mend_dequantization()


def keep_int8_constants(model: PreTrainedModel) -> None:
    """Keeps the row constants of int8 layers on a CPU through PEFT's DoRA.

    PEFT 0.21 dequantizes a weight on the CPU by moving it to the device it is on; bitsandbytes 0.50 then
    believes that the weight is new, and overwrites the layer's constants with the moved weight's, which are gone.
    """
    import bitsandbytes

    def restore(layer: bitsandbytes.nn.Linear8bitLt, inputs: object) -> None:
        weight = layer.weight
        assert isinstance(weight, bitsandbytes.nn.Int8Params)
        if weight.CB is not None and weight.SCB is None and layer.state.SCB is not None:
            weight.CB = None

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.register_forward_pre_hook(restore)


@lru_cache(maxsize=1)
def _mend_dequantization() -> torch.library.Library:
    """Puts a kernel before bitsandbytes' own for the CPU; the registration lasts as long as what is returned, hence the
    cache.
    """
    own = torch.library.get_kernel("bitsandbytes::dequantize_4bit", "CPU")

    def dequantize(
        keys: torch.DispatchKeySet,
        packed: torch.Tensor,
        absmax: torch.Tensor,
        blocksize: int,
        kind: str,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if shape[-1] % blocksize == 0:
            return own.call_boxed(keys, packed, absmax, blocksize, kind, shape, dtype)
        return own.call_boxed(keys, packed, absmax, blocksize, kind, (1, math.prod(shape)), dtype).reshape(shape)

    library = torch.library.Library("bitsandbytes", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is overridden, which is meant
        library.impl("dequantize_4bit", dequantize, "CPU", with_keyset=True, allow_override=True)
    return library
