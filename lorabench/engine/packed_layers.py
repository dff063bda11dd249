"""A frozen linear layer with several adapters over it, each of which sees its own rows.

    y_k = W x_k + s_k * B_k A_k dropout_k(x_k)                                          lora, rslora
    y_k = W x_k + (g_k - 1) * W x'_k + g_k * s_k * B_k A_k x'_k                         dora; x'_k = dropout_k(x_k),
          g_k = m_k / ||W + s_k B_k A_k||, rows' norms, which have no derivative        without a bias in W x'_k
    y_k = W x_k - s_k * B0_k A0_k x_k + s_k * B_k A_k dropout_k(x_k)                    pissa

W x is one product over the rows of all adapters, so that a quantized weight is dequantized once. The adapters' products
are batched by bucket (packed_adapters). An adapter that does not target a layer costs nothing there. The norms of dora
come from products with W of A's rank, and from ||W||, which is known: PEFT forms W + s B A for each adapter.

Exact are also: dropout, which each adapter draws from a stream of its own as it would alone, over the rows without the
padding that its neighbours ask for; dtypes, which are PEFT's (adapters in float32 over a bfloat16 base, the product in
float32 without autocast); and LLM.int8() on a GPU, whose outlier columns are those of all rows of a product, so that
there each adapter has one of its own.

Limits: the tokens of an adapter lie beside each other (packed_spans); a layer that sees other rows than the tokens
(experts) is refused. What lies end to end has no dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from lorabench.engine.packed_adapters import Bucket
from lorabench.engine.packed_spans import Spans
from lorabench.errors import ModelError


@dataclass
class Streams:
    """The random numbers of each adapter's dropout, drawn as it would draw them alone, and the tokens of this pass."""

    states: list[torch.Tensor]
    """of the device's random generator, by adapter"""
    where: torch.device
    rows: int = 0
    """of an adapter"""
    length: int = 0
    """tokens of a row, with padding"""
    lengths: Sequence[int] = ()
    """of the longest row of each adapter, which it would be padded to alone"""
    drawn: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)
    """states before a layer's draw, by adapter and layer: a layer that is recomputed draws the same again"""
    spans: Spans = field(default_factory=lambda: Spans([], torch.device("cpu")))
    """of the adapters' tokens in this pass"""
    filled: tuple[torch.Tensor, torch.Tensor] | None = None
    """the last layer's input and its filled form: layers that read one input fill it up once"""

    @classmethod
    def seeded(cls, seeds: Sequence[int], where: torch.device) -> Streams:
        """Each as torch.manual_seed leaves it; the process's own generator stays as it is."""
        states = []
        with _kept(where):
            for seed in seeds:
                torch.manual_seed(seed)
                states.append(_state(where))
        return cls(states, where)

    def begin(self, rows: int, length: int, lengths: Sequence[int]) -> None:
        """A new forward pass over padded rows, the same number of each adapter."""
        self.rows, self.length, self.lengths = rows, length, lengths
        self._begin([rows * length] * len(lengths))

    def begin_end_to_end(self, tokens: Sequence[int]) -> None:
        """A new forward pass over rows end to end, of so many tokens of each adapter."""
        self._begin(tokens)

    def _begin(self, tokens: Sequence[int]) -> None:
        self.drawn.clear()
        self.spans, self.filled = Spans(tokens, self.where), None

    @contextmanager
    def one_token_each(self, adapters: int) -> Iterator[None]:
        """A pass over a token of each adapter within, after which they draw as if it had not been."""
        states = list(self.states)
        self.begin(1, 1, [1] * adapters)
        try:
            yield
        finally:
            self.states = states
            self.forget()

    def rows_of(self, x: torch.Tensor) -> torch.Tensor:
        """(adapters, tokens of one, width) of a layer's input."""
        if self.spans.sources is None:
            return self.spans.filled(x)
        if self.filled is None or self.filled[0] is not x:
            self.filled = x, self.spans.filled(x)
        return self.filled[1]

    def forget(self) -> None:
        """Lets go of the last layer's input; before the backward pass too, whose recomputed layers would otherwise find
        what they have to save again."""
        self.filled = None

    def dropped(self, adapter: int, layer: str, x: torch.Tensor, probability: float) -> torch.Tensor:
        """An adapter's rows (tokens, in) after dropout; what its neighbours' length pads is left zero."""
        whole = x.view(self.rows, self.length, -1)
        own = whole[:, : self.lengths[adapter]].contiguous()
        again = self.drawn.get((adapter, layer))
        before = self.states[adapter] if again is None else again
        with _kept(self.where):
            _set_state(before, self.where)
            dropped = F.dropout(own, probability)
            if again is None:
                self.drawn[adapter, layer], self.states[adapter] = before, _state(self.where)
        return F.pad(dropped, (0, 0, 0, self.length - self.lengths[adapter])).view(x.shape)


def _state(where: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(where) if where.type == "cuda" else torch.get_rng_state()


def _set_state(state: torch.Tensor, where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.set_rng_state(state, where)
    else:
        torch.set_rng_state(state)


@contextmanager
def _kept(where: torch.device) -> Iterator[None]:
    cpu, own = torch.get_rng_state(), _state(where)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        _set_state(own, where)


class PackedLinear(torch.nn.Module):
    """A frozen layer and the adapters that target it."""

    def __init__(self, layer: Any, name: str, buckets: Sequence[Bucket], streams: Streams) -> None:
        super().__init__()
        self.layer, self.name, self.streams = layer, name, streams
        self.pack = buckets[-1].last  # adapters, with those that do not target it
        self.parts = [(len(b.adapters), b if name in b.factors else None) for b in buckets]
        """adapters beside each other, and their bucket where they target the layer"""
        kind = type(layer).__name__
        self.quantized = kind in ("Linear8bitLt", "Linear4bit")
        self.squares: torch.Tensor | None = None
        """of the norms of the frozen weight's rows, once they are asked for"""
        self.alone = kind == "Linear8bitLt" and streams.where.type == "cuda" and layer.state.threshold > 0

    @property
    def weight(self) -> torch.Tensor:
        """The frozen layer's, which some models look at."""
        return self.layer.weight  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen layer's output plus that of each adapter for its rows."""
        spans = self.streams.spans
        if x.numel() != spans.total * x.shape[-1]:
            raise ModelError(f"{self.name} does not see every token once, so that adapters on it cannot be packed")
        result = torch.cat([self.layer(rows) for rows in x.chunk(self.pack)]) if self.alone else self.layer(x)
        rows, out = self.streams.rows_of(x), spans.filled(result)
        whole = self.parts[0][1]
        if len(self.parts) == 1 and whole is not None:
            adapted = self._adapted(whole, rows, out)
        else:
            sizes = [size for size, _ in self.parts]
            pieces = zip(self.parts, rows.split(sizes), out.split(sizes), strict=True)
            adapted = torch.cat([y if b is None else self._adapted(b, x, y) for (_, b), x, y in pieces])
        return spans.taken(adapted).view(result.shape)

    def _adapted(self, bucket: Bucket, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        a, b = bucket.factors[self.name]
        mixed = torch.is_autocast_enabled(x.device.type)
        if not mixed:
            x = x.to(a.dtype)
        if self.name in bucket.starts:
            a0, b0 = bucket.starts[self.name]
            left = torch.bmm(torch.bmm(x, a0) * bucket.scaling, b0)
            result = (result - left).to(result.dtype)
        dropped = self._dropped(bucket, x)
        inner = torch.bmm(dropped, a)
        inner = inner * bucket.scaling.to(inner.dtype)
        if self.name in bucket.magnitudes:
            return self._turned(bucket, dropped, torch.bmm(inner, b), result)
        if result.dtype == inner.dtype:
            return torch.baddbmm(result, inner, b)
        delta = torch.bmm(inner, b)
        if self.quantized and not mixed:  # as PEFT's layers: these round before they add, those over floats after
            delta = delta.to(result.dtype)
        return (result + delta).to(result.dtype)

    def _dropped(self, bucket: Bucket, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not any(adapter.dropout for adapter in bucket.adapters):
            return x
        return torch.stack(
            [
                self.streams.dropped(place, self.name, rows, adapter.dropout) if adapter.dropout else rows
                for place, (adapter, rows) in enumerate(zip(bucket.adapters, x, strict=True), bucket.first)
            ]
        )

    def _turned(self, bucket: Bucket, x: torch.Tensor, delta: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """DoRA's output for rows after dropout; as PEFT's, those that had none take the frozen layer's product."""
        weight = self._weight(bucket.factors[self.name][0].dtype)
        scale = bucket.magnitudes[self.name] / self._norms(bucket, weight)
        base = result if self.layer.bias is None else result - self.layer.bias
        if self.training and any(adapter.dropout for adapter in bucket.adapters):
            own = (
                F.linear(rows, weight) if adapter.dropout else rows_base
                for adapter, rows, rows_base in zip(bucket.adapters, x, base, strict=True)
            )
            base = torch.stack([rows.to(base.dtype) for rows in own])
        return (result + ((scale - 1) * base + scale * delta)).to(result.dtype)

    def _weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The frozen layer's (out, in), dequantized."""
        weight = self.layer.weight
        if self.quantized:
            from peft.utils.integrations import dequantize_bnb_weight

            weight = dequantize_bnb_weight(weight, state=getattr(self.layer, "state", None))
        weight = weight.detach().to(dtype)
        return weight.T if type(self.layer).__name__ == "Conv1D" else weight

    @torch.no_grad()
    def _norms(self, bucket: Bucket, weight: torch.Tensor) -> torch.Tensor:
        """||W + s B A|| of each output (n, 1, out): ||w||^2 + 2 s (W A) b + s^2 b (A A) b."""
        a, b = bucket.factors[self.name]
        with torch.autocast(weight.device.type, enabled=False):
            if self.squares is None or self.squares.dtype != weight.dtype:
                self.squares = weight.square().sum(1)
            with_base = torch.matmul(weight, a).transpose(1, 2)  # (n, rank, out)
            with_own = torch.bmm(torch.bmm(a.transpose(1, 2), a), b)
            cross = (2 * bucket.scaling * with_base * b).sum(1, keepdim=True)
            own = (bucket.scaling.square() * with_own * b).sum(1, keepdim=True)
            return (self.squares + cross + own).clamp(min=0).sqrt()


@contextmanager
def packed(model: torch.nn.Module, buckets: Sequence[Bucket], streams: Streams) -> Iterator[None]:
    """Puts packed layers into a bare model; it is as it was afterwards."""
    layers = {name: model.get_submodule(name) for name in dict.fromkeys(n for b in buckets for n in b.factors)}
    try:
        for name, layer in layers.items():
            _put(model, name, PackedLinear(layer, name, buckets, streams))
        yield
    finally:
        for name, layer in layers.items():
            _put(model, name, layer)


def _put(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
