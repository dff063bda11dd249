"""Liger's kernels in a model's layers, as the tensors that they take, keep and give.

use_liger_kernel replaces three things beside the loss (liger_kernel/transformers/monkey_patch.py 0.8, the block of
llama): the product of gate and up projection (ops/swiglu.py: keeps both, writes their gradients over them), RMSNorm
(ops/rms_norm.py: keeps its input and one number a row, writes over the gradient that comes in) and rotary positions
(ops/rope.py: works in place on contiguous copies). They are Triton kernels, which do not run on the meta device.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""model types whose layers are replaced here; of others Liger replaces more or fewer kernels"""


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx, gate, up):  # type: ignore[no-untyped-def]  # torch's interface has no types
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.saved_tensors


class RmsNorm(torch.autograd.Function):
    """RMSNorm of (..., hidden) under a weight (hidden,)."""

    @staticmethod
    def forward(ctx, hidden, weight):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(hidden, weight, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient, torch.empty_like(ctx.saved_tensors[1]) if ctx.needs_input_grad[1] else None


class Rotary(torch.autograd.Function):
    """Positions on queries and keys (batch, heads, tokens, size)."""

    @staticmethod
    def forward(ctx, query, key):  # type: ignore[no-untyped-def]
        return tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key))

    @staticmethod
    def backward(ctx, query, key):  # type: ignore[no-untyped-def]
        return tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key))


@contextlib.contextmanager
def liger_layers(model: PreTrainedModel) -> Iterator[None]:
    """A model on the meta device with Liger's kernels in its layers, for the length of a `with` block; the model of
    another family as it is."""
    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    if base.config.model_type not in FAMILIES:
        yield
        return
    for module in base.modules():
        if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
            module.forward = partial(_mlp, module)
        elif type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
    source: Any = sys.modules[type(base).__module__]
    original = source.apply_rotary_pos_emb
    source.apply_rotary_pos_emb = partial(_rotated, original)
    try:
        yield
    finally:
        source.apply_rotary_pos_emb = original


def _mlp(module: Any, hidden: torch.Tensor) -> Any:
    return module.down_proj(SwiGlu.apply(module.gate_proj(hidden), module.up_proj(hidden)))


def _norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = RmsNorm.apply(hidden, module.weight)
    return normed


def _rotated(original: Callable[..., Any], query: torch.Tensor, key: torch.Tensor, *rest: Any, **named: Any) -> Any:
    """The original for tensors with values: another thread may train meanwhile."""
    return Rotary.apply(query, key) if query.is_meta else original(query, key, *rest, **named)
