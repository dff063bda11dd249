"""How long a step takes on a card: a roofline, always as a range.

    least = max(flops / rate, bytes / bandwidth, kernels * LAUNCH)   everything overlaps, at the card's full rates
    most  = flops / (SLOW_RATE * rate) + bytes / (SLOW_BANDWIDTH * bandwidth) + kernels * SLOW_LAUNCH   nothing overlaps

(Williams et al. 2009, CACM 52.4.) The rate is that of the tensor cores for products in 16 bits, and of plain float32
(no TF32, PyTorch's default) for others and for bfloat16 on cards that emulate it, whose tensor cores take float16
alone. Flops and bytes are those of the traced step, recomputation, dequantized copies and the optimizer's own reading
and writing included; what comes once an optimizer step (clipping, update) is not multiplied by accumulation. A
quantized base takes QUANTIZED times as long: what its kernels cost beyond bytes is not in the trace, and counted by
bytes alone it would be the quicker one, which it is not where it was measured. Where cells have run on the card,
`calibration` tells the time from them instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorabench.config.gpus import Gpu
from lorabench.memory.step_profile import StepProfile, Work

SLOW_RATE = 0.30  # share of the dense peak that eager training of small matrices still reaches
SLOW_BANDWIDTH = 0.60
QUANTIZED = (
    1.05,
    1.30,
    # least and median of Q-LoRA's seconds over LoRA's, 7B at 256 to 8,192 tokens on one A100 (Qwen 2023, README,
    # "Profiling of Memory and Speed")
)
LAUNCH = 3e-6  # seconds a kernel launch takes the host at least
SLOW_LAUNCH = 12e-6  # with Python, autograd and PEFT around it


@dataclass(frozen=True)
class Seconds:
    """A range of seconds, from the least to the most that is expected."""

    least: float
    most: float

    def times(self, n: int) -> Seconds:
        """The range of n such steps."""
        return Seconds(self.least * n, self.most * n)

    def then(self, other: Seconds) -> Seconds:
        """The range of one after the other."""
        return Seconds(self.least + other.least, self.most + other.most)


def optimizer_step_seconds(
    step: StepProfile, accumulation: int, gpu: Gpu, products: torch.dtype = torch.bfloat16, quantized: bool = False
) -> Seconds | None:
    """The time of so many micro-batches and one update, which a quantized base does not slow."""
    micro, update = step_seconds(step.micro_batch, gpu, products, quantized), step_seconds(step.update, gpu, products)
    return None if micro is None or update is None else micro.times(accumulation).then(update)


def step_seconds(
    step: StepProfile | Work, gpu: Gpu, products: torch.dtype = torch.bfloat16, quantized: bool = False
) -> Seconds | None:
    """The time of traced work, its arithmetic in a dtype, on a quantized base or not; None where the card's rates are
    not known."""
    on_tensor_cores = products == torch.float16 or (products == torch.bfloat16 and gpu.bf16)
    flops_per_second = gpu.bf16_flops if on_tensor_cores else gpu.fp32_flops
    if gpu.bandwidth is None or flops_per_second is None:
        return None
    compute, memory = step.flops / flops_per_second, step.moved_bytes / gpu.bandwidth
    least = max(compute, memory, step.kernels * LAUNCH)
    most = compute / SLOW_RATE + memory / SLOW_BANDWIDTH + step.kernels * SLOW_LAUNCH
    return Seconds(least * QUANTIZED[0], most * QUANTIZED[1]) if quantized else Seconds(least, most)
