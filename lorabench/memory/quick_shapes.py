"""The commonest operators of a step on the meta device, answered by shape alone.

torch's own meta kernels of elementwise operators, norms and products are Python (torch/_refs and
torch/_meta_registrations) and take 75 to 350 us a call, a third of a trace. Here a new tensor is made of the shape,
dtype and order of strides that they give, in ~10 us: of floating-point tensors of one dtype, where the result has the
shape of one of them. Strides follow the first operand (TensorIterator.cpp, reorder_dimensions). All else goes to torch;
tests/memory/test_quick_shapes.py holds each answer against torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

Answer = Callable[..., torch.Tensor | None]

aten = torch.ops.aten


def quick_answer(operator: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """What an operator gives; None for those that torch is asked for."""
    found = ANSWERS.get(operator)
    return None if found is None else found(*args, **kwargs)


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta and value.dtype.is_floating_point


def _like(a: torch.Tensor) -> torch.Tensor | None:
    """Of the order of strides that a has; torch is asked where a repeats its entries."""
    if not _is_plain(a) or 0 in a.stride():
        return None
    return torch.empty(a.shape, dtype=a.dtype, device="meta") if a.is_contiguous() else torch.empty_like(a)


def _two(a: torch.Tensor, b: torch.Tensor | float, alpha: float = 1) -> torch.Tensor | None:
    if not isinstance(b, torch.Tensor):
        return _with_number(a, b)
    if not (_is_plain(a) and _is_plain(b)) or a.dtype != b.dtype or alpha != 1:
        return None
    if _spreads_over(b, a):
        return _like(a)
    return _like(b) if _spreads_over(a, b) and a.is_contiguous() and b.is_contiguous() else None


def _spreads_over(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether broadcasting the two gives b's shape."""
    few, many = a.shape, b.shape
    return few == many or (
        len(few) <= len(many) and all(n in (1, m) for n, m in zip(reversed(few), reversed(many), strict=False))
    )


def _with_number(a: torch.Tensor, number: object) -> torch.Tensor | None:
    return _like(a) if isinstance(number, int | float) else None


def _norm(
    a: torch.Tensor,
    order: float = 2,
    dim: list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | None:
    if dim is not None or keepdim or not _is_plain(a):
        return None
    return torch.empty((), dtype=dtype or a.dtype, device="meta")


def _mean(
    a: torch.Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor | None:
    if not a.dim() or dim not in ([-1], [a.dim() - 1]) or not keepdim or not _is_plain(a) or not a.is_contiguous():
        return None
    return torch.empty((*a.shape[:-1], 1), dtype=dtype or a.dtype, device="meta")


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    if not (a.is_meta and b.is_meta) or a.dtype != b.dtype or a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        return None
    return torch.empty((a.shape[0], b.shape[1]), dtype=a.dtype, device="meta")


ANSWERS: dict[OpOverload, Answer] = {
    aten.mul.Tensor: _two,
    aten.add.Tensor: _two,
    aten.neg.default: _like,
    aten.rsqrt.default: _like,
    aten.mul.Scalar: _with_number,
    aten.div.Scalar: _with_number,
    aten.pow.Tensor_Scalar: _with_number,
    aten.linalg_vector_norm.default: _norm,
    aten.mean.dim: _mean,
    aten.mm.default: _product,
}
