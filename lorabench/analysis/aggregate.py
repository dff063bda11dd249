"""From cells to conditions: mean and sample standard deviation over the finished replicates, and what became of the others.

A diverged or failed replicate has no value; it is counted, never averaged in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.labels import Label, labels
from lorabench.record.frame import SETTINGS


@dataclass(frozen=True)
class Statistic:
    """A metric over replicates."""

    mean: float
    std: float | None
    """sample standard deviation (n - 1), absent for one replicate"""
    n: int


@dataclass(frozen=True)
class Outcomes:
    """How many replicates of a condition ended in which way."""

    finished: int
    diverged: int
    out_of_memory: int
    failed: int
    missing: int
    """wanted by the study, not run yet"""

    @property
    def total(self) -> int:
        return self.finished + self.diverged + self.out_of_memory + self.failed + self.missing

    @property
    def broken(self) -> int:
        """Replicates that ran and did not finish."""
        return self.diverged + self.out_of_memory + self.failed


@dataclass(frozen=True)
class Summary:
    """A condition: one row of every table."""

    condition: str
    label: Label
    method: str
    cells: tuple[str, ...]
    """ids of all its cells, whatever became of them"""
    seeds: tuple[int, ...]
    outcomes: Outcomes
    statistics: Mapping[str, Statistic]
    """by metric; a metric that no finished replicate has is absent"""

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over finished replicates."""
        found = self.statistics.get(metric)
        return found.mean if found else None

    @property
    def comparable(self) -> bool:
        """Whether its mean may be called best: something was trained and no replicate broke (survivors alone flatter)."""
        return self.outcomes.finished > 0 and self.outcomes.broken == 0 and self.method != "base"


def metrics(data: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that record.wide's frame has values of, in its order."""
    other = {*SETTINGS, "error"}
    return tuple(str(c) for c in data.columns if c not in other and not str(c).endswith("_stderr") and bool(data[c].notna().any()))


def aggregate(groups: Sequence[Replicates], data: pd.DataFrame) -> tuple[Summary, ...]:
    """A Summary of each condition in the study's order; `data` is record.wide(results)."""
    names = labels(groups)
    present = metrics(data)
    by_condition = {str(c): rows for c, rows in data.groupby("condition", sort=False)}
    nothing = data.iloc[:0]
    return tuple(_summary(g, names[g.condition], by_condition.get(g.condition, nothing), present) for g in groups)


def _summary(group: Replicates, label: Label, rows: pd.DataFrame, present: Sequence[str]) -> Summary:
    counts = rows["outcome"].value_counts().to_dict()
    finished = rows[rows["outcome"] == "finished"]
    statistics = {m: s for m in present if (s := _statistic(finished[m]))}
    outcomes = Outcomes(
        finished=int(counts.get("finished", 0)),
        diverged=int(counts.get("diverged", 0)),
        out_of_memory=int(counts.get("out_of_memory", 0)),
        failed=int(counts.get("failed", 0)),
        missing=len(group.cells) - len(rows),
    )
    seeds = tuple(c.seed for c in group.cells) if group.trains else ()
    return Summary(group.condition, label, group.setting.method.name, group.ids, seeds, outcomes, MappingProxyType(statistics))


def _statistic(column: pd.Series) -> Statistic | None:
    values = column.dropna().astype("float64")
    if values.empty:
        return None
    return Statistic(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))
