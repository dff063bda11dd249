"""What a cell is going to need, told on the machine that is to run it, before it runs.

    still to allocate  =  predicted peak of the step, with what the framework keeps, less the CUDA context
    available          =  free on the device + what this process holds empty

The context exists by then (asking for the free memory makes it), and is not free: so it is on neither side. The prediction stands beside
the measured peak in the results; it keeps a cell from running only where the user asked for that.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from functools import lru_cache

import torch

from lorabench.engine.data import task_data
from lorabench.engine.model import computes_in_bfloat16, device, load_tokenizer
from lorabench.memory.estimate import CONTEXT_BYTES, CUBLAS_BYTES, HIGH, LOW, with_framework
from lorabench.memory.host import free_host_bytes
from lorabench.memory.setting import DeviceKind, Setting, setting_of, traced_as
from lorabench.memory.step import Step, predict_step
from lorabench.record.foresight import Foresight
from lorabench.spec.study import Cell


def foresee(cell: Cell) -> Foresight | None:
    """The prediction of a cell's training; None where nothing is trained or nothing can be said (the reason goes to standard error, and no cell is lost)."""
    if not cell.training.steps:
        return None
    try:
        where = device()
        longest = max(len(e.ids) for e in task_data(cell, load_tokenizer(cell.model)).train)
        setting = setting_here(cell, where, longest)
        return compared(_step(traced_as(setting)), setting, available_bytes(where))
    except Exception:
        traceback.print_exc()
        return None


def setting_here(cell: Cell, where: torch.device, longest: int) -> Setting:
    """The setting of a cell on a device of this machine, as the engine resolves it there."""
    kind: DeviceKind = "cuda" if where.type == "cuda" else "cpu"
    return replace(setting_of(cell, kind, longest), bf16=computes_in_bfloat16(where))


def compared(step: Step, setting: Setting, available: int) -> Foresight:
    """What the step still has to allocate beside what is available, both without the CUDA context."""
    there = CONTEXT_BYTES if setting.device == "cuda" else 0
    peak = sum(with_framework(step, setting).values())
    return Foresight(step.peak_bytes, round(LOW * peak) - there, round(HIGH * peak) - there, available, step.parts)


def available_bytes(where: torch.device) -> int:
    """What this process can still allocate on a device; on the host for the CPU.

    What the caching allocator has reserved and no tensor holds can be used again, and so can cuBLAS' workspaces, which it holds from the
    first product on and which the prediction counts. Other tensors that are alive between cells stay.
    """
    if where.type != "cuda":
        return free_host_bytes()
    free, _ = torch.cuda.mem_get_info(where)
    kept = max(0, torch.cuda.memory_allocated(where) - CUBLAS_BYTES)
    return free + torch.cuda.memory_reserved(where) - kept


@lru_cache(maxsize=64)
def _step(setting: Setting) -> Step:
    return predict_step(setting)
