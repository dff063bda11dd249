"""Which learning rate each condition gets: the one of lowest mean validation loss over its seeds.

    chosen = argmin over rates of mean_s validation_loss(rate, seed s)      one rate for all seeds

Everything that is reported of the condition comes from its cells at that rate, on the test split, which took no part
in the choice. A rate of which a cell broke is not chosen while another is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.intervals import half_of
from lorabench.record.result import CellResult
from lorabench.record.tuned_rate import RateRecord, best_learning_rate

METRIC = "validation_loss"


@dataclass(frozen=True)
class LearningRateResult:
    """One rate of a condition's grid."""

    learning_rate: float
    losses: tuple[float, ...]
    """validation loss of each finished cell"""
    broken: int
    """cells that ran and did not finish"""
    missing: int

    @property
    def mean(self) -> float | None:
        """Mean validation loss over seeds, in nats; None where no cell finished."""
        return float(np.mean(self.losses)) if self.losses else None

    @property
    def ci_half_width(self) -> float | None:
        """Half-width of the mean's 95 % interval over seeds."""
        return half_of(self.losses)


@dataclass(frozen=True)
class Tuning:
    """How a condition came to its rate."""

    condition: str
    results: tuple[LearningRateResult, ...]
    """by rising rate"""
    chosen: float | None
    """None where no cell finished"""

    @property
    def edge(self) -> bool:
        """Whether the chosen rate ends the grid, so that a better one may lie outside."""
        return self.chosen in (self.results[0].learning_rate, self.results[-1].learning_rate)


def tunings(groups: Sequence[Replicates], data: pd.DataFrame) -> tuple[Tuning, ...]:
    """A Tuning of each condition whose rate is tuned; `data` is record.wide(results)."""
    by_cell = data.set_index("cell")
    outcome = by_cell["outcome"].to_dict()
    loss = by_cell[METRIC].dropna().astype("float64").to_dict() if METRIC in by_cell else {}
    rows = []
    for group in groups:
        grid = group.setting.tuned_over
        if not grid:
            continue
        results = []
        for learning_rate in grid:
            ids = [
                i
                for cell, i in zip(group.cells, group.ids, strict=True)
                if cell.training.fixed_learning_rate == learning_rate
            ]
            losses = tuple(loss[i] for i in ids if outcome.get(i) == "finished" and i in loss)
            broken = sum(outcome.get(i) in ("diverged", "out_of_memory", "failed") for i in ids)
            results.append(LearningRateResult(learning_rate, losses, broken, len(ids) - len(losses) - broken))
        rows.append(Tuning(group.condition, tuple(results), _chosen(results)))
    return tuple(rows)


def _chosen(results: Sequence[LearningRateResult]) -> float | None:
    if not any(t.losses for t in results):
        return None
    return best_learning_rate({t.learning_rate: RateRecord(t.losses, t.broken) for t in results})


def chosen(
    planned: Sequence[Replicates], results: Mapping[str, CellResult], tuned: Sequence[Tuning]
) -> dict[str, bool]:
    """Cell id to whether the cell is at its condition's chosen rate, for record.frames; a condition whose choice is
    open (a planned cell has no result, none finished) is left out."""
    learning_rates = {t.condition: t.chosen for t in tuned if t.chosen is not None}
    return {
        i: cell.training.fixed_learning_rate == learning_rates[g.condition]
        for g in planned
        if g.condition in learning_rates and all(i in results for i in g.ids)
        for cell, i in zip(g.cells, g.ids, strict=True)
    }


def chosen_cells(groups: Sequence[Replicates], tuned: Sequence[Tuning]) -> tuple[Replicates, ...]:
    """The conditions with the cells at their chosen rates; one without a choice keeps all of its cells."""
    learning_rates = {t.condition: t.chosen for t in tuned if t.chosen is not None}
    rows = []
    for group in groups:
        learning_rate = learning_rates.get(group.condition)
        members = [
            (c, i)
            for c, i in zip(group.cells, group.ids, strict=True)
            if learning_rate is None or c.training.fixed_learning_rate == learning_rate
        ]
        rows.append(Replicates(group.condition, tuple(c for c, _ in members), tuple(i for _, i in members)))
    return tuple(rows)
