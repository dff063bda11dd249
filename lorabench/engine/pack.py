"""The cells of a pack: their steps are taken at once, everything else each does by itself, as if it had trained alone.

Readings of time and memory cannot be told apart within a pack. They come from PROBE_STEPS steps that each cell takes
alone before its trained weights are put in: tokens a second from the steps after the first, which warms up; training
seconds from these and the cell's tokens; on a GPU the peak of two steps over its longest rows. What the pack itself
took is pack_seconds, of all its cells.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.batches import collate, largest_batch
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, Report, cuda_peaks, reading
from lorabench.engine.cell_load import load_untrained
from lorabench.engine.events import Event
from lorabench.engine.library_messages import quiet
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.model import device
from lorabench.engine.packed import PackedTraining, train_packed, unpackable
from lorabench.engine.packed_layers import AdapterStart, put
from lorabench.engine.train import Diverged, make_optimizer, take_step, train

CPU_TOKENS = 1024
"""of a pass on a CPU at most: there a product's time grows with its rows, so that only what is paid once for all of
them is saved (operators' starts, a layer's dequantization); benchmarks/packed.py, 8 adapters on tiny-4m: 1.3 over a
float32 base with 8 x 128 tokens, 1.0 with 8 x 512"""
PROBE_STEPS = 6  # alone: one to warm up and five to be timed; a tenth of what the shortest studies take


def train_pack(cells: Sequence[Cell], report: Report = lambda event: None) -> dict[str, PackedTraining]:
    """Trains the cells at once; by id what became of each. Empty, with a note, where the model cannot be packed.

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
    )
    return {cell.id: training.on_host() for cell, training in zip(cells, done, strict=True)}


def useful_cells(cell: Cell) -> int:
    """How many cells like this one gain by training at once on this machine."""
    if device().type == "cuda":
        return sys.maxsize
    return max(1, CPU_TOKENS // (cell.training.batch_size * cell.training.sequence_length))


class _Pace:
    """Tells of a pack's steps under its first cell, which is the one that runs."""

    def __init__(self, cells: Sequence[Cell], steps: int, report: Report) -> None:
        self._cell, self._steps, self._report = cells[0].id, steps, report
        report(Event(self._cell, "train", note=f"trains in a pack of {len(cells)} cells"))

    def tell(self, step: int, tokens: int, seconds: float) -> None:
        pace = tokens / seconds if seconds else None
        self._report(Event(self._cell, "train", step, self._steps, tokens_per_second=pace))


def _start(cell: Cell, loaded: LoadedCell) -> AdapterStart:
    """The adapter that the cell would begin with alone; the base is bare again afterwards."""
    targets = resolve_targets(loaded.model, cell.method.target_modules or "all-linear")
    torch.manual_seed(cell.seed)
    with quiet():
        method = plugins.load("methods", cell.method.name)
        model = method.attach(loaded.model, cell.method, peft_targets(loaded.model, targets))
        start = AdapterStart.of(model, cell.seed)
        model.unload()
    if hasattr(loaded.model, "peft_config"):
        del loaded.model.peft_config
    return start


def packed_training(context: CellContext, loaded: LoadedCell, done: PackedTraining) -> PhaseRun[None]:
    """In place of a cell's own steps: its readings, and what the pack learned put into its model. Diverged where it
    did."""
    if done.diverged is not None:
        raise done.diverged
    tokens = done.progress.tokens
    speed, peaks = _alone(context, loaded)
    put(loaded.model, done.factors)
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
    seen: list[int] = []
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
            on_step=lambda step, tokens: seen.append(tokens),
            loss_of=loaded.loss,
        )
    except Diverged:
        return None, meter
    if len(seen) == 1:
        return seen[0] / done.seconds, meter
    return (seen[-1] - seen[0]) / (done.curve[-1].seconds - done.curve[0].seconds), meter
