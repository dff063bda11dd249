"""What one of several GPUs keeps of a training step: a first-order prediction, not measured on GPUs.

Activations, logits and workspaces are those of the GPU's own micro-batch. Of the rest, each strategy shards what it
shards (torch's DistributedDataParallel and fully_shard; Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward
Training Trillion Parameter Models", section 5):

| strategy | parameters | gradients | optimizer | beside them |
|---|---|---|---|---|
| ddp | whole | whole | whole | buckets: one more copy of the gradients |
| zero2 | whole | 1/n | 1/n | the gradients of one layer, until they are reduced |
| zero3, fsdp | 1/n | 1/n | 1/n | parameters outside layers whole, of layers two at a time, one layer's gradients |

fully_shard cuts along the first dimension, so that the first GPU has ceil(rows / n) rows of each tensor; it is the one
that is predicted. ZeRO cuts flattened tensors. bitsandbytes' constants of quantized weights are no parameters: every
GPU keeps them whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from lorabench.engine.adapt import is_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Strategy = Literal["ddp", "zero2", "zero3", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "zero2", "zero3", "fsdp")
SHARDS_PARAMETERS = ("zero3", "fsdp")
PREFETCHED = 2  # layers that are gathered at once: the one at work, and the next (fully_shard's implicit prefetching)


@dataclass(frozen=True)
class Sharding:
    """Several GPUs that train one model together."""

    strategy: Strategy
    gpus: int


def sharded(
    parts: dict[str, int], model: PreTrainedModel, layers: list[torch.nn.Module], by: Sharding
) -> dict[str, int]:
    """The bytes of the fullest GPU by category, from those of one GPU at the peak of its step; `communication` is what
    gathering and reducing keeps. `model` is the adapted model, on the meta device or not, with all its layers."""
    named = list(model.named_parameters())
    trained = [p for _, p in named if p.requires_grad]
    whole = _bytes(trained)
    part = _shard_bytes(trained, by) / whole if whole else 0.0
    layer_gradients = max((_bytes(p for p in layer.parameters() if p.requires_grad) for layer in layers), default=0)
    shares = dict(parts)
    if by.strategy == "ddp":
        return {**shares, "communication": whole}
    for category in ("gradients", "optimizer"):
        shares[category] = round(parts[category] * part)
    shares["communication"] = layer_gradients
    if by.strategy in SHARDS_PARAMETERS:
        shares["weights"] = _shard_bytes((p for n, p in named if not is_adapter(n)), by) + _bytes(model.buffers())
        shares["adapters"] = _shard_bytes((p for n, p in named if is_adapter(n)), by)
        inside = {id(p) for layer in layers for p in layer.parameters()}
        shares["communication"] += _bytes(p for _, p in named if id(p) not in inside)
        shares["communication"] += PREFETCHED * max((_bytes(layer.parameters()) for layer in layers), default=0)
    return shares


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _shard_bytes(tensors: Iterable[torch.Tensor], by: Sharding) -> int:
    """Of the first GPU, which has the largest shards."""
    if by.strategy != "fsdp":
        return sum(-(-t.numel() // by.gpus) * t.element_size() for t in tensors)
    return sum(-(-len(t) // by.gpus) * t[0].numel() * t.element_size() if t.ndim else t.element_size() for t in tensors)
