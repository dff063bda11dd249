"""Trainable parameters by rank, counted without training and without weights.

A LoRA pair on a layer of shape (out, in) has rank * (in + out) parameters (Hu et al. 2021, section 4.1); DoRA adds a
magnitude of `out` (Liu et al. 2024, arXiv:2402.09353, equation 5). rsLoRA and PiSSA change the scaling and the start,
not the counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lorabench import plugins
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.validity import target_parameters_fault
from lorabench.engine.adapt import linear_modules, peft_targets, refuse_misread, resolve_targets
from lorabench.engine.experts import unreached
from lorabench.engine.parameter_targets import resolve_parameters
from lorabench.errors import LorabenchError
from lorabench.memory.model_shape import ModelShape
from lorabench.memory.step_dtypes import resolve_dtype
from lorabench.memory.train_config import TrainConfig
from lorabench.record.unreached import Unreached


@dataclass(frozen=True)
class Count:
    """One rank: its trainable parameters and the base's."""

    rank: int
    trainable_parameters: int
    base_parameters: int
    saved_ranks: int = 1
    """how many times its rank an adapter is saved with: twice of pissa, whose start is taken off"""

    @property
    def trainable_percent(self) -> float:
        """Trainable share of all parameters, adapters included."""
        return 100 * self.trainable_parameters / (self.base_parameters + self.trainable_parameters)

    def adapter_bytes(self, bytes_each: int = 4) -> int:
        """Size of the adapter: PEFT saves float32, the papers count 2 bytes each."""
        return bytes_each * self.saved_ranks * self.trainable_parameters


def count_parameters(
    model: ModelSpec | ModelShape,
    ranks: Sequence[int],
    target_modules: str | tuple[str, ...],
    method: str = "lora",
    target_parameters: str | Sequence[str] | None = None,
) -> tuple[Count, ...]:
    """The counts of each rank; LorabenchError where a rank is above a matrix's smaller side, or a module or
    parameter is not there."""
    if method not in plugins.names("methods"):
        raise LorabenchError(unknown_choice("method", method, plugins.names("methods")))
    shape = model if isinstance(model, ModelShape) else ModelShape(model)
    whole = shape.model
    base = sum(p.numel() for p in whole.parameters())
    if not plugins.load("methods", method).FIELDS:
        raise LorabenchError(
            f"method {method} has no rank: it trains {'all' if method == 'full' else 'none of the'} {base:,}"
            " parameters; allowed: lora and its variants"
        )
    shapes = linear_modules(whole)
    targets = resolve_targets(whole, target_modules)
    if unreached(whole):
        refuse_misread(whole, peft_targets(whole, targets))
    asked = MethodSpec(name=method, dropout=0.0, target_parameters=target_parameters)  # type: ignore[arg-type]  # checked by it
    if fault := target_parameters_fault(asked):
        raise LorabenchError(fault)
    stacks = resolve_parameters(whole, asked.target_parameters)
    sides = [shapes[name] for name in targets]
    sides += [(rows, columns) for experts, rows, columns in stacks.values() for _ in range(experts)]
    smallest = min(min(s) for s in sides)
    for rank in ranks:
        if not 1 <= rank <= smallest:
            raise LorabenchError(
                f"rank {rank} is not possible on these modules, whose smallest side is {smallest}; allowed: 1 to"
                f" {smallest}"
            )
    saved = plugins.load("methods", method).SAVED_RANKS
    extra = sum(n_out for _, n_out in sides) if method == "dora" else 0
    return tuple(Count(rank, rank * sum(n_in + n_out for n_in, n_out in sides) + extra, base, saved) for rank in ranks)


def unreached_of(setting: TrainConfig) -> Unreached | None:
    """What of a setting's model is neither quantized nor adapted, in the precision of its weights; None where that is
    next to nothing, or all of it is trained."""
    return None if plugins.load("methods", setting.method.name).TRAINS_BASE else _unreached(setting.shape)


@lru_cache(maxsize=32)
def _unreached(shape: ModelShape) -> Unreached | None:
    setting = TrainConfig(shape.spec, QuantizationSpec(), MethodSpec(), TrainingSpec(), "cuda", shape=shape)
    return shape.unreached(resolve_dtype(setting))
