"""The bytes of an optimizer's state, what its update holds for a moment, and what it moves, for tensors on the meta
device.

torch's fused AdamW keeps two tensors like the parameter and a float32 step count. bitsandbytes' 8-bit AdamW keeps two
bytes a parameter and two float32 constants a block of 256, and plain float32 for tensors below 4,096 entries (Dettmers
et al. 2022, arXiv:2110.02861). Paged state of tensors from 100,000 entries on is managed memory, which lives on the
host where the device is full and is no part of the allocator's peak; its block constants are never paged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorabench.config.settings import TrainingSpec
from lorabench.config.validity import is_paged

SMALLEST_8BIT = 4096
SMALLEST_PAGED = 100_000
BLOCK = 256


def state_tensors(parameters: Sequence[torch.Tensor], training: TrainingSpec) -> list[torch.Tensor]:
    """Device tensors that the optimizer keeps between steps, on the parameters' device."""
    kind = training.optimizer
    if kind == "sgd":
        return []
    state: list[torch.Tensor] = []
    for parameter in parameters:
        n = parameter.numel()
        paged = is_paged(kind) and n >= SMALLEST_PAGED
        if kind.endswith("8bit") and n >= SMALLEST_8BIT:
            if not paged:
                state += [torch.empty(n, dtype=torch.uint8, device="meta") for _ in range(2)]
            state += [torch.empty(-(-n // BLOCK), dtype=torch.float32, device="meta") for _ in range(2)]
        elif paged:
            continue
        elif kind == "adamw":
            state += [torch.empty_like(parameter) for _ in range(2)]
            state.append(torch.empty((), dtype=torch.float32, device="meta"))
        else:
            state += [torch.empty(n, dtype=torch.float32, device="meta") for _ in range(2)]
    if kind.endswith("8bit"):
        state += [torch.empty(BLOCK, dtype=torch.float32, device="meta") for _ in range(2)]  # the two code tables
    return state


def foreach_adamw(parameters: Sequence[torch.nn.Parameter]) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """torch's foreach AdamW of parameters on the meta device, with its state made, and the state's tensors."""
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t) and t.is_meta], optimizer


def work(parameters: Sequence[torch.Tensor], training: TrainingSpec, device: str) -> tuple[int, int]:
    """(bytes read and written, kernels started) by an update, beside `update`'s temporaries; reading is of the
    parameter, its gradient and its state.

    A float32 parameter: AdamW reads 16 bytes and writes 12, SGD reads 8 and writes 4, 8-bit AdamW reads 10 and writes
    6, its block constants come to it. torch updates all tensors in a few kernels, bitsandbytes one by one.
    """
    kind, moved = training.optimizer, 0
    for parameter in parameters:
        n, own = parameter.numel(), parameter.element_size()
        state = (
            0
            if kind == "sgd"
            else 2 * own
            if kind == "adamw"
            else 2
            if kind.endswith("8bit") and n >= SMALLEST_8BIT
            else 8
        )
        constants = -(-n // BLOCK) * 8 if state == 2 else 0
        moved += n * (3 * own + 2 * state) + 2 * constants
    one_by_one = kind not in ("adamw", "sgd") or (kind == "sgd" and device == "cpu")
    return moved, len(parameters) if one_by_one else 2


def update(parameters: Sequence[torch.Tensor], training: TrainingSpec, device: str) -> None:
    """The temporaries of an optimizer step, made and let go: SGD with weight decay adds it to a copy of the
    gradients."""
    if training.optimizer != "sgd" or not training.weight_decay:
        return
    decayed = [(p.grad, p.detach()) for p in parameters if p.grad is not None and p.ndim >= 2]
    if device == "cuda":
        _ = [torch.add(gradient, own) for gradient, own in decayed]  # torch's foreach path holds all copies at once
    else:
        for gradient, own in decayed:
            torch.add(gradient, own)
