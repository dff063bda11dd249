"""The last base that this process loaded, kept for the cells that come next: they mostly share it, and reading and
quantizing it takes longer than many steps.

A cell gets modules of its own over the kept weights. What it does to modules (adapters, hooks, modes, caches, the
state that bitsandbytes keeps) is done to its own, and nothing has to be undone: a cell computes the same bits whichever
cells came before it. The weights lie in memory once, so that measured peaks are those of a cell that loaded alone.

Not shared, and loaded anew once the kept one is given up: the base of a method that trains its weights, and on a GPU
that of one which puts others in their place (pissa), where the kept ones would be counted beside them. A base whose
weights were written to in place, by whatever, is not handed out again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from lorabench import plugins
from lorabench.config.settings import ModelSpec, QuantizationSpec
from lorabench.config.study import Cell
from lorabench.config.validity import takes_quantized_base
from lorabench.engine.model import load_base, resolve_compute_dtype, resolve_dtype
from lorabench.engine.quantized_weights import weight_bytes
from lorabench.engine.train import CausalModel


@dataclass(frozen=True)
class Base:
    """All that decides what loading gives."""

    model: ModelSpec
    weights: str
    """fingerprint of configuration, tokenizer and weights"""
    quantization: QuantizationSpec
    dtype: torch.dtype
    compute_dtype: torch.dtype | None
    """of 4-bit layers, which follows training's autocast where it is auto"""
    device: str

    @classmethod
    def of(cls, cell: Cell, where: torch.device) -> Base:
        """Of a cell on a device of this machine."""
        computed = resolve_compute_dtype(cell) if cell.quantization.name != "none" else None
        return cls(cell.model, cell.fingerprints.model, cell.quantization, resolve_dtype(cell), computed, str(where))


@dataclass(frozen=True)
class _Kept:
    model: CausalModel
    versions: tuple[int, ...]
    """torch's counts of writes to each weight"""


_KEPT: dict[Base, _Kept] = {}


def base_for(cell: Cell, where: torch.device) -> tuple[CausalModel, bool]:
    """A cell's base as load_base gives it, and whether it was there already."""
    key = Base.of(cell, where)
    kept = _KEPT.get(key)
    if not _shares(cell, where) or kept is None or _versions(kept.model) != kept.versions:
        del kept
        _KEPT.clear()  # before another is loaded
        model = load_base(cell, where)
        if not _shares(cell, where):
            return model, False
        kept = _KEPT[key] = _Kept(model, _versions(model))
        return _over(kept.model), False
    return _over(kept.model), True


def kept_bytes(where: torch.device) -> int:
    """Bytes of the kept weights on a device: the next cell computes with them, or they are given up for its own."""
    return sum(weight_bytes(kept.model) for key, kept in _KEPT.items() if key.device == str(where))


def _shares(cell: Cell, where: torch.device) -> bool:
    name = cell.method.name
    if plugins.load("methods", name).TRAINS_BASE:
        return False
    return where.type == "cpu" or takes_quantized_base(name)  # what cannot have a quantized base is what replaces it


def _versions(model: CausalModel) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in (*model.parameters(), *model.buffers()))


def _over(model: CausalModel) -> CausalModel:
    """The same modules once more, over the same storages.

    A weight's own copy may be given other data; writes in place go to the kept one, whose version counts them.
    """
    shared: dict[int, object] = {}
    for parameter in model.parameters():
        own = torch.Tensor._make_subclass(type(parameter), parameter.detach(), parameter.requires_grad)
        own.__dict__.update(parameter.__dict__)
        shared[id(parameter)] = own
        state = getattr(parameter, "quant_state", None)  # of 4 bits; the layer has it, too
        if state is not None:
            shared[id(state)] = state
    for buffer in model.buffers():
        shared[id(buffer)] = buffer.detach()
    for module in model.modules():  # int8 layers keep codes and constants beside the weight
        for tensor in vars(getattr(module, "state", None) or _NOTHING).values():
            if isinstance(tensor, torch.Tensor):
                shared[id(tensor)] = tensor
    return copy.deepcopy(model, shared)


class _Nothing:
    """Has no attributes."""


_NOTHING = _Nothing()
