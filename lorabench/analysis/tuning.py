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
from lorabench.record.frames import wide
from lorabench.record.result import CellResult
from lorabench.record.tuned_rate import RateRecord, best_learning_rate

METRIC = "validation_loss"


@dataclass(frozen=True)
class Tried:
    """One rate of a condition's grid."""

    rate: float
    losses: tuple[float, ...]
    """validation loss of each finished cell"""
    broken: int
    """cells that ran and did not finish"""
    missing: int

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.losses)) if self.losses else None

    @property
    def ci_half_width(self) -> float | None:
        """Half-width of the mean's 95 % interval over seeds."""
        return half_of(self.losses)


@dataclass(frozen=True)
class Tuning:
    """How a condition came to its rate."""

    condition: str
    tried: tuple[Tried, ...]
    """by rising rate"""
    chosen: float | None
    """None where no cell finished"""

    @property
    def edge(self) -> bool:
        """Whether the chosen rate ends the grid, so that a better one may lie outside."""
        return self.chosen in (self.tried[0].rate, self.tried[-1].rate)


def tunings(groups: Sequence[Replicates], data: pd.DataFrame) -> tuple[Tuning, ...]:
    """A Tuning of each condition whose rate is tuned; `data` is record.wide(results)."""
    known = data.set_index("cell")
    outcome = known["outcome"].to_dict()
    loss = known[METRIC].dropna().astype("float64").to_dict() if METRIC in known else {}
    made = []
    for group in groups:
        grid = group.setting.tuned_over
        if not grid:
            continue
        tried = []
        for rate in grid:
            ids = [
                i for cell, i in zip(group.cells, group.ids, strict=True) if cell.training.fixed_learning_rate == rate
            ]
            losses = tuple(loss[i] for i in ids if outcome.get(i) == "finished" and i in loss)
            broken = sum(outcome.get(i) in ("diverged", "out_of_memory", "failed") for i in ids)
            tried.append(Tried(rate, losses, broken, len(ids) - len(losses) - broken))
        made.append(Tuning(group.condition, tuple(tried), _chosen(tried)))
    return tuple(made)


def _chosen(tried: Sequence[Tried]) -> float | None:
    if not any(t.losses for t in tried):
        return None
    return best_learning_rate({t.rate: RateRecord(t.losses, t.broken) for t in tried})


def chosen(planned: Sequence[Replicates], results: Mapping[str, CellResult]) -> dict[str, bool]:
    """Cell id to whether the cell is at its condition's chosen rate, for record.frames; a condition whose choice is
    open (a planned cell has no result, none finished) is left out."""
    tuned = [g for g in planned if g.setting.tuned_over and all(i in results for i in g.ids)]
    rates = {
        t.condition: t.chosen
        for t in tunings(tuned, wide(results[i] for g in tuned for i in g.ids))
        if t.chosen is not None
    }
    return {
        i: cell.training.fixed_learning_rate == rates[g.condition]
        for g in tuned
        if g.condition in rates
        for cell, i in zip(g.cells, g.ids, strict=True)
    }


def chosen_cells(groups: Sequence[Replicates], found: Sequence[Tuning]) -> tuple[Replicates, ...]:
    """The conditions with the cells at their chosen rates; one without a choice keeps all of its cells."""
    rates = {t.condition: t.chosen for t in found if t.chosen is not None}
    made = []
    for group in groups:
        rate = rates.get(group.condition)
        kept = [
            (c, i)
            for c, i in zip(group.cells, group.ids, strict=True)
            if rate is None or c.training.fixed_learning_rate == rate
        ]
        made.append(Replicates(group.condition, tuple(c for c, _ in kept), tuple(i for _, i in kept)))
    return tuple(made)
