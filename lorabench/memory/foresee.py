"""What a cell is going to need, told on the machine that is to run it, before it runs.

The prediction stands beside the measured peak in the results; it keeps a cell from running only where the user asked for that.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import torch

from lorabench.engine.data import task_data
from lorabench.engine.model import device, load_tokenizer
from lorabench.memory.estimate import HIGH, LOW, with_framework
from lorabench.memory.setting import DeviceKind, Setting, setting_of
from lorabench.memory.step import Step, predict_step
from lorabench.record.result import CellResult, Fault, Reading
from lorabench.spec.study import Cell


@dataclass(frozen=True)
class Foresight:
    """The prediction of one cell."""

    train_peak_bytes: int
    """peak of live tensors in training: what the metric train_peak_bytes measures"""
    low_bytes: int
    """of the whole process on the device, by the residual error of the prediction"""
    high_bytes: int
    available_bytes: int
    """free on the device when this was predicted"""

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
        return f"{may} into memory: {self.low_bytes / 1e9:.1f} to {self.high_bytes / 1e9:.1f} GB predicted, {self.available_bytes / 1e9:.1f} GB free"

    def readings(self) -> tuple[Reading, ...]:
        """What is stored with the result."""
        return (Reading(metric="predicted_train_peak_bytes", value=float(self.train_peak_bytes)),)

    def skipped(self, cell: Cell) -> CellResult:
        """The result of a cell that was not run since it would not fit."""
        fault = Fault(kind="Infeasible", message=str(self.warning))
        return CellResult(cell=cell, outcome="skipped", readings=self.readings(), started_at=datetime.now(UTC).isoformat(timespec="seconds"), error=fault)


def foresee(cell: Cell) -> Foresight | None:
    """The prediction of a cell's training; None where nothing is trained or nothing can be said (the reason goes to standard error, and no cell is lost)."""
    if not cell.training.steps:
        return None
    try:
        where = device()
        kind: DeviceKind = "cuda" if where.type == "cuda" else "cpu"
        longest = max(len(e.ids) for e in task_data(cell, load_tokenizer(cell.model)).train)
        setting = setting_of(cell, kind, longest)
        step = _step(setting)
        peak = sum(with_framework(step, setting).values())
        return Foresight(step.peak_bytes, round(LOW * peak), round(HIGH * peak), available_bytes(where))
    except Exception:
        traceback.print_exc()
        return None


def available_bytes(where: torch.device) -> int:
    """Free memory of a device; of the host for the CPU."""
    if where.type == "cuda":
        free, _ = torch.cuda.mem_get_info(where)
        return free + torch.cuda.memory_reserved(where)  # what this process holds empty it can use again
    import psutil

    return int(psutil.virtual_memory().available)


@lru_cache(maxsize=64)
def _step(setting: Setting) -> Step:
    return predict_step(setting)
