"""Where the tokens of each adapter of a pack lie in a pass: beside each other along its first dimensions.

even      (adapters * tokens, width) is (adapters, tokens, width), as batched products take it
uneven    rows of different lengths end to end: adapters have different numbers of tokens, and each is filled up to
          the largest with repetitions of its own last one, whose outputs are dropped and which no gradient reaches
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch


class Spans:
    """The tokens of each adapter in a pass, padding included."""

    def __init__(self, tokens: Sequence[int], where: torch.device) -> None:
        self.adapters, self.total, self.longest = len(tokens), sum(tokens), max(tokens, default=0)
        self.sources: torch.Tensor | None = None
        """(adapters * longest,) where the tokens of the filled form come from; None of even ones"""
        self.places: torch.Tensor | None = None
        """(total,) where tokens stand in the filled form"""
        if len(set(tokens)) > 1:
            starts = itertools.accumulate(tokens, initial=0)
            counted = torch.arange(self.longest)
            parts = [start + counted.clamp(max=n - 1) for start, n in zip(starts, tokens, strict=False)]
            self.sources = torch.cat(parts).to(where)
            self.places = torch.cat([k * self.longest + counted[:n] for k, n in enumerate(tokens)]).to(where)

    def filled(self, x: torch.Tensor) -> torch.Tensor:
        """(adapters, longest, width) of (..., width) with `total` tokens."""
        x = x.reshape(self.total, -1)
        rows: torch.Tensor = x if self.sources is None else _Filled.apply(x, self.sources, self.places)
        return rows.view(self.adapters, self.longest, -1)

    def taken(self, rows: torch.Tensor) -> torch.Tensor:
        """(total, width): `filled` undone."""
        rows = rows.reshape(self.adapters * self.longest, -1)
        return rows if self.places is None else _Taken.apply(rows, self.places)  # type: ignore[no-any-return]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(adapters, longest, width) as `filled`, but with zeros, where nothing comes of the repetitions."""
        x = x.reshape(self.total, -1)
        if self.places is not None:
            x = x.new_zeros(self.adapters * self.longest, x.shape[1]).index_copy_(0, self.places, x)
        return x.view(self.adapters, self.longest, -1)


class _Filled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sources: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, places, gradient), None
