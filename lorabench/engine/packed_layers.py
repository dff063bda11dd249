"""A frozen linear layer with several adapters over it, each of which sees its own rows.

    y_k = W x_k + s_k * B_k A_k dropout_k(x_k)        for the rows x_k of adapter k

W x is one product over the rows of all adapters, so that a quantized weight is dequantized once. The adapters' products
are batched by bucket: adapters of the same targets whose ranks are padded to one. Padding is exact, whatever trains it:
the columns of A and rows of B beyond the rank are zero, the gradient of each is a product with the other, and so both
stay zero. An adapter that does not target a layer costs nothing there.

Exact are also: dropout, which each adapter draws from a stream of its own as it would alone, over the rows without the
padding that its neighbours ask for; dtypes, which are PEFT's (adapters in float32 over a bfloat16 base, the product in
float32 without autocast); and LLM.int8() on a GPU, whose outlier columns are those of all rows of a product, so that
there each adapter has one of its own.

Limits: LoRA and rsLoRA. The rows of an adapter lie beside each other along the first dimension; a layer that sees other
rows than the tokens (experts) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from lorabench.engine.weight_deltas import Factors, adapted_layers
from lorabench.errors import ModelError

LAUNCH_SECONDS = 1e-5  # of one small operator with its derivative's bookkeeping (PyTorch's dispatch, CPU or GPU)
OPERATORS = 6  # that a bucket adds to a layer: two products, and two more for the derivative of each
FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e14}  # of small products: a core with AVX2; a tenth of an H100 in bfloat16


@dataclass(frozen=True)
class AdapterStart:
    """An adapter before its first step: what PEFT made of a configuration."""

    factors: Factors
    """A (rank, in) and B (out, rank) by the full name of each adapted module"""
    scaling: float
    dropout: float
    seed: int
    """of what dropout draws"""

    @classmethod
    def of(cls, model: torch.nn.Module, seed: int) -> AdapterStart:
        """The adapter of a PeftModel, copied, so that it can be taken off again."""
        layers = dict(adapted_layers(model))
        first: Any = next(iter(layers.values()))
        factors = {
            name: (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
            for name, layer in layers.items()
        }
        dropout = getattr(first.lora_dropout["default"], "p", 0.0)  # Identity where there is none
        return cls(factors, first.scaling["default"], dropout, seed)

    @property
    def rank(self) -> int:
        """r, the same in all modules"""
        return len(next(iter(self.factors.values()))[0])


@torch.no_grad()
def put(adapted: torch.nn.Module, factors: Factors) -> None:
    """Trained factors into a PeftModel that was attached by the same configuration."""
    for name, layer in adapted_layers(adapted):
        a, b = factors[name]
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b)


class Bucket:
    """Adapters of the same targets, beside each other in a pack: their parameters as one buffer (n, parameters of an
    adapter), each with its rank padded.

    The factors that layers compute with are views of it, as their gradients are of a second one, so that clipping and
    the optimizer see an adapter as one row.
    """

    def __init__(self, first: int, adapters: Sequence[AdapterStart], rank: int) -> None:
        self.first, self.adapters, self.rank = first, tuple(adapters), rank
        sides = {name: (a.shape[1], len(b)) for name, (a, b) in adapters[0].factors.items()}
        like = next(iter(adapters[0].factors.values()))[0]
        size = sum(rank * (inner + outer) for inner, outer in sides.values())
        self.values = torch.zeros(len(adapters), size, dtype=like.dtype, device=like.device)
        self.grads = torch.zeros_like(self.values)
        self.scaling = torch.tensor([a.scaling for a in adapters], dtype=like.dtype, device=like.device)[:, None, None]
        self.factors: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
        """A as (n, in, rank) and B as (n, rank, out), by module"""
        at = 0
        for name, (inner, outer) in sides.items():
            a, b = self._part(at, (inner, rank)), self._part(at + inner * rank, (rank, outer))
            for row, adapter in enumerate(adapters):
                own_a, own_b = adapter.factors[name]
                a.data[row, :, : adapter.rank] = own_a.detach().T
                b.data[row, : adapter.rank] = own_b.detach().T
            self.factors[name] = a, b
            at += rank * (inner + outer)

    @property
    def last(self) -> int:
        """place after its last adapter"""
        return self.first + len(self.adapters)

    def _part(self, at: int, shape: tuple[int, int]) -> torch.nn.Parameter:
        span = slice(at, at + shape[0] * shape[1])
        part = torch.nn.Parameter(self.values[:, span].view(-1, *shape))
        part.grad = self.grads[:, span].view(-1, *shape)  # backward adds to it in place
        return part

    def learned(self, row: int) -> Factors:
        """Copies of an adapter's A (rank, in) and B (out, rank) as they are now, without padding."""
        rank = self.adapters[row].rank
        return {
            name: (a.detach()[row, :, :rank].T.contiguous(), b.detach()[row, :rank].T.contiguous())
            for name, (a, b) in self.factors.items()
        }


def arranged(adapters: Sequence[AdapterStart], tokens: int) -> list[tuple[list[int], int]]:
    """Which adapters make a bucket and its rank, for so many tokens of an adapter in a pass: a smaller rank is padded
    to the next larger one of the same targets where that takes less time than the operators of a bucket of its own.
    """
    by_targets: dict[frozenset[str], list[int]] = {}
    for index, adapter in enumerate(adapters):
        by_targets.setdefault(frozenset(adapter.factors), []).append(index)
    groups = []
    for members in by_targets.values():
        factors = adapters[members[0]].factors
        where = next(iter(factors.values()))[0].device.type
        sides = sum(a.shape[1] + len(b) for a, b in factors.values())
        seconds_per_rank = 6 * tokens * sides / FLOPS_PER_SECOND.get(where, FLOPS_PER_SECOND["cpu"])
        launches = OPERATORS * LAUNCH_SECONDS * len(factors)
        ranks: dict[int, list[int]] = {}
        for member in members:
            ranks.setdefault(adapters[member].rank, []).append(member)
        padded, joined = max(ranks), list[int]()
        for rank in sorted(ranks, reverse=True):
            if joined and len(ranks[rank]) * (padded - rank) * seconds_per_rank > launches:
                groups.append((joined, padded))
                padded, joined = rank, []
            joined += ranks[rank]
        groups.append((joined, padded))
    return groups


@dataclass
class Streams:
    """The random numbers of each adapter's dropout, drawn as it would draw them alone, and the rows of this pass."""

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
        """A new forward pass."""
        self.rows, self.length, self.lengths = rows, length, lengths
        self.drawn.clear()

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
        self.alone = kind == "Linear8bitLt" and streams.where.type == "cuda" and layer.state.threshold > 0

    @property
    def weight(self) -> torch.Tensor:
        """The frozen layer's, which some models look at."""
        return self.layer.weight  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen layer's output plus that of each adapter for its rows."""
        tokens = self.streams.rows * self.streams.length
        if x.numel() != self.pack * tokens * x.shape[-1]:
            raise ModelError(f"{self.name} does not see every token once, so that adapters on it cannot be packed")
        result = torch.cat([self.layer(rows) for rows in x.chunk(self.pack)]) if self.alone else self.layer(x)
        rows, out = x.reshape(self.pack, tokens, -1), result.reshape(self.pack, tokens, -1)
        whole = self.parts[0][1]
        if len(self.parts) == 1 and whole is not None:
            return self._adapted(whole, rows, out).view(result.shape)
        sizes = [size for size, _ in self.parts]
        pieces = zip(self.parts, rows.split(sizes), out.split(sizes), strict=True)
        return torch.cat([y if b is None else self._adapted(b, x, y) for (_, b), x, y in pieces]).view(result.shape)

    def _adapted(self, bucket: Bucket, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        a, b = bucket.factors[self.name]
        mixed = torch.is_autocast_enabled(x.device.type)
        if not mixed:
            x = x.to(a.dtype)
        if self.training and any(adapter.dropout for adapter in bucket.adapters):
            x = torch.stack(
                [
                    self.streams.dropped(place, self.name, rows, adapter.dropout) if adapter.dropout else rows
                    for place, (adapter, rows) in enumerate(zip(bucket.adapters, x, strict=True), bucket.first)
                ]
            )
        inner = torch.bmm(x, a)
        inner = inner * bucket.scaling.to(inner.dtype)
        if result.dtype == inner.dtype:
            return torch.baddbmm(result, inner, b)
        delta = torch.bmm(inner, b)
        if self.quantized and not mixed:  # as PEFT's layers: these round before they add, those over floats after
            delta = delta.to(result.dtype)
        return (result + delta).to(result.dtype)


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
