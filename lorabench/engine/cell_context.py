"""What every phase of a cell knows; it does not change while the cell runs. What a phase makes, it hands on.

A phase is a generator: it yields each reading when it is known, so that those before a fault are kept, and returns what
later phases need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.config.validity import takes_quantized_base
from lorabench.engine.batches import Layout
from lorabench.engine.data import TaskData
from lorabench.engine.distill import Teacher
from lorabench.engine.domain import Domain
from lorabench.engine.events import Event
from lorabench.engine.loss import LOSSES, Loss
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.model import device, resolve_autocast
from lorabench.engine.packed import PackedTraining
from lorabench.engine.phase_clock import PhaseClock
from lorabench.engine.train import CausalModel
from lorabench.engine.weight_deltas import Factors
from lorabench.record.result import Phase, Reading, Resolved

if TYPE_CHECKING:
    from lorabench.engine.sharded import ShardedTraining

Report = Callable[[Event], None]
Returned = TypeVar("Returned")
PhaseRun = Generator[Reading | Resolved, None, Returned]
"""a phase under way: it yields what is to be recorded and returns what later phases need"""


@dataclass(frozen=True)
class CellContext:
    """One cell, where its files go, and what it runs on."""

    cell: Cell
    folder: Path
    phases: tuple[Phase, ...]
    """the phases to be run, after loading"""
    report: Report
    started_at: str
    """UTC, ISO 8601"""
    clock: PhaseClock
    device: torch.device
    autocast: torch.dtype | None
    """of mixed precision in training"""
    packed: PackedTraining | ShardedTraining | None = None
    """what the cell learned in a pack, or on several GPUs, which takes the place of its own steps"""

    @classmethod
    def of(
        cls,
        cell: Cell,
        folder: Path,
        phases: tuple[Phase, ...],
        report: Report,
        started_at: str,
        packed: PackedTraining | ShardedTraining | None = None,
    ) -> CellContext:
        """On this machine's device."""
        where = device()
        autocast = resolve_autocast(cell, where)
        return cls(cell, folder, phases, report, started_at, PhaseClock(cell.id, report), where, autocast, packed)

    @property
    def base_survives(self) -> bool:
        """Whether the base can be had back from the trained model by switching its adapters off: not in full, not in
        pissa.
        """
        name = self.cell.method.name  # what cannot have a quantized base is what changes it
        return plugins.load("methods", name).TRAINS and takes_quantized_base(name)


@dataclass(frozen=True)
class LoadedCell:
    """A base with its method attached, its data, and what is needed to say later what it learned."""

    model: CausalModel
    start: Factors
    """A and B before the first step, of adapters that begin from the base (pissa)"""
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    teacher: Teacher | None
    domain: Domain | None
    """text of the base and the base's loss on it, where the base is gone once its method is attached"""

    form: str = "labelled"
    """of the loss, as training.loss has it"""
    end_to_end: int | None = None
    """the hidden size where rows are laid end to end in training"""
    by_rows: bool = False
    """whether their attention is computed row by row"""

    @property
    def padding(self) -> int:
        """The token that fills rows."""
        return int(self.tokenizer.pad_token_id)

    @property
    def loss(self) -> Loss:
        """What training minimises."""
        return self.teacher.divergence if self.teacher is not None else LOSSES[self.form]

    @property
    def padded(self) -> Layout:
        """How the rows of a padded batch lie in training."""
        return Layout(self.padding, labelled=self.form != "full")

    @property
    def layout(self) -> Layout:
        """How rows lie in training."""
        return replace(self.padded, end_to_end=self.end_to_end, by_rows=self.by_rows)


def reading(metric: str, value: float) -> Iterator[Reading]:
    """A reading, or none where the value is not finite."""
    if math.isfinite(value):
        yield Reading(metric=metric, value=value)


def cuda_peaks(phase: str, meter: PhaseMeter, loaded: LoadedCell) -> Iterator[Reading]:
    """A phase's memory peaks on a GPU; none beside a teacher, which is no part of fine-tuning."""
    if meter.peak_bytes is not None and meter.reserved_bytes is not None and loaded.teacher is None:
        yield from reading(f"{phase}_peak_bytes", meter.peak_bytes)
        yield from reading(f"{phase}_reserved_bytes", meter.reserved_bytes)
