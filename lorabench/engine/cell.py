"""One cell: load, train, save, evaluate, decompose, truncate, measure; or some of these again, from the weights that it
saved.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from lorabench.config.study import Cell
from lorabench.engine.cell_context import CellContext, Report
from lorabench.engine.cell_evaluate import Scorer, decompose, evaluate_cell, truncate
from lorabench.engine.cell_load import load, restore
from lorabench.engine.cell_measure import measure
from lorabench.engine.cell_record import CellRecord
from lorabench.engine.cell_train import kept_for_repetition, save_cell, train_cell
from lorabench.engine.packed import PackedTraining
from lorabench.engine.precision import refuse_other_dtype
from lorabench.engine.sharded import ShardedTraining
from lorabench.errors import ModelError
from lorabench.record.result import CellResult, Phase


def run_cell(
    cell: Cell,
    folder: Path,
    report: Report = lambda event: None,
    packed: PackedTraining | ShardedTraining | None = None,
) -> CellResult:
    """Runs a cell, writes its files into a folder and returns its result, whatever became of it.

    packed: what it learned in a pack, or on several GPUs, in place of its own steps.
    """
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    context = CellContext.of(cell, Path(folder), get_args(Phase), report, started_at, packed)
    return _recorded(context, CellRecord(context))


def repeat_cell(
    cell: Cell, folder: Path, before: CellResult, phases: Sequence[Phase], report: Report = lambda event: None
) -> CellResult:
    """Runs phases of a trained cell again, from the weights in its folder; returns its result with their readings in
    place of the former ones.

    The trained model is put together as training left it, so that the readings are those of a run which was never
    disturbed.
    ModelError is the result's error where the weights are not there, or where this machine would measure them in
    another dtype than they were measured in.
    """
    context = CellContext.of(cell, Path(folder), tuple(phases), report, before.started_at)
    record = CellRecord(context, before)
    try:
        refuse_other_dtype(cell, before)
    except ModelError as e:
        return record.ended_by(e)
    return _recorded(context, record)


def _recorded(context: CellContext, record: CellRecord) -> CellResult:
    """The result of a cell's phases, wherever they end."""
    if context.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # same seed, same machine: same numbers
    try:
        _run(context, record)
    except Exception as e:  # whatever it is, the cell has a result that names it, and other cells go on
        return record.ended_by(e)
    return record.finished()


def _run(context: CellContext, record: CellRecord) -> None:
    """The phases in their order, those that are wanted."""
    phases = context.phases
    loaded = record.run("load", load(context) if "train" in phases else restore(context))
    if "train" in phases:
        record.run("train", train_cell(context, loaded))
        record.run("save", save_cell(context, loaded))
        record.write_trained()
    scorer = Scorer(context, loaded)
    if "evaluate" in phases:
        with kept_for_repetition(context, loaded):
            record.run("evaluate", evaluate_cell(context, loaded, scorer, record.readings))
    if "decompose" in phases:
        record.run_analysis("decompose", decompose(context, loaded), kept_for_repetition(context, loaded))
    if "truncate" in phases:
        truncation = truncate(context, loaded, scorer, record.scores())
        record.run_analysis("truncate", truncation, kept_for_repetition(context, loaded))
    if "measure" in phases:  # last: its steps change the weights, which are not kept any more
        record.run_analysis("measure", measure(context, loaded))
