"""The phase of a cell that measures its memory on a CPU: the peak of live tensors in one evaluation batch and in two
training steps, each over the longest rows.

It takes as long as several steps, and hangs on shapes alone: cells of one condition, which differ in seed and learning
rate, have the same peaks to the byte, and a process measures them once. Over int8 and with experts, activations decide
how many columns and rows are computed by themselves, so that there each cell measures its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from lorabench.engine.batches import Layout, collate, largest_batch
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, reading
from lorabench.engine.data import Example
from lorabench.engine.experts import has_experts
from lorabench.engine.loss import token_loss
from lorabench.engine.measure import LiveBytes, held_tensors
from lorabench.engine.precision import evaluated
from lorabench.engine.train import peak_of_two_steps
from lorabench.record.result import Reading

METRICS = {"evaluate": "eval_peak_bytes", "train": "train_peak_bytes"}
_PEAKS: dict[tuple[object, ...], int] = {}
"""bytes, by phase, condition and rows"""


def measure(context: CellContext, loaded: LoadedCell) -> PhaseRun[None]:
    """Last of a cell's phases, since the steps change weights; nothing on a GPU, whose allocator tells each peak."""
    if context.device.type == "cuda":
        return
    context.clock.enter("measure")
    training, evaluation = context.cell.training, context.cell.evaluation
    tested = loaded.data.test[: evaluation.max_sequences]
    longest = largest_batch(tested, min(evaluation.batch_size, len(tested)))
    yield from _once("evaluate", context, loaded, longest, _evaluation_peak)
    if training.steps:
        rows = largest_batch(loaded.data.train, training.batch_size)
        yield from _once("train", context, loaded, rows, _training_peak)


def is_measured(context: CellContext, loaded: LoadedCell) -> bool:
    """Whether the peaks of a cell's condition are known, so that this phase takes no time."""
    if not _PEAKS or not _is_shared(loaded):
        return False
    return _key("train", context, largest_batch(loaded.data.train, context.cell.training.batch_size)) in _PEAKS


def _once(
    phase: str,
    context: CellContext,
    loaded: LoadedCell,
    rows: Sequence[Example],
    measured: Callable[[CellContext, LoadedCell, Sequence[Example]], int | None],
) -> Iterator[Reading]:
    """The reading of a phase, none where no whole step could be taken."""
    key, shared = _key(phase, context, rows), _is_shared(loaded)
    peak = _PEAKS.get(key) if shared else None
    if peak is None:
        peak = measured(context, loaded, rows)
    if peak is not None:
        if shared:
            _PEAKS[key] = peak
        yield from reading(METRICS[phase], peak)


def _is_shared(loaded: LoadedCell) -> bool:
    return not has_experts(loaded.model.config.get_text_config())


def _key(phase: str, context: CellContext, rows: Sequence[Example]) -> tuple[object, ...]:
    shapes = tuple((len(row.ids), int(row.predicted.sum())) for row in rows)
    return phase, context.cell.measured_as, shapes


def _evaluation_peak(context: CellContext, loaded: LoadedCell, rows: Sequence[Example]) -> int:
    model, batch = loaded.model, collate(rows, Layout(loaded.padding), context.device)
    with evaluated(model, context.cell) as wide, torch.no_grad(), LiveBytes([*held_tensors(model), *wide]) as live:
        token_loss(model, batch, "none")
    return live.peak


def _training_peak(context: CellContext, loaded: LoadedCell, rows: Sequence[Example]) -> int | None:
    spec = context.cell.training
    micro = [collate(rows, loaded.padded, context.device) for _ in range(spec.gradient_accumulation)]
    return peak_of_two_steps(loaded.model, micro, spec, context.autocast, loaded.loss)
