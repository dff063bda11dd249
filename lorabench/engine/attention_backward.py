"""On a CPU, the backward pass of half-precision attention is computed in float32.

torch's flash kernel for CPUs keeps query, key, value, output and logsumexp in their own dtype. Its backward pass in
bfloat16 multiplies small blocks without the machine's matrix library and takes up to five times as long as the one in
float32, conversions included, on rows as short as those of classification and instruction data. What is saved between
the passes stays as it is; gradients are rounded once, to the dtype of what they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
HALF = (torch.bfloat16, torch.float16)
SHORT = 192
"""positions of a row up to which float32 is faster; at 256 both take the same time"""


@contextmanager
def float32_attention_backward(where: torch.device) -> Iterator[None]:
    """Computes so within; nothing changes on other devices, in float32, or on rows of more than SHORT positions."""
    if where.type != "cpu":
        yield
        return
    library = torch.library.Library("aten", "IMPL", "AutogradCPU")
    library.impl(FORWARD, _attention)
    try:
        yield
    finally:
        library._destroy()


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> Any:
    return _Attention.apply(query, key, value, dropout_p, is_causal, attn_mask, scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        query, key, value, dropout_p, causal, mask, scale = inputs
        with torch._C._AutoDispatchBelowAutograd():  # the kernel itself, as torch.library's own functions call it
            output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, causal, attn_mask=mask, scale=scale
            )
        ctx.save_for_backward(query, key, value, output, logsumexp, mask)
        ctx.settings = dropout_p, causal, scale
        ctx.mark_non_differentiable(logsumexp)
        return output, logsumexp

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> Any:
        query, key, value, output, logsumexp, mask = ctx.saved_tensors
        dropout_p, causal, scale = ctx.settings
        wide = query.dtype in HALF and query.shape[-2] <= SHORT
        tensors = [t.float() if wide else t for t in (gradient, query, key, value, output)]
        mask = mask.float() if wide and mask is not None and mask.is_floating_point() else mask
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *tensors, logsumexp, dropout_p, causal, attn_mask=mask, scale=scale
        )
        return *(f.to(query.dtype) for f in found), None, None, None, None
