"""Quantized conditions with given values, and their gaps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.conditions import replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.quantization_gap import TypeGap, quantization_gaps
from lorabench.analysis.verdict import Verdicts
from lorabench.config import Cell
from lorabench.config.settings import ComparisonSpec
from lorabench.record.items import Items

STUDY = """
schema: 1
name: gaps
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 40, learning_rate: 3e-3}
grid:
  method.rank: [1, 4]
  quantization: [none, int8, nf4, {name: nf4, double_quant: true}]
include:
  - {method: {name: full}, quantization: none}
  - {method: {name: base}, quantization: none}
  - {method: {name: base}, quantization: nf4}
seeds: [0, 1, 2]
"""
BYTES = {"none": 100.0, "int8": 26.0, "nf4": 14.0}


Value = Callable[[Cell], float | None]


def kind(c: Cell) -> str:
    return c.quantization.name + ("+" if c.quantization.double_quant else "")


def found(
    cells: tuple[Cell, ...],
    value: Value,
    metric: str = "eval_loss",
    items: dict[str, Items] | None = None,
    **rules: float,
) -> dict[str, TypeGap]:
    """The gaps of cells with these values, by type; None is a cell that diverged."""
    rows = [
        {
            "condition": c.condition_id,
            "seed": c.seed if c.training.steps else None,
            "cell": c.id,
            "outcome": "diverged" if (v := value(c)) is None else "finished",
            metric: v,
            "weight_bytes": BYTES[c.quantization.name] * (2 if c.model.name == "hub/large" else 1),
        }
        for c in cells
    ]
    data = pd.DataFrame(rows)
    data[metric] = data[metric].astype("float64")
    groups = replicates(cells)
    pairing = Pairing(data, lambda cell: {metric: items[cell]} if items else {})
    return {
        t.kind: t
        for t in quantization_gaps(groups, aggregate(groups, data), Verdicts(pairing, ComparisonSpec(**rules)), metric)
    }  # type: ignore[arg-type]


def noisy(seed: int, shift: dict[str, float], noise: float = 0.01) -> Value:
    """2 + a seed's own part + what the type costs + noise of the cell."""
    generator = np.random.default_rng(seed)
    seeds, cell = generator.normal(0, 0.1, 10), {}

    def value(c: Cell) -> float:
        own = cell.setdefault(c.id, generator.normal(0, noise))
        return float(2 + seeds[c.seed] + shift.get(kind(c), 0.0) + own)

    return value


def per_seed(cells: tuple[Cell, ...], value: Value, name: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    """By hand: the mean over ranks of the gap, for each seed."""
    known = {(c.method.rank, kind(c), c.seed): value(c) for c in cells if c.method.rank}
    return [float(np.mean([known[r, name, s] - known[r, "none", s] for r in (1, 4)])) for s in seeds]  # type: ignore[operator]
