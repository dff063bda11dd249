"""What a cell was predicted to need, before it ran: a plain value, stored beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lorabench.config.study import Cell
from lorabench.record.result import CellResult, Fault, Reading


@dataclass(frozen=True)
class MemoryPrediction:
    """The prediction of one cell."""

    train_peak_bytes: int
    """peak of live tensors in training: what the metric train_peak_bytes measures"""
    low_bytes: int
    """what the process still has to allocate on the device, by the residual error of the prediction"""
    high_bytes: int
    available_bytes: int
    """what it could allocate when this was predicted"""
    parts: Mapping[str, int] = field(default_factory=dict)
    """bytes of train_peak_bytes by what they are for (the categories of memory.tensor_tracker); empty where that is not
    known"""

    @property
    def fits(self) -> bool | None:
        """Whether the high end fits; None where only the low end does."""
        if self.high_bytes <= self.available_bytes:
            return True
        return None if self.low_bytes <= self.available_bytes else False

    @property
    def warning(self) -> str | None:
        """One sentence where the cell is not sure to fit."""
        if self.fits:
            return None
        may = "may not fit" if self.fits is None else "predicted not to fit"
        return (
            f"{may} into memory: {self.low_bytes / 1e9:.1f} to {self.high_bytes / 1e9:.1f} GB predicted,"
            f" {self.available_bytes / 1e9:.1f} GB free"
        )

    def sentence(self, total_bytes: int) -> str | None:
        """What is told of a cell that is not sure to fit before anything runs, its subject left to others; total_bytes
        is all that the device has."""
        if self.fits:
            return None
        fate = "may not fit" if self.fits is None else "would not fit"
        return (
            f"{fate} into memory: {self.low_bytes / 1e9:.1f} to {self.high_bytes / 1e9:.1f} GB predicted,"
            f" {self.available_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB are free; take a smaller"
            " training.batch_size with gradient_accumulation, or training.gradient_checkpointing; --skip-infeasible"
            " leaves out what would not fit"
        )

    def readings(self) -> tuple[Reading, ...]:
        """What is stored with the result."""
        parts = (Reading(metric=f"predicted_{part}_bytes", value=float(n)) for part, n in self.parts.items())
        return (Reading(metric="predicted_train_peak_bytes", value=float(self.train_peak_bytes)), *parts)

    def skipped(self, cell: Cell) -> CellResult:
        """The result of a cell that was not run since it would not fit."""
        fault = Fault(kind="Infeasible", message=str(self.warning))
        return CellResult(
            cell=cell,
            outcome="skipped",
            readings=self.readings(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            error=fault,
        )
