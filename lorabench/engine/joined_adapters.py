"""LoRA on a CPU in fewer operators: layers that read the same input, as query, key and value do, are computed together.

    H    = X [A_1; ...; A_n]^T                 (tokens, sum of ranks)
    Y_i  = X W_i^T + s_i H_i B_i^T             (tokens, out_i); Hu et al. 2021, equation 3
    dH_i = s_i G_i B_i                         G_i: the gradient of Y_i
    dX   = sum_i G_i W_i + dH [A_1; ...; A_n]
    dA   = dH^T X,   dB_i = s_i G_i^T H_i

PEFT takes eight products, six casts of tokens and three sums for what are here a product over A, a sum into W's product
and their derivatives; on a CPU each of them is a meeting of threads. Losses and gradients are the same to rounding.
What PEFT computes otherwise (dropout, DoRA, a merged or a second adapter, dtypes that differ without autocast) is left
to PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lorabench.engine.shared_inputs import Frozen, by_input, computed_together, frozen_matrix, product
from lorabench.engine.weight_deltas import adapted_layers

KINDS = ("Linear", "Linear8bitLt", "Linear4bit")
"""PEFT's layers whose forward pass is the one above, over a frozen layer of any of these kinds"""


@contextmanager
def joined_adapters(model: torch.nn.Module, ids: torch.Tensor) -> Iterator[int]:
    """Computes a PeftModel's adapters so within; yields how many layers it found beside others. Nothing changes on
    other devices, nor for a model without adapters.

    ids: (1, tokens), a few that the model may see.
    """
    layers = [layer for _, layer in adapted_layers(model) if _joinable(layer)] if ids.device.type == "cpu" else []
    with computed_together(by_input(model, layers, ids), _together) as found:
        yield found


def _joinable(layer: Any) -> bool:
    name = type(layer).__name__
    plain = not (layer.merged or layer.disable_adapters or layer.lora_variant or any(layer.lora_bias.values()))
    alone = list(layer.active_adapters) == ["default"] and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
    return name in KINDS and type(layer).__module__.startswith("peft.tuners.lora.") and plain and alone


def _together(layers: Sequence[Any], x: torch.Tensor) -> Sequence[torch.Tensor] | None:
    """None where PEFT's dtypes would be others."""
    mixed = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if mixed else x.dtype
    a = [layer.lora_A["default"].weight for layer in layers]
    b = [layer.lora_B["default"].weight for layer in layers]
    frozen = [frozen_matrix(layer.base_layer) for layer in layers]
    if not mixed and any(p.dtype != dtype for p in (*a, *(weight for weight, _ in frozen if weight is not None))):
        return None
    whole = all(weight is not None for weight, _ in frozen)
    base = [] if whole else [layer.base_layer(x) for layer in layers]
    scaling = [layer.scaling["default"] for layer in layers]
    return _Together.apply(x, dtype, scaling, frozen, *a, *b, *base)  # type: ignore[no-any-return]


class _Together(torch.autograd.Function):
    """Layers' outputs of x, from their factors A and B, and from their frozen weights or their frozen layers' outputs.

    Everything is computed in one dtype, and gradients rounded to that of what they belong to.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, dtype: torch.dtype, scaling: Sequence[float], frozen: Sequence[Frozen], *rest: Any
    ) -> tuple[torch.Tensor, ...]:
        n = len(scaling)
        a, b, base = rest[:n], rest[n : 2 * n], rest[2 * n :]
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        all_a = torch.cat(a).to(dtype)
        scaled_b = [(factor if s == 1 else factor * s).to(dtype) for factor, s in zip(b, scaling, strict=True)]
        weights = [] if base else [weight.to(dtype) for weight, _ in frozen if weight is not None]
        inner = rows @ all_a.T
        outputs = []
        for i, (h, factor) in enumerate(zip(inner.split([len(f) for f in a], 1), scaled_b, strict=True)):
            if base:
                y = base[i].reshape(len(rows), len(factor))
                y = torch.addmm(y, h, factor.T) if y.dtype == dtype else y + (h @ factor.T).to(y.dtype)
            else:
                y = product(rows, weights[i], frozen[i][1])
                y.addmm_(h, factor.T)
            shape = (*x.shape[:-1], len(factor))
            outputs.append(torch.ops.aten._unsafe_view(y, shape))  # Falcon adds in place: no views
        ctx.save_for_backward(rows, all_a, inner, *scaled_b, *weights)
        ctx.set_materialize_grads(False)
        ctx.scaling, ctx.ranks, ctx.dtypes, ctx.shape = scaling, [len(f) for f in a], (x.dtype, a[0].dtype), x.shape
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        rows, all_a, inner, *rest = ctx.saved_tensors
        n, asked = len(ctx.scaling), ctx.needs_input_grad[0]
        scaled_b, weights = rest[:n], rest[n:]
        of_inner = torch.zeros_like(inner) if None in gradients else torch.empty_like(inner)
        of_input: torch.Tensor | None = None
        of_b: list[torch.Tensor | None] = []
        parts = zip(inner.split(ctx.ranks, 1), of_inner.split(ctx.ranks, 1), strict=True)
        for i, ((h, of_h), gradient) in enumerate(zip(parts, gradients, strict=True)):
            if gradient is None:  # an output that nothing came of
                of_b.append(None)
                continue
            g = gradient.reshape(-1, gradient.shape[-1]).to(rows.dtype)
            of_h.copy_(g @ scaled_b[i])
            factor = (g.T @ h).to(ctx.dtypes[1])  # before it is scaled, which would round it once more
            of_b.append(factor if ctx.scaling[i] == 1 else factor.mul_(ctx.scaling[i]))
            if asked and weights:
                of_input = g @ weights[i] if of_input is None else of_input.addmm_(g, weights[i])
        if asked:
            of_input = of_inner @ all_a if of_input is None else of_input.addmm_(of_inner, all_a)
            of_input = of_input.to(ctx.dtypes[0]).view(ctx.shape)
        of_a = (of_inner.T @ rows).to(ctx.dtypes[1]).split(ctx.ranks)
        base = () if weights else gradients
        return of_input, None, None, None, *of_a, *of_b, *base
