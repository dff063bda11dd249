"""The layers of a pack in fewer operators, on a CPU: those that read one input are computed together.

For the adapters k of a bucket (packed_adapters) and the layers i that read X, products batched over k:

    H    = s (X [A_1 .. A_n])                  (adapters, tokens, sum of ranks)
    Y_i  = X W_i^T + H_i B_i                   X W_i^T: one product over the tokens of all adapters
    dH_i = s (G_i B_i^T)                       G_i: the gradient of Y_i
    dX   = sum_i G_i W_i + dH [A_1 .. A_n]^T
    dA   = X^T dH,   dB_i = H_i^T G_i

Adapters that have different numbers of tokens are laid out once for all layers of an input, with zeros, and only what
the adapters add is taken back. Losses and gradients are the same to rounding. Layers that an adapter with dropout,
DoRA's or PiSSA's is on are left to packed_layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lorabench.engine.packed_adapters import Bucket
from lorabench.engine.packed_layers import PackedLinear
from lorabench.engine.packed_spans import Spans
from lorabench.engine.shared_inputs import Frozen, by_input, computed_together, frozen_matrix, product


@contextmanager
def joined_packs(model: torch.nn.Module, token: int) -> Iterator[int]:
    """Computes the packed layers of a model so within; yields how many it found beside others. Nothing changes on
    other devices.

    token: any that the model may see.
    """
    packs = [m for m in model.modules() if isinstance(m, PackedLinear)]
    layers = [layer for layer in packs if _joinable(layer)]
    groups: list[list[PackedLinear]] = []
    if layers:
        with layers[0].streams.one_token_each(layers[0].pack):
            groups = by_input(model, layers, torch.full((layers[0].pack, 1), token))
    with computed_together(groups, _together) as found:
        yield found


def _joinable(layer: PackedLinear) -> bool:
    on = [bucket for _, bucket in layer.parts if bucket is not None]
    plain = not any(b.magnitudes or b.starts or any(a.dropout for a in b.adapters) for b in on)
    return plain and layer.streams.where.type == "cpu"


@dataclass(frozen=True)
class _Part:
    """What a bucket adds to layers that read one input."""

    bucket: Bucket
    places: list[int]
    """of the layers that it targets, among these"""

    @property
    def rows(self) -> slice:
        return slice(self.bucket.first, self.bucket.last)

    def factors(self, layers: Sequence[PackedLinear]) -> Iterator[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        return (self.bucket.factors[layers[i].name] for i in self.places)


_Added = tuple[_Part, torch.Tensor, torch.Tensor]
"""a bucket's H and B, whose product is added"""


def _together(layers: Sequence[PackedLinear], x: torch.Tensor) -> Sequence[torch.Tensor] | None:
    """None where a layer says what is wrong with its rows."""
    spans = layers[0].streams.spans
    if x.numel() != spans.total * x.shape[-1]:
        return None
    buckets = dict.fromkeys(bucket for layer in layers for _, bucket in layer.parts if bucket is not None)
    parts = [_Part(b, [i for i, layer in enumerate(layers) if layer.name in b.factors]) for b in buckets]
    a, b = zip(*(pair for part in parts for pair in part.factors(layers)), strict=True)
    mixed = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if mixed else a[0].dtype
    frozen = [frozen_matrix(layer.layer) for layer in layers]
    own = all(w is not None and (mixed or w.dtype == x.dtype == dtype) for w, _ in frozen)
    base = [] if own else [layer.layer(x) for layer in layers]
    rounded = [layer.quantized and not mixed for layer in layers]  # as PEFT's layers over codes: before the sum
    return _Together.apply(x, dtype, spans, parts, frozen if own else [], rounded, *a, *b, *base)  # type: ignore[no-any-return]


class _Together(torch.autograd.Function):
    """Layers' outputs of x, from the buckets' factors A and B, and from their frozen weights or their frozen layers'
    outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dtype: torch.dtype,
        spans: Spans,
        parts: Sequence[_Part],
        frozen: Sequence[Frozen],
        rounded: Sequence[bool],
        *rest: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        n = sum(len(part.places) for part in parts)
        tokens = x.reshape(spans.total, -1).to(dtype)
        rows = spans.spread(tokens)
        all_a: list[torch.Tensor] = []
        kept_b: list[torch.Tensor] = []
        inner: list[torch.Tensor] = []
        added: dict[int, list[_Added]] = {}
        at = 0
        for part in parts:
            end = at + len(part.places)
            a, b = rest[at:end], [factor.to(dtype) for factor in rest[n + at : n + end]]
            all_a.append(_side_by_side(a, dtype))
            h = torch.bmm(rows[part.rows], all_a[-1]).mul_(part.bucket.scaling.to(dtype))
            of_layers = [own.contiguous() for own in h.split([factor.shape[2] for factor in a], 2)]
            for place, own, factor in zip(part.places, of_layers, b, strict=True):
                added.setdefault(place, []).append((part, own, factor))
            kept_b += b
            inner += of_layers
            at = end
        base = rest[2 * n :]
        weights = [weight.to(dtype) for weight, _ in frozen if weight is not None]
        outputs = []
        for place in range(len(weights or base)):
            y = product(tokens, weights[place], frozen[place][1]) if weights else base[place].reshape(spans.total, -1)
            y = _plus(y, added[place], spans, rounded[place], bool(weights))
            outputs.append(torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[1])))
        ctx.save_for_backward(rows, *all_a, *kept_b, *inner, *weights)
        ctx.set_materialize_grads(False)
        ctx.spans, ctx.parts, ctx.shape, ctx.dtypes = spans, parts, x.shape, (x.dtype, rest[0].dtype)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        spans, parts, asked = ctx.spans, ctx.parts, ctx.needs_input_grad[0]
        rows, *rest = ctx.saved_tensors
        n = sum(len(part.places) for part in parts)
        all_a, b, inner = rest[: len(parts)], rest[len(parts) :][:n], rest[len(parts) + n :][:n]
        weights = rest[len(parts) + 2 * n :]
        flat = [None if g is None else g.reshape(spans.total, -1).to(rows.dtype) for g in gradients]
        filled = [None if g is None else spans.filled(g) for g in flat]
        of_a: list[torch.Tensor] = []
        of_b: list[torch.Tensor | None] = []
        of_rows = []
        at = 0
        for part, a in zip(parts, all_a, strict=True):
            of_inner = []
            for place, factor, h in zip(part.places, b[at:], inner[at:], strict=False):
                g = filled[place]
                if g is None:  # an output that nothing came of
                    of_inner.append(torch.zeros_like(h))
                    of_b.append(None)
                    continue
                own = g[part.rows]
                of_inner.append(torch.bmm(own, factor.transpose(1, 2)))
                of_b.append(torch.bmm(h.transpose(1, 2), own).to(ctx.dtypes[1]))
            of_h = of_inner[0] if len(of_inner) == 1 else torch.cat(of_inner, 2)
            of_h.mul_(part.bucket.scaling.to(of_h.dtype))
            whole = torch.bmm(rows[part.rows].transpose(1, 2), of_h).to(ctx.dtypes[1])
            of_a += whole.split([h.shape[2] for h in of_inner], 2)
            if asked:
                of_rows.append(torch.bmm(of_h, a.transpose(1, 2)))
            at += len(part.places)
        of_input = None
        if asked:
            of_input = spans.taken(_stacked(of_rows, parts, spans))
            for g, weight in zip(flat, weights, strict=False):
                if g is not None:
                    of_input = of_input.addmm_(g, weight)
            of_input = of_input.to(ctx.dtypes[0]).view(ctx.shape)
        return of_input, None, None, None, None, None, *of_a, *of_b, *(() if weights else gradients)


def _side_by_side(factors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """(adapters, in, sum of ranks) in a dtype, of A's (adapters, in, rank)."""
    ranks = [factor.shape[2] for factor in factors]
    whole = factors[0].new_empty((*factors[0].shape[:2], sum(ranks)), dtype=dtype)
    for part, factor in zip(whole.split(ranks, 2), factors, strict=True):
        part.copy_(factor)
    return whole


def _plus(y: torch.Tensor, added: Sequence[_Added], spans: Spans, rounded: bool, own: bool) -> torch.Tensor:
    """A layer's output (tokens, out) and what adapters add to it; own: y may be written over."""
    if spans.places is None and y.dtype == added[0][1].dtype:
        y = y if own else y.clone()
        for part, h, b in added:
            y.view(spans.adapters, spans.longest, -1)[part.rows].baddbmm_(h, b)
        return y
    delta = spans.taken(_stacked([torch.bmm(h, b) for _, h, b in added], [part for part, _, _ in added], spans))
    if own:
        return y.add_(delta)
    return y + delta.to(y.dtype) if rounded else (y + delta).to(y.dtype)


def _stacked(pieces: Sequence[torch.Tensor], parts: Sequence[_Part], spans: Spans) -> torch.Tensor:
    """(adapters, longest, width) of what is of some buckets' rows; zeros elsewhere."""
    if len(pieces) == 1 and len(pieces[0]) == spans.adapters:
        return pieces[0]
    whole = pieces[0].new_zeros(spans.adapters, *pieces[0].shape[1:])
    for part, piece in zip(parts, pieces, strict=True):
        whole[part.rows] = piece
    return whole
