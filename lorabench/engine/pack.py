"""The cells of a pack: their steps are taken at once, everything else each does by itself, as if it had trained alone.

Readings of time and memory cannot be told apart within a pack. They come from PROBE_STEPS steps that each cell takes
alone before its trained weights are put in: tokens a second from the steps after the first, which warms up; training
seconds from these and the cell's tokens; on a GPU the peak of two steps over its longest rows. What the pack itself
took is pack_seconds, of all its cells.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lorabench.config.study import Cell
from lorabench.engine.batches import collate, largest_batch
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, Report, cuda_peaks, reading
from lorabench.engine.cell_load import load_untrained
from lorabench.engine.events import Event
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.model import device
from lorabench.engine.paces import tokens_per_second
from lorabench.engine.pack_checkpoint import PackCheckpoint, trained_before
from lorabench.engine.packed import PackedTraining, train_packed, unpackable
from lorabench.engine.packed_adapters import AdapterStart, attached
from lorabench.engine.train import Diverged, make_optimizer, take_step, train

CPU_TOKENS = {"none": (256, 1024), "int8": (512, 4096), "fp4": (512, 4096), "nf4": (512, 4096)}
"""by storage, of a cell's pass and of a pack's on a CPU at most. There a product's time grows with its rows, so that
only what is paid once for all of them is saved: operators' starts, and a layer's dequantization. benchmarks/pack.py,
8 adapters on tiny-4m, packed against one after the other: over float32 1.3 with 128 tokens each, 1.0 with 512; over
nf4 2.2, 1.5, and 0.86 with 2,048"""
PROBE_STEPS = 6  # alone: one to warm up and five to be timed
LEAST_RATIO = 1.3  # of what is packed by itself: the least of the above
LEAST_STEPS = math.ceil(PROBE_STEPS / (1 - 1 / LEAST_RATIO))  # with fewer a pack saves less than the probes take


def train_pack(
    cells: Sequence[Cell], report: Report = lambda event: None, kept: Path | None = None
) -> dict[str, PackedTraining]:
    """Trains the cells at once; by id what became of each. Empty, with a note, where the model cannot be packed.

    kept: the folder of packs that were killed, which this one goes on from and is written to.

    Any fault is the caller's, who then runs the cells one by one: a pack only ever saves time.
    """
    context = CellContext.of(cells[0], Path(os.devnull), ("train",), report, "")
    if context.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # as a cell alone
    loaded, _ = load_untrained(context)
    if (reason := unpackable(loaded.model)) is not None:
        report(Event(cells[0].id, "load", note=f"its cells train one by one: {reason}"))
        return {}
    context.clock.enter("train")
    starts = [_start(cell, loaded) for cell in cells]
    specs = [cell.training.over(len(loaded.data.train)) for cell in cells]
    pace = _Pace(cells, specs[0].steps, report)
    torch.manual_seed(cells[0].seed)
    done = train_packed(
        loaded.model,
        starts,
        loaded.data.train,
        specs,
        seeds=[cell.seed for cell in cells],
        layout=loaded.padded,
        where=context.device,
        autocast=context.autocast,
        on_step=pace.tell,
        loss_of=loaded.loss,
        checkpoint=None if kept is None else _checkpoint(cells, kept),
    )
    return {cell.id: training.on_host() for cell, training in zip(cells, done, strict=True)}


def _checkpoint(cells: Sequence[Cell], kept: Path) -> PackCheckpoint:
    return PackCheckpoint(kept, [cell.id for cell in cells], cells[0].training.checkpoint_every, device())


def learned_before(cell: Cell, kept: Path) -> dict[str, PackedTraining]:
    """By id what the cells of a pack learned in a run that was killed before all had their results; empty where this
    one's was not."""
    return trained_before(kept, cell.id, device())


def useful_cells(cell: Cell) -> int:
    """How many cells like this one gain by training at once on this machine; 1 where none do. By their settings alone,
    so that a study runs the same way each time."""
    training = cell.training
    if training.epochs is None and training.steps < LEAST_STEPS:
        return 1
    if device().type == "cuda":
        return sys.maxsize
    own, whole = CPU_TOKENS[cell.quantization.name]
    tokens = training.batch_size * training.sequence_length
    return whole // tokens if tokens <= own else 1


class _Pace:
    """Tells of a pack's steps under its first cell, which is the one that runs."""

    def __init__(self, cells: Sequence[Cell], steps: int, report: Report) -> None:
        self._cell, self._steps, self._report = cells[0].id, steps, report
        ids = tuple(cell.id for cell in cells)
        report(Event(self._cell, "train", note=f"trains in a pack of {len(cells)} cells", pack=ids))

    def tell(self, step: int, tokens: int, seconds: float) -> None:
        pace = tokens / seconds if seconds else None
        self._report(Event(self._cell, "train", step, self._steps, tokens_per_second=pace))


def _start(cell: Cell, loaded: LoadedCell) -> AdapterStart:
    """The adapter that the cell would begin with alone."""
    with attached(loaded.model, cell.method, cell.seed) as model:
        return AdapterStart.of(model, cell.seed)


def packed_training(context: CellContext, loaded: LoadedCell, done: PackedTraining) -> PhaseRun[None]:
    """In place of a cell's own steps: its readings, and what the pack learned put into its model. Diverged where it
    did."""
    if done.diverged is not None:
        raise done.diverged
    tokens = done.progress.tokens
    speed, peaks = _alone(context, loaded)
    done.learned.put(loaded.model)
    if speed is not None:
        yield from reading("train_seconds", tokens / speed)
        yield from reading("tokens_per_second", speed)
    yield from reading("pack_seconds", done.progress.seconds)
    yield from reading("pack_cells", done.cells)
    if peaks is not None:
        yield from cuda_peaks("train", peaks, loaded)


def _alone(context: CellContext, loaded: LoadedCell) -> tuple[float | None, PhaseMeter | None]:
    """Tokens a second of a few steps that the cell takes alone, and on a GPU their memory; changes its adapter."""
    cell, model, where = context.cell, loaded.model, context.device
    spec = cell.training.over(len(loaded.data.train))
    short = spec.model_copy(update={"steps": min(spec.steps, PROBE_STEPS)})
    meter = None
    if where.type == "cuda":
        rows = largest_batch(loaded.data.train, spec.batch_size)
        parameters = [p for p in model.parameters() if p.requires_grad]
        model.train()
        with PhaseMeter(where) as meter:
            optimizer = make_optimizer(parameters, spec)
            for _ in range(2):
                micro = [collate(rows, loaded.padded, where) for _ in range(spec.gradient_accumulation)]
                take_step(model, micro, parameters, optimizer, spec.max_grad_norm, context.autocast, loaded.loss)
    torch.manual_seed(cell.seed)
    try:
        done = train(
            model,
            loaded.data.train,
            short,
            seed=cell.seed,
            layout=loaded.layout,
            where=where,
            autocast=context.autocast,
            on_step=lambda step, tokens: None,
            loss_of=loaded.loss,
        )
    except Diverged:
        return None, meter
    return tokens_per_second(done.curve), meter
