"""The bytes of an optimizer's state, and what its update holds for a moment, for tensors on the meta device.

torch's fused AdamW keeps two tensors like the parameter and a float32 step count. bitsandbytes' 8-bit AdamW keeps
two bytes a parameter and two float32 constants a block of 256, and plain float32 for tensors below 4,096 entries (Dettmers
et al. 2022, arXiv:2110.02861). Paged state of tensors from 100,000 entries on is managed memory, which lives on
the host where the device is full and is no part of the allocator's peak; its block constants are never paged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorabench.spec.settings import TrainingSpec

SMALLEST_8BIT = 4096
SMALLEST_PAGED = 100_000
BLOCK = 256


def state_tensors(parameters: Sequence[torch.Tensor], training: TrainingSpec) -> list[torch.Tensor]:
    """Device tensors that the optimizer keeps between steps, on the parameters' device."""
    kind = training.optimizer
    if kind == "sgd":
        return []
    found: list[torch.Tensor] = []
    for parameter in parameters:
        n = parameter.numel()
        paged = kind.startswith("paged") and n >= SMALLEST_PAGED
        if kind.endswith("8bit") and n >= SMALLEST_8BIT:
            if not paged:
                found += [torch.empty(n, dtype=torch.uint8, device="meta") for _ in range(2)]
            found += [torch.empty(-(-n // BLOCK), dtype=torch.float32, device="meta") for _ in range(2)]
        elif paged:
            continue
        elif kind == "adamw":
            found += [torch.empty_like(parameter) for _ in range(2)]
            found.append(torch.empty((), dtype=torch.float32, device="meta"))
        else:
            found += [torch.empty(n, dtype=torch.float32, device="meta") for _ in range(2)]
    if kind.endswith("8bit"):
        found += [torch.empty(BLOCK, dtype=torch.float32, device="meta") for _ in range(2)]  # the two code tables
    return found


def update(parameters: Sequence[torch.Tensor], training: TrainingSpec, device: str) -> None:
    """The temporaries of an optimizer step, made and let go: SGD with weight decay adds it to a copy of the gradients."""
    if training.optimizer != "sgd" or not training.weight_decay:
        return
    decayed = [p.grad for p in parameters if p.grad is not None and p.ndim >= 2]
    if device == "cuda":
        _ = [torch.add(g, 1) for g in decayed]  # torch's foreach path holds all copies at once
    else:
        for gradient in decayed:
            torch.add(gradient, 1)
