"""A cell as trackers of experiments (trackio, wandb, mlflow) have it: a run with its settings, its curve and its final
readings.

Names are the study's and cells.csv's: method.rank, eval_loss, eval_loss_stderr; of the curve train/loss,
train/grad_norm, train/learning_rate.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorabench.config.fingerprint import flattened
from lorabench.config.imported import declared
from lorabench.config.study import Cell
from lorabench.record.result import CellResult

Setting = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """What is known of a cell before it runs."""

    cell: str
    """its id, which a tracker knows the run by"""
    name: str
    """what users call it: LoRA r=8 nf4, seed 0"""
    group: str
    """the words of its condition"""
    settings: Mapping[str, Setting]
    """by dotted name; absent where a setting does not apply"""


@dataclass(frozen=True)
class TrackedEnd:
    """What came of it."""

    outcome: str
    error: str | None
    values: Mapping[str, float]
    """final readings and their standard errors"""


class OpenRun(Protocol):
    """A run that a tracker is being told of."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimizer step, from 1."""

    def end(self, end: TrackedEnd) -> None:
        """The run is over and is to be kept."""


class Tracker(Protocol):
    """A place of a tracker where one study's cells are runs; a plug-in's `open_tracker(study)` opens it."""

    place: str
    """where they are and how they are looked at, in words"""

    def known(self) -> Collection[str]:
        """Ids of cells that are there, from beginning to end."""

    def begin(self, run: TrackedRun) -> OpenRun:
        """A new run."""


def tracked_run(study: str, cell: Cell, words: str) -> TrackedRun:
    """A cell of a study; words: what users call it, with its seed."""
    flat = {"study": study, "cell": cell.id, "condition": cell.condition_id, "seed": cell.seed}
    flat |= flattened(declared(cell.condition))
    told = {key: _plain(value) for key, value in flat.items() if value not in (None, (), [], "")}
    return TrackedRun(cell.id, words, words.removesuffix(f", seed {cell.seed}"), told)


def tracked_end(result: CellResult) -> TrackedEnd:
    """A cell's outcome and readings."""
    values = {}
    for reading in result.readings:
        values[reading.metric] = reading.value
        if reading.stderr is not None:
            values[f"{reading.metric}_stderr"] = reading.stderr
    return TrackedEnd(result.outcome, result.error.message if result.error else None, values)


def curve_steps(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps of a cell's curve.csv with their values; none where there is no such file. A value that is no finite
    number is absent, and what a damaged file says after its fault is left out."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                values = {
                    f"train/{name}": float(text)
                    for name, text in row.items()
                    if name != "step" and isinstance(text, str) and text and math.isfinite(float(text))
                }
                yield int(row["step"]), values
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return


def _plain(value: object) -> Setting:
    if isinstance(value, bool | int | float | str):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
