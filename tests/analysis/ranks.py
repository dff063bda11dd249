"""Cells of one study of six ranks, and the rank curves of values that a test gives them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.conditions import replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.rank_curve import RankCurve, rank_curves
from lorabench.analysis.verdict import Verdicts
from lorabench.config import Cell
from lorabench.config.settings import ComparisonSpec

RANKS = (1, 2, 4, 8, 16, 32)
STUDY = """
schema: 1
name: ranks
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 40, learning_rate: 3e-3}
grid:
  method.rank: [1, 2, 4, 8, 16, 32]
seeds: [0, 1, 2]
"""


def curves_of(
    cells: tuple[Cell, ...], value: Callable[[Cell], float | None], metric: str = "eval_loss", **rules: float
) -> tuple[RankCurve, ...]:
    """The curves of cells with these values; None is a cell that diverged."""
    rows = [
        {
            "condition": c.condition_id,
            "seed": c.seed,
            "cell": c.id,
            "outcome": "diverged" if (v := value(c)) is None else "finished",
            metric: v,
        }
        for c in cells
    ]
    data = pd.DataFrame(rows)
    data[metric] = data[metric].astype("float64")
    groups = replicates(cells)
    return rank_curves(groups, aggregate(groups, data), Verdicts(Pairing(data), ComparisonSpec(**rules)), metric)  # type: ignore[arg-type]
