"""What a cell is going to need, told on the machine that is to run it, before it runs.

    still to allocate  =  predicted peak of the step, with what the framework keeps, less the CUDA context
    available          =  free on the device + what this process holds empty

The context exists by then (asking for the free memory makes it), and is not free: so it is on neither side. The
prediction stands beside the measured peak in the results; it keeps a cell from running only where the user asked for
that.

`foretell` says the same of a whole study before its first cell, from few traces: of conditions that differ in batch,
rank and length alone the largest speaks for all where it fits. What needs more than CERTAIN times the memory that the
device has cannot be an error of the prediction. On a CPU it also says how many cells the host holds at a time:

    free bytes / (PROCESS_BYTES + BESIDE * predicted peak of the largest step), rounded down
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from lorabench.config.gpus import MeasuredCard
from lorabench.config.precision import DeviceKind
from lorabench.config.study import Cell
from lorabench.engine.batches import largest_batch
from lorabench.engine.data import task_data
from lorabench.engine.events import Foretold, Problem
from lorabench.engine.kept_base import kept_bytes
from lorabench.engine.model import computes_in_bfloat16, device, load_tokenizer
from lorabench.errors import LorabenchError
from lorabench.memory.disk import disk_bytes as disk_bytes  # served by the worker, as the functions below
from lorabench.memory.estimate import CONTEXT_BYTES, bounds, predicted, with_framework
from lorabench.memory.host import free_host_bytes, host_bytes
from lorabench.memory.interpolate import Reuse
from lorabench.memory.kernels import cublas_bytes
from lorabench.memory.sharding import Sharding
from lorabench.memory.shares import shares_of
from lorabench.memory.step_profile import StepProfile, predict_step
from lorabench.memory.train_config import TrainConfig, calibrated, setting_of, traced_as
from lorabench.record.card_calibration import calibrated_card
from lorabench.record.card_need import CardNeed
from lorabench.record.memory_prediction import MemoryPrediction

CERTAIN = 2  # times what the device has in all
PROCESS_BYTES = 10**9  # of a worker's libraries; 0.8 GB were measured
BESIDE = 1.5  # times a step's peak, for loading, data and evaluation: 0.9 to 1.1 were measured (SmolLM2-135M on SST-2)
MOST_CARDS = 8  # of one machine: what servers for training are sold with (models/gpus.yaml's SXM cards)


def foretell(cells: Sequence[Cell], calibrations: Path | None = None) -> Foretold:
    """Of cells that are to run here. A problem is fatal where not even the low end fits into CERTAIN times the device.

    `calibrations` is the folder of what lorabench calibrate measured on this machine, where that is to correct the
    prediction. Nothing is said where nothing can be predicted (the reason goes to standard error): the cells tell
    themselves.
    """
    try:
        where = device()
        free, whole = available_bytes(where), total_bytes(where)
        measured = measured_here(where, calibrations)
        here = {c.id: setting_here(c, where, *_largest(c)) for c in cells if c.training.steps}
        settings = {name: calibrated(traced_as(setting), measured) for name, setting in here.items()}
        needs, most = _needs(tuple(dict.fromkeys(settings.values())), free)
        problems = []
        for cell in cells:
            step = needs.get(settings[cell.id]) if cell.id in settings else None
            if step is not None:
                prediction = compared(step, settings[cell.id], free)
                if (words := prediction.sentence(whole)) is not None:
                    batch = (
                        f"a batch of {cell.training.batch_size:,} x {settings[cell.id].training.sequence_length:,}"
                        " tokens "
                    )
                    problems.append(
                        (
                            prediction.high_bytes,
                            Problem(
                                cell.id,
                                "training.batch_size",
                                batch + words,
                                prediction.low_bytes > CERTAIN * whole,
                                about_cell=True,
                            ),
                        )
                    )
        largest_first = tuple(problem for _, problem in sorted(problems, key=lambda pair: -pair[0]))
        trained = {(c.model.name, c.quantization.name) for c in cells if c.id in settings}
        known = where.type == "cpu" and all((c.model.name, c.quantization.name) in trained for c in cells)
        return Foretold(largest_first, max(1, int(free / (PROCESS_BYTES + BESIDE * most))) if known else 1)
    except Exception:
        traceback.print_exc()
        return Foretold()


def _needs(settings: Sequence[TrainConfig], free: int) -> tuple[dict[TrainConfig, StepProfile], int]:
    """The steps of settings that may not fit, a family whose largest fits left out; and the most bytes that any step
    needs."""
    families: dict[TrainConfig, list[TrainConfig]] = {}
    for setting in settings:
        method = setting.method if setting.method.rank is None else setting.method.model_copy(update={"rank": 0})
        families.setdefault(replace(setting.trained(batch_size=0, sequence_length=0), method=method), []).append(
            setting
        )
    close, needed = [], 0
    for members in families.values():
        most = members[0].trained(
            **{f: max(getattr(m.training, f) for m in members) for f in ("batch_size", "sequence_length")}
        )
        if most.method.rank is not None:
            most = replace(
                most, method=most.method.model_copy(update={"rank": max(m.method.rank or 0 for m in members)})
            )
        largest = compared(_step(most), most, free)
        needed = max(needed, largest.high_bytes)
        if not largest.fits:
            close += members
    reuse = Reuse()
    reuse.plan(close)
    return {setting: reuse.step(setting) for setting in close}, needed


def predict_memory(cell: Cell, calibrations: Path | None = None) -> MemoryPrediction | None:
    """The prediction of a cell's training, corrected as of foretell; None where nothing is trained or nothing can be
    said (the reason goes to standard error, and no cell is lost)."""
    if not cell.training.steps:
        return None
    try:
        where = device()
        measured = measured_here(where, calibrations)
        if measured is not None:
            print(measured.words)
        setting = calibrated(setting_here(cell, where, *_largest(cell)), measured)
        return compared(_step(traced_as(setting)), setting, available_bytes(where))
    except Exception:
        traceback.print_exc()
        return None


def card_needs(cells: Sequence[Cell], calibrations: Path | None = None) -> dict[str, CardNeed]:
    """By id what cells ask a card like this machine's for, by the high end of their predictions; of none on a CPU, nor
    where nothing can be predicted (the reason goes to standard error).

    A cell of full fine-tuning that one card does not hold gets the fewest cards (a power of two, MOST_CARDS at most)
    over which its sharded step fits.
    """
    where = device()
    if where.type != "cuda":
        return {}
    try:
        whole, measured = total_bytes(where), measured_here(where, calibrations)
        settings = {c.id: calibrated(setting_here(c, where, *_largest(c)), measured) for c in cells if c.training.steps}
        reuse = Reuse()
        reuse.plan(settings.values())
        return {name: _card_need(setting, reuse, whole) for name, setting in settings.items()}
    except Exception:
        traceback.print_exc()
        return {}


def _card_need(setting: TrainConfig, reuse: Reuse, whole: int) -> CardNeed:
    context = setting.context_bytes or CONTEXT_BYTES
    alone = predicted(setting, reuse)
    shared = alone.bytes.get("weights", 0) if setting.method.rank is not None else 0
    need = CardNeed(whole, context, shared, alone.high_bytes - context - shared)
    if need.bytes() <= whole or setting.method.name != "full":
        return need
    cards = 2
    while (
        cards < MOST_CARDS and predicted(setting, reuse, shares_of(setting, Sharding("fsdp", cards))).high_bytes > whole
    ):
        cards *= 2
    return replace(need, cards=cards)


def _largest(cell: Cell) -> tuple[int, int | None]:
    """Tokens of the longest training example, which some batch is padded to, and the labels of a batch of the longest,
    as the engine measures it; None where every position has one."""
    rows = largest_batch(task_data(cell, load_tokenizer(cell.model)).train, cell.training.batch_size)
    longest, labels = len(rows[0].ids), sum(int(row.predicted[1:].sum()) for row in rows)
    return longest, None if labels == len(rows) * (longest - 1) else labels


def setting_here(cell: Cell, where: torch.device, longest: int, labels: int | None = None) -> TrainConfig:
    """The setting of a cell on a device of this machine, as the engine resolves it there."""
    kind: DeviceKind = "cuda" if where.type == "cuda" else "cpu"
    return replace(
        setting_of(cell, kind, longest, labels=labels), bf16=computes_in_bfloat16(where), capability=capability(where)
    )


def measured_here(where: torch.device, calibrations: Path | None) -> MeasuredCard | None:
    """What a folder of calibrations says of a device of this machine; None where that is nothing, or cannot be read."""
    if calibrations is None:
        return None
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    try:
        return calibrated_card(name, calibrations).measured
    except LorabenchError as e:
        print(e, file=sys.stderr)
        return None


def compared(step: StepProfile, setting: TrainConfig, available: int) -> MemoryPrediction:
    """What the step still has to allocate beside what is available, both without the CUDA context."""
    there = (setting.context_bytes or CONTEXT_BYTES) if setting.device == "cuda" else 0
    peak = sum(with_framework(step, setting).values())
    low, high = bounds(peak, setting)
    return MemoryPrediction(step.peak_bytes, low - there, high - there, available, step.parts)


def available_bytes(where: torch.device) -> int:
    """What this process can still allocate on a device; on the host for the CPU.

    What the caching allocator has reserved and no tensor holds can be used again, and so can cuBLAS' workspaces, which
    it holds from the first product on and which the prediction counts; so are the weights of a kept base, which the
    next cell computes with or gives up. Other tensors that are alive between cells stay.
    """
    if where.type != "cuda":
        return free_host_bytes() + kept_bytes(where)
    free, _ = torch.cuda.mem_get_info(where)
    live_bytes = max(0, torch.cuda.memory_allocated(where) - cublas_bytes(capability(where)))
    return free + torch.cuda.memory_reserved(where) - live_bytes + kept_bytes(where)


def capability(where: torch.device) -> int:
    """The major compute capability of a card; 8 stands for all others."""
    return torch.cuda.get_device_capability(where)[0] if where.type == "cuda" and torch.cuda.is_available() else 8


def total_bytes(where: torch.device) -> int:
    """What a device has in all; the host for the CPU."""
    return int(torch.cuda.get_device_properties(where).total_memory) if where.type == "cuda" else host_bytes()


@lru_cache(maxsize=64)
def _step(setting: TrainConfig) -> StepProfile:
    return predict_step(setting)
