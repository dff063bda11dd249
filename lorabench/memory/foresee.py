"""What a cell is going to need, told on the machine that is to run it, before it runs.

The prediction stands beside the measured peak in the results; it keeps a cell from running only where the user asked for that.
"""

from __future__ import annotations

import traceback
from functools import lru_cache

import torch

from lorabench.engine.data import task_data
from lorabench.engine.model import device, load_tokenizer
from lorabench.memory.estimate import HIGH, LOW, with_framework
from lorabench.memory.setting import DeviceKind, Setting, setting_of
from lorabench.memory.step import Step, predict_step
from lorabench.record.foresight import Foresight
from lorabench.spec.study import Cell


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
        return Foresight(step.peak_bytes, round(LOW * peak), round(HIGH * peak), available_bytes(where), step.parts)
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
