"""A trained cell evaluated at lower ranks: each learned change is cut to its first k singular terms, no step is
trained.

    lora, rslora, dora    the factors themselves are cut (of DoRA the magnitudes stay)
    pissa                 the whole change against the unchanged base is cut, then the start is put back: rank k + r in
                          the layer
    full                  W0 + the first k terms of (W - W0) for every linear layer; all other weights stay as they were
                          trained

One training at a high rank so gives the accuracy of every rank below it (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorabench.config.study import Cell
from lorabench.engine.weight_deltas import Factors, adapted_layers, full_deltas
from lorabench.record.result import Reading
from lorabench.record.truncations import Allocation, Truncation
from lorabench.spectra.allocate import Allotment, ModuleCandidate, by_energy, uniform
from lorabench.spectra.decompose import Decomposition
from lorabench.spectra.delta import of_factors, of_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# times the highest uniform rank: so many a module of a fully fine-tuned model can get where ranks are spread by energy
_RANK_FACTOR = 4
Readings = Callable[[], list[Reading]]
Place = Callable[[str, Decomposition], None]
"""puts a cut change in a module's place"""


@dataclass(frozen=True)
class _Learned:
    """The changes of a live model, and how one is put in place of what was learned."""

    changes: Mapping[str, Decomposition]
    most: int
    """rank from which on nothing is cut"""
    place: Place


@torch.no_grad()
def truncations(
    model: PreTrainedModel, cell: Cell, start: Factors, evaluate: Readings, whole: list[Reading]
) -> Iterator[Truncation]:
    """The readings of `evaluate` at each rank the cell asks for, below its own; `whole` are those of the change as
    learned.

    The model is left as it was trained.
    """
    ranks = cell.analysis.truncation
    if not ranks:
        return
    learned = (
        _of_adapter(model, start) if hasattr(model, "peft_config") else _of_full(model, cell, _RANK_FACTOR * max(ranks))
    )
    modules = {
        name: ModuleCandidate(c.values.cpu().numpy(), len(c.u) + len(c.v), c.missed**2)
        for name, c in learned.changes.items()
    }
    least = int(cell.method.name == "dora")  # a module without a rank would still have its magnitudes
    for rank in (r for r in ranks if r <= learned.most):
        level = uniform(modules, rank)
        cuts: dict[Allocation, Allotment] = {"uniform": level}
        if cell.analysis.per_module and rank < learned.most:
            cuts["energy"] = by_energy(modules, level.parameters, least)
        for allocation, cut in cuts.items():
            if rank == learned.most:
                readings = whole
            else:
                with _cut(model, learned, cut.ranks):
                    readings = evaluate()
            yield Truncation(allocation, rank, cut.parameters, cut.kept_energy, tuple(readings))


def _of_adapter(model: torch.nn.Module, start: Factors) -> _Learned:
    layers = dict(adapted_layers(model))
    changes = {}
    for name, layer in layers.items():
        a, b, scaling = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
        if name in start:
            a0, b0 = (t.to(a.device) for t in start[name])
            changes[name] = of_start(name, a, b, a0, b0, scaling).decompose()
        else:
            changes[name] = of_factors(name, a, b, scaling).decompose()

    def place(name: str, change: Decomposition) -> None:
        layer = layers[name]
        scaling = layer.scaling["default"]
        a, b = change.factors()
        b = b / scaling
        if name in start:
            a0, b0 = (t.to(a.device, a.dtype) for t in start[name])
            a, b = torch.cat([a, a0]), torch.cat([b, b0], dim=1)
        _set(layer.lora_A["default"], a)
        _set(layer.lora_B["default"], b)

    rank = next(iter(layers.values())).r["default"]
    return _Learned(changes, 2 * rank if start else rank, place)


def _of_full(model: PreTrainedModel, cell: Cell, most: int) -> _Learned:
    changes, before, sides = {}, {}, []
    for delta in full_deltas(model, cell):
        name, module = delta.module, model.get_submodule(delta.module)
        weight = module.get_parameter("weight")
        changes[name] = delta.decompose(most)
        before[name] = (weight.double() - _as_stored(module, delta.matrix())).to(weight.dtype).cpu()
        sides.append(delta.rank)

    def place(name: str, change: Decomposition) -> None:
        module = model.get_submodule(name)
        start = before[name].to(module.get_parameter("weight").device).double()
        _set(module, start + _as_stored(module, change.dense()))

    return _Learned(changes, max(sides), place)


def _as_stored(module: torch.nn.Module, matrix: torch.Tensor) -> torch.Tensor:
    """An (out, in) matrix as the module stores it: GPT-2's Conv1D as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return matrix.T if isinstance(module, Conv1D) else matrix


def _set(module: torch.nn.Module, weight: torch.Tensor) -> None:
    dtype = module.get_parameter("weight").dtype
    module.weight = torch.nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)


@contextmanager
def _cut(model: torch.nn.Module, learned: _Learned, ranks: Mapping[str, int]) -> Iterator[None]:
    """The model with its changes cut; then with its own parameters again, the same objects."""
    touched: list[torch.nn.Module]
    if hasattr(model, "peft_config"):
        touched = [m for _, layer in adapted_layers(model) for m in (layer.lora_A["default"], layer.lora_B["default"])]
    else:
        touched = [model.get_submodule(name) for name in learned.changes]
    own = [m.weight for m in touched]
    try:
        for name, change in learned.changes.items():
            learned.place(name, change.truncated(ranks[name]))
        yield
    finally:
        for module, weight in zip(touched, own, strict=True):
            module.weight = weight
