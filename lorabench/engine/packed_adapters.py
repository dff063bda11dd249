"""The adapters of a pack: what each begins with, and their parameters laid side by side in buckets.

A bucket holds adapters of one kind and the same targets, whose ranks are padded to one. Padding is exact, whatever
trains it: the columns of A and rows of B beyond the rank are zero, the gradient of each is a product with the other,
and so both stay zero.

    lora, rslora    A and B
    dora            A and B, and a magnitude for each output
    pissa           A and B, which begin from the base's weight W as A0 and B0; PEFT trains them over W - s B0 A0. The
                    pack's base is W for all, so that s B0 A0 x is taken off again: the same in exact arithmetic, and
                    to rounding in float32. Over a base in 16 bits it is not, since PEFT rounds the difference to them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lorabench import plugins
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.library_messages import quiet
from lorabench.engine.weight_deltas import AdaptedLayer, Factors, adapted_layers, start_factors

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from lorabench.config.settings import MethodSpec

LAUNCH_SECONDS = 1e-5  # of one small operator with its derivative's bookkeeping (PyTorch's dispatch, CPU or GPU)
OPERATORS = 6  # that a bucket adds to a layer: two products, and two more for the derivative of each
FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e14}  # of small products: a core with AVX2; a tenth of an H100 in bfloat16

Magnitudes = dict[str, torch.Tensor]
"""of DoRA: (out,) by the full name of each adapted module"""


@dataclass(frozen=True)
class Learned:
    """An adapter's parameters: A (rank, in) and B (out, rank) by the full name of each adapted module, and DoRA's
    magnitudes."""

    factors: Factors
    magnitudes: Magnitudes = field(default_factory=dict)
    """empty where the method has none"""

    @classmethod
    def of(cls, model: torch.nn.Module) -> Learned:
        """Copies of those of a PeftModel as they are now."""
        layers = dict(adapted_layers(model))
        pairs = {
            name: (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
            for name, layer in layers.items()
        }
        return cls(pairs, {n: _magnitude(y).detach().clone() for n, y in layers.items() if _has_magnitude(y)})

    def on_host(self) -> Learned:
        """The same off the device."""
        pairs = {name: (a.cpu(), b.cpu()) for name, (a, b) in self.factors.items()}
        return Learned(pairs, {name: m.cpu() for name, m in self.magnitudes.items()})

    @torch.no_grad()
    def put(self, adapted: torch.nn.Module) -> None:
        """Writes them into a PeftModel that was attached by the same configuration."""
        for name, layer in adapted_layers(adapted):
            a, b = self.factors[name]
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
            if name in self.magnitudes:
                _magnitude(layer).copy_(self.magnitudes[name])


@dataclass(frozen=True)
class AdapterStart:
    """An adapter before its first step: what PEFT made of a configuration."""

    learned: Learned
    scaling: float
    dropout: float
    seed: int
    """of what dropout draws"""
    from_base: bool = False
    """whether it begins from the base's weights, which PEFT then lessens by it (pissa)"""

    @classmethod
    def of(cls, model: torch.nn.Module, seed: int) -> AdapterStart:
        """The adapter of a PeftModel, copied, so that it can be taken off again."""
        first: Any = next(layer for _, layer in adapted_layers(model))
        dropout = getattr(first.lora_dropout["default"], "p", 0.0)  # Identity where there is none
        return cls(Learned.of(model), first.scaling["default"], dropout, seed, bool(start_factors(model)))

    @property
    def factors(self) -> Factors:
        """A and B by module"""
        return self.learned.factors

    @property
    def rank(self) -> int:
        """r, the same in all modules"""
        return len(next(iter(self.factors.values()))[0])

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for those that a bucket may hold together."""
        return frozenset(self.factors), bool(self.learned.magnitudes), self.from_base


def _has_magnitude(layer: AdaptedLayer) -> bool:
    return layer.use_dora.get("default", False)


def _magnitude(layer: AdaptedLayer) -> torch.Tensor:
    return layer.lora_magnitude_vector["default"].weight


@contextmanager
def attached(model: PreTrainedModel, spec: MethodSpec, seed: int) -> Iterator[PeftModel]:
    """PEFT's model with an adapter as its seed begins it; taken off afterwards, the base's weights as they were.

    Draws from the process's random numbers.
    """
    targets = resolve_targets(model, spec.target_modules or "all-linear")
    weights = {name: model.get_submodule(name).weight.data for name in targets} if spec.name == "pissa" else {}
    torch.manual_seed(seed)
    with quiet():
        adapted = plugins.load("methods", spec.name).attach(model, spec, peft_targets(model, targets))
    try:
        yield adapted
    finally:
        with quiet():
            adapted.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for name, weight in weights.items():  # in whose place PEFT put what the start leaves of them
            model.get_submodule(name).weight.data = weight


class Bucket:
    """Adapters of one kind, beside each other in a pack: their parameters as one buffer (n, parameters of an adapter),
    the magnitudes last.

    What layers compute with are views of it, as their gradients are of a second one, so that clipping sees an adapter
    as one row, and the optimizer as two: matrices, and magnitudes, which do not decay.
    """

    def __init__(self, first: int, adapters: Sequence[AdapterStart], rank: int) -> None:
        self.first, self.adapters, self.rank = first, tuple(adapters), rank
        sides = {name: (a.shape[1], len(b)) for name, (a, b) in adapters[0].factors.items()}
        like = next(iter(adapters[0].factors.values()))[0]
        magnitudes = {name: len(m) for name, m in adapters[0].learned.magnitudes.items()}
        self.matrices = sum(rank * (inner + outer) for inner, outer in sides.values())
        """entries of an adapter's row that belong to A and B"""
        size = self.matrices + sum(magnitudes.values())
        self.values = torch.zeros(len(adapters), size, dtype=like.dtype, device=like.device)
        self.grads = torch.zeros_like(self.values)
        self.scaling = torch.tensor([a.scaling for a in adapters], dtype=like.dtype, device=like.device)[:, None, None]
        self.factors: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
        """A as (n, in, rank) and B as (n, rank, out), by module"""
        self.magnitudes: dict[str, torch.nn.Parameter] = {}
        """(n, 1, out) by module, of dora"""
        at = 0
        for name, (inner, outer) in sides.items():
            a, b = self._part(at, (inner, rank)), self._part(at + inner * rank, (rank, outer))
            for row, adapter in enumerate(adapters):
                own_a, own_b = adapter.factors[name]
                a.data[row, :, : adapter.rank] = own_a.detach().T
                b.data[row, : adapter.rank] = own_b.detach().T
            self.factors[name] = a, b
            at += rank * (inner + outer)
        for name, outer in magnitudes.items():
            self.magnitudes[name] = self._part(at, (1, outer))
            for row, adapter in enumerate(adapters):
                self.magnitudes[name].data[row, 0] = adapter.learned.magnitudes[name]
            at += outer
        self.starts: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = {}
        """A0 and B0 as A and B, by module, of pissa"""
        if adapters[0].from_base:
            self.starts = {n: (a.detach().clone(), b.detach().clone()) for n, (a, b) in self.factors.items()}

    @property
    def last(self) -> int:
        """place after its last adapter"""
        return self.first + len(self.adapters)

    def _part(self, at: int, shape: tuple[int, int]) -> torch.nn.Parameter:
        span = slice(at, at + shape[0] * shape[1])
        part = torch.nn.Parameter(self.values[:, span].view(-1, *shape))
        part.grad = self.grads[:, span].view(-1, *shape)  # backward adds to it in place
        return part

    @torch.no_grad()
    def put(self, row: int, learned: Learned) -> None:
        """Writes an adapter's parameters over those that it began with."""
        rank = self.adapters[row].rank
        for name, (a, b) in self.factors.items():
            own_a, own_b = learned.factors[name]
            a[row, :, :rank], b[row, :rank] = own_a.T, own_b.T
        for name, magnitude in self.magnitudes.items():
            magnitude[row, 0] = learned.magnitudes[name]

    def learned(self, row: int) -> Learned:
        """Copies of an adapter's parameters as they are now, without padding."""
        rank = self.adapters[row].rank
        pairs = {
            name: (a.detach()[row, :, :rank].T.contiguous(), b.detach()[row, :rank].T.contiguous())
            for name, (a, b) in self.factors.items()
        }
        return Learned(pairs, {name: m.detach()[row, 0].clone() for name, m in self.magnitudes.items()})


def arranged(adapters: Sequence[AdapterStart], tokens: int) -> list[tuple[list[int], int]]:
    """Which adapters make a bucket and its rank, for so many tokens of an adapter in a pass: a smaller rank is padded
    to the next larger one of its kind where that takes less time than the operators of a bucket of its own.
    """
    by_kind: dict[tuple[object, ...], list[int]] = {}
    for index, adapter in enumerate(adapters):
        by_kind.setdefault(adapter.kind, []).append(index)
    groups = []
    for members in by_kind.values():
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


def bucketed(adapters: Sequence[AdapterStart], tokens: int) -> tuple[list[int], list[Bucket]]:
    """The buckets that are arranged, and which adapter stands at each place of the pack."""
    order, buckets = list[int](), list[Bucket]()
    for members, rank in arranged(adapters, tokens):
        buckets.append(Bucket(len(order), [adapters[m] for m in members], rank))
        order += members
    return order, buckets
