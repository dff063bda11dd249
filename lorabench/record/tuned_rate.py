"""Which learning rate a condition is reported at, by what its cells at each rate came to: one rule for the runner and
for analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RateRecord:
    """What the cells at one learning rate came to."""

    losses: Sequence[float]
    """validation loss of each finished cell"""
    broken: int
    """cells that ran and did not finish"""


def best_learning_rate(records: Mapping[float, RateRecord]) -> float:
    """The learning rate with most finished cells; among equals that with fewest broken cells, then with the lowest mean
    validation loss, then the lower one.

    Fewer seeds, or survivors alone, are no fair mean. `records` has at least one learning rate.
    """

    def key(learning_rate: float) -> tuple[float, ...]:
        record = records[learning_rate]
        mean = float(np.mean(record.losses)) if record.losses else math.inf
        return -len(record.losses), record.broken, mean, learning_rate

    return min(records, key=key)
