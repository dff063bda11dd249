"""On a CPU, attention over rows that lie end to end is computed row by row.

transformers keeps such rows apart by a mask (1, 1, tokens, tokens): its attention costs tokens^2 products of which only
sum of length^2 are wanted, and the mask turns off the causal kernel and its grouped heads. Where a layer's mask is just
that of the rows (no sliding window, no bias), each row goes through the causal kernel by itself:

    out[row] = softmax(q[row] k[row]^T * scaling, causal) v[row]             (Vaswani et al. 2017, equation 1)

The backward pass of half precision is computed in float32, as attention_backward does for padded rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from lorabench.engine.attention_backward import HALF

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORT = 384
"""tokens of a row up to which the backward pass in float32 is the faster one, conversions included"""
NAME = "sdpa"
WINDOWS = ("sliding_window", "attention_chunk_size")
"""what transformers' configurations call the tokens back that a layer sees"""


class RowAttention:
    """Takes the place of transformers' function while rows of these lengths go through a model."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths, self._tokens = list(lengths), sum(lengths)
        self._masks: list[tuple[torch.Tensor, bool]] = []
        """masks that layers came with, and whether each is that of the rows"""
        self.taken = 0
        """calls that were computed row by row"""
        self.left = 0
        """calls that were left to transformers"""

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(1, tokens, heads, width) of query (1, heads, tokens, width), as transformers' own."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        bare = not dropout and kwargs.get("softcap") is None and kwargs.get("position_bias") is None
        if bare and _readable(query, key, value, self._tokens) and self._is_of_rows(attention_mask):
            self.taken += 1
            if torch.is_autocast_enabled(query.device.type):  # as torch's own function is cast
                dtype = torch.get_autocast_dtype(query.device.type)
                query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            return _Rows.apply(query, key, value, self._lengths, scaling), None
        self.left += 1
        if is_causal is not None:
            kwargs["is_causal"] = is_causal
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )

    def _is_of_rows(self, mask: torch.Tensor | None) -> bool:
        if mask is None or mask.dtype != torch.bool or mask.shape != (1, 1, self._tokens, self._tokens):
            return False
        for seen, same in self._masks:
            if seen is mask:
                return same
        same = torch.equal(mask[0, 0], torch.block_diag(*(torch.ones(n, n).tril() for n in self._lengths)).bool())
        self._masks.append((mask, same))
        return same


@contextmanager
def attention_by_rows(lengths: Sequence[int]) -> Iterator[RowAttention | None]:
    """Computes so within, for one row of so many tokens each behind the other; nothing changes for fewer than two."""
    if len(lengths) < 2:
        yield None
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = RowAttention(lengths)
    ALL_ATTENTION_FUNCTIONS[NAME] = own
    try:
        yield own
    finally:
        del ALL_ATTENTION_FUNCTIONS[NAME]


@torch.no_grad()
def attends_by_rows(model: PreTrainedModel, longest: int) -> bool:
    """Whether all attention of a model over rows of so many tokens at most is computed row by row, which a window
    shorter than them forbids; the model takes rows end to end (causal.keeps_rows_apart)."""
    config = model.config.get_text_config()
    if any((getattr(config, name, None) or longest) < longest for name in WINDOWS):
        return False
    positions = torch.arange(4, device=model.device).repeat(2)[None]
    was = model.training
    model.eval()
    try:
        with attention_by_rows((4, 4)) as own:
            model(input_ids=torch.ones_like(positions), position_ids=positions, use_cache=False)
    finally:
        model.train(was)
    return own is not None and own.taken > 0 and not own.left


def _readable(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tokens: int) -> bool:
    """Whether the kernel reads them right: it takes each head's numbers for neighbours, whatever their strides."""
    rows = (1, tokens)
    widths = query.shape[-1] == key.shape[-1] == value.shape[-1]
    heads = query.shape[1] == key.shape[1] or _reads_groups()
    return (
        widths
        and heads
        and all(
            (t.shape[0], t.shape[2]) == rows and t.stride(-1) == 1 and t.device.type == "cpu"
            for t in (query, key, value)
        )
    )


@lru_cache(maxsize=1)
def _reads_groups() -> bool:
    """Whether this version's kernel takes fewer heads of keys and values than of queries, and their derivatives."""
    own = torch.Generator().manual_seed(0)  # the process's own numbers stay as they are
    query, key = torch.randn(1, 4, 3, 8, generator=own), torch.randn(1, 2, 3, 8, generator=own)
    repeated = key.repeat_interleave(2, dim=1)
    found = []
    try:
        for k in (key, repeated):
            out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, k, k, 0.0, True)
            grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                out, query, k, k, out, sums, 0.0, True
            )
            found.append((out, grads[0], *(g.reshape(1, 2, -1, 3, 8).sum(2) for g in grads[1:])))
    except RuntimeError:
        return False
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scale: float | None
    ) -> torch.Tensor:
        _, heads, tokens, width = query.shape
        output = query.new_empty(1, tokens, heads, width)
        sums = []
        rows = zip(*(t.split(lengths, 2) for t in (query, key, value)), output.split(lengths, 1), strict=True)
        for q, k, v, out in rows:
            with torch._C._AutoDispatchBelowAutograd():
                attended, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    q, k, v, 0.0, True, scale=scale
                )
            out.copy_(attended.transpose(1, 2))
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        query, key, value, output, *sums = ctx.saved_tensors
        found = [torch.empty_like(t) for t in (query, key, value)]
        sources: tuple[torch.Tensor, ...] = (gradient.transpose(1, 2), query, key, value, output.transpose(1, 2))
        if query.dtype in HALF and max(ctx.lengths) <= SHORT:
            sources = tuple(t.float() for t in sources)
        starts = itertools.accumulate(ctx.lengths, initial=0)
        for start, length, logsumexp in zip(starts, ctx.lengths, sums, strict=False):
            parts = (t.narrow(2, start, length) for t in sources)
            gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *parts, logsumexp, 0.0, True, scale=ctx.scale
            )
            for whole, part in zip(found, gradients, strict=True):
                whole.narrow(2, start, length).copy_(part)
        return *found, None, None
