"""The values of all finished cells, paired by seed: whatever two conditions are compared, it is done here.

A condition without a seed (an untrained base) is one cell; two of those are compared item by item, and nothing is
left to repeat. Against a trained condition they make no pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from lorabench.analysis.difference import Difference, difference, item_errors
from lorabench.record.items import Items
from lorabench.record.metrics import metric as described
from lorabench.record.result import BROKEN

ItemsOf = Callable[[str], Mapping[str, Items]]
"""cell id to its items by metric"""
SEEDLESS = -1


@dataclass(frozen=True)
class _Reading:
    cell: str
    value: float
    stderr: float | None


class Pairing:
    """Differences between any two conditions; `data` is record.wide(results), `items` reads a cell's items."""

    def __init__(self, data: pd.DataFrame, items: ItemsOf = lambda cell: {}) -> None:
        self._data = data
        self._items = lru_cache(maxsize=None)(items)
        self._differences: dict[tuple[str, str, str], Difference | None] = {}
        self._tables: dict[str, dict[str, dict[int, _Reading]]] = {}

    def seeds(self, metric: str, condition: str) -> Mapping[int, float]:
        """Values of a condition's finished cells by seed; SEEDLESS where it has none."""
        return {s: r.value for s, r in self._table(metric).get(condition, {}).items()}

    def broken(self, condition: str) -> int:
        """Cells of a condition that ran and did not finish: those that did are survivors, which flatter it."""
        return self._broken.get(condition, 0)

    def difference(self, metric: str, left: str, right: str) -> Difference | None:
        """left - right over the seeds that both have; None where there is none."""
        key = (metric, left, right)
        if key not in self._differences:
            self._differences[key] = self._difference(metric, left, right)
        return self._differences[key]

    def _difference(self, metric: str, condition: str, reference: str) -> Difference | None:
        a, b = self._table(metric).get(condition, {}), self._table(metric).get(reference, {})
        shared = [s for s in a if s in b]
        if not shared:
            return None
        left, right = [a[s] for s in shared], [b[s] for s in shared]
        errors, count = (
            self._item_errors(metric, left, right)
            if len(shared) == 1 or described(metric).unit == "share"
            else (None, None)
        )
        return difference(np.array([r.value for r in left]), np.array([r.value for r in right]), errors, count)

    def _item_errors(
        self, metric: str, left: list[_Reading], right: list[_Reading]
    ) -> tuple[tuple[float, float] | None, int | None]:
        items = [[i for r in side if (i := self._items(r.cell).get(metric)) is not None] for side in (left, right)]
        if len(items[0]) == len(items[1]) == len(left):
            return item_errors(items[0], items[1]), len(items[0][0].sums)
        errors = [[r.stderr for r in side if r.stderr is not None] for side in (left, right)]
        if (
            len(errors[0]) == len(errors[1]) == len(left)
        ):  # results from before items were kept: as if unpaired, and the same items for every seed
            error = float(np.hypot(np.mean(errors[0]), np.mean(errors[1])))
            return ((error, error) if error else None), None
        return None, None

    def _table(self, metric: str) -> dict[str, dict[int, _Reading]]:
        if metric not in self._tables:
            self._tables[metric] = self._read(metric)
        return self._tables[metric]

    def _read(self, metric: str) -> dict[str, dict[int, _Reading]]:
        if metric not in self._finished:
            return {}
        present = self._finished[self._finished[metric].notna()]
        stderr = f"{metric}_stderr"
        errors = present[stderr].astype("float64") if stderr in present else pd.Series(np.nan, index=present.index)
        readings: dict[str, dict[int, _Reading]] = {}
        rows = zip(
            present["condition"].tolist(),
            present["seed"].tolist(),
            present["cell"].tolist(),
            present[metric].astype("float64").tolist(),
            errors.tolist(),
            strict=True,
        )
        for condition, seed, cell, value, error in rows:
            key = SEEDLESS if pd.isna(seed) else int(seed)
            readings.setdefault(condition, {})[key] = _Reading(
                str(cell), float(value), None if np.isnan(error) else float(error)
            )
        return readings

    @cached_property
    def _broken(self) -> Counter[str]:
        return Counter(self._data["condition"][self._data["outcome"].isin(BROKEN)].tolist())

    @cached_property
    def _finished(self) -> pd.DataFrame:
        return self._data[self._data["outcome"] == "finished"]
