"""The phases of a cell that train and save: the steps, timed alone, and what they left, on disk before anything else
can go wrong.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path

import torch

from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, cuda_peaks, reading
from lorabench.engine.cell_measure import is_measured
from lorabench.engine.checkpoint import Checkpoints, TrainingProgress
from lorabench.engine.domain import is_kept
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.outlook import Ahead, outlook
from lorabench.engine.paces import paces
from lorabench.engine.pack import packed_training
from lorabench.engine.saved import START, save_adapter, save_model
from lorabench.engine.sharded import ShardedTraining, sharded_training
from lorabench.engine.train import Diverged, StepRecord, train
from lorabench.engine.weight_deltas import base_cache
from lorabench.record.cell_files import MODEL
from lorabench.record.result import Reading


def train_cell(context: CellContext, loaded: LoadedCell) -> PhaseRun[None]:
    """Takes the steps that no checkpoint has; curve.csv holds those that were taken, whatever ends them. Diverged where
    a loss is not finite.
    """
    cell, spec = context.cell, context.cell.training.over(len(loaded.data.train))
    steps = spec.steps
    if not steps:
        return
    context.clock.enter("train", ahead=_ahead(context, loaded))
    if loaded.start:  # pissa: its start is part of what is saved
        loaded.model.save_pretrained(context.folder / START)
    if context.packed is not None:
        _write_curve(context.folder, context.packed.progress.curve)
        if isinstance(context.packed, ShardedTraining):
            yield from sharded_training(loaded, context.packed)
        else:
            yield from packed_training(context, loaded, context.packed)
        yield from _learning(context.packed.progress, steps)
        return
    torch.manual_seed(cell.seed)  # dropout draws the same, however much attaching drew
    checkpoints = Checkpoints(
        context.folder, cell.id, cell.training.checkpoint_every, steps, context.device, context.report
    )
    try:
        with PhaseMeter(context.device) as meter:
            done = train(
                loaded.model,
                loaded.data.train,
                spec,
                seed=cell.seed,
                layout=loaded.layout,
                where=context.device,
                autocast=context.autocast,
                on_step=lambda step, tokens: context.clock.step_taken(step, steps, tokens),
                checkpoints=checkpoints,
                loss_of=loaded.loss,
            )
    finally:
        _write_curve(context.folder, checkpoints.progress.curve)
    checkpoints.peaks(meter)
    yield from reading("train_seconds", done.seconds)
    yield from paces(done.curve)
    yield from _learning(done, steps)
    yield from cuda_peaks("train", meter, loaded)


def _learning(done: TrainingProgress, steps: int) -> Iterator[Reading]:
    """What the steps saw and where their loss ended."""
    last = done.curve[-max(1, steps // 10) :]
    yield from reading("train_tokens", done.tokens)
    yield from reading("padding_percent", 100 * (1 - done.tokens / done.positions))
    yield from reading("train_loss", math.fsum(s.loss for s in last) / len(last))


def save_cell(context: CellContext, loaded: LoadedCell) -> PhaseRun[None]:
    """The adapter, and whole weights where they are to be kept."""
    context.clock.enter("save")
    cell = context.cell
    if not cell.training.steps:
        return
    if cell.method.target_modules is None and cell.save.full != "none":
        save_model(loaded.model, loaded.tokenizer, context.folder)
    yield from reading("adapter_bytes", save_adapter(loaded.model, context.folder))


@contextlib.contextmanager
def kept_for_repetition(context: CellContext, loaded: LoadedCell) -> Iterator[None]:
    """Where a later phase fails, a fully fine-tuned model is written, of which nothing else would be left: the phase
    can then be repeated.

    Not one that diverged, whose weights are of no use.
    """
    try:
        yield
    except Diverged:
        raise
    except Exception:
        if context.cell.training.steps and not hasattr(loaded.model, "peft_config"):
            with contextlib.suppress(
                Exception
            ):  # no room on the disk either: the fault that led here is the one to tell
                if not (context.folder / MODEL).is_dir():
                    save_model(loaded.model, loaded.tokenizer, context.folder)
        raise


def _ahead(context: CellContext, loaded: LoadedCell) -> Ahead:
    """What comes after the steps and how long it should take."""
    cell, model = context.cell, loaded.model
    samples = context.base_survives and not is_kept(cell, model.get_base_model(), context.device)
    base_is_known = base_cache(cell, context.folder).is_known
    return outlook(cell, loaded.data, model, samples, base_is_known, is_measured(context, loaded))


def _write_curve(folder: Path, curve: Sequence[StepRecord]) -> None:
    if curve:
        with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(f.name for f in fields(StepRecord))
            writer.writerows(astuple(s) for s in curve)
