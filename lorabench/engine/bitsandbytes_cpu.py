"""Keeps what bitsandbytes stores on a CPU as it was quantised, so that a number means the same on every machine.

4-bit layers: on processors with AVX-512 BF16, bitsandbytes 0.49 and later repacks a layer's weight at its first forward pass in
evaluation mode for a kernel of its own. That kernel has no derivative (what is trained afterwards gets no gradient through the
layer), its constants are rounded to bfloat16 (losses differ from those of other processors), it needs a number of rows that 32 divides,
and what later reads the weight (memory probe, spectra, merge) reads another one. So lorabench switches it off in each layer that it loads.
"""

from __future__ import annotations

from typing import Any


def keep_4bit_storage(model: Any) -> None:
    """Switches the repacking of a model's 4-bit layers off, and with it the kernel that needs it."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
