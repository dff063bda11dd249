"""From cells to conditions: mean, spread and interval over the finished replicates, and what became of the others.

    interval = mean -+ t(0.975, n-1) * std / sqrt(n)      over seeds
             = value -+ 1.96 * standard error             over items, for one replicate of a metric that is a mean of
                                                          items (analysis.intervals: of few items, and of shares near 0
                                                          or 1, wider)

A diverged or failed replicate has no value; it is counted, never averaged in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.intervals import half_over_items, half_over_seeds
from lorabench.analysis.labels import labels
from lorabench.config.condition_labels import Label
from lorabench.record.frames import SETTINGS
from lorabench.record.metrics import metric as described
from lorabench.record.result import BROKEN, CellResult


@dataclass(frozen=True)
class Statistic:
    """A metric over replicates."""

    mean: float
    std: float | None
    """sample standard deviation (n - 1), absent for one replicate"""
    n: int
    ci_half_width: float | None = None
    """half-width of the 95 % interval; absent where no noise is known"""


@dataclass(frozen=True)
class Outcomes:
    """How many replicates of a condition ended in which way."""

    finished: int
    diverged: int
    out_of_memory: int
    failed: int
    skipped: int
    """not run, since predicted not to fit"""
    missing: int
    """wanted by the study, not run yet"""

    @property
    def total(self) -> int:
        """All replicates, whatever became of them."""
        return self.finished + self.diverged + self.out_of_memory + self.failed + self.skipped + self.missing

    @property
    def broken(self) -> int:
        """Replicates that ran and did not finish."""
        return sum(getattr(self, outcome) for outcome in BROKEN)


@dataclass(frozen=True)
class ConditionSummary:
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
        statistic = self.statistics.get(metric)
        return statistic.mean if statistic else None

    @property
    def comparable(self) -> bool:
        """Whether its mean may be called best: something was trained and no replicate broke (survivors alone
        flatter)."""
        return self.outcomes.finished > 0 and self.outcomes.broken == 0 and self.method != "base"


def metrics(data: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that record.wide's frame has values of, in its order."""
    other = {*SETTINGS, "error"}
    return tuple(
        str(c)
        for c in data.columns
        if c not in other and not str(c).endswith("_stderr") and bool(data[c].notna().any())
    )


def aggregate(
    groups: Sequence[Replicates], data: pd.DataFrame, results: Mapping[str, CellResult] = MappingProxyType({})
) -> tuple[ConditionSummary, ...]:
    """A Summary of each condition in the study's order; `data` is record.wide(results), `results` tell how many items a
    single cell's value is over."""
    names = labels(groups)
    statistics = _statistics(data, results)
    counts = Counter(zip(data["condition"].tolist(), data["outcome"].tolist(), strict=True))
    rows = []
    for group in groups:
        c = group.condition
        ended = {o: counts[c, o] for o in ("finished", "diverged", "out_of_memory", "failed", "skipped")}
        outcomes = Outcomes(**ended, missing=len(group.cells) - sum(ended.values()))
        seeds = tuple(cell.seed for cell in group.cells) if group.trains else ()
        own = MappingProxyType(statistics.get(c, {}))
        rows.append(ConditionSummary(c, names[c], group.setting.method.name, group.ids, seeds, outcomes, own))
    return tuple(rows)


def _statistics(data: pd.DataFrame, results: Mapping[str, CellResult]) -> dict[str, dict[str, Statistic]]:
    """Condition to metric to Statistic, over finished replicates."""
    finished = data[data["outcome"] == "finished"]
    cell_of = dict(
        zip(finished["condition"].tolist(), finished["cell"].tolist(), strict=True)
    )  # the only one, where it is asked for
    by_condition: dict[str, dict[str, Statistic]] = {}
    for metric in metrics(data):
        grouped = finished[metric].astype("float64").groupby(finished["condition"], sort=False)
        means, stds, numbers = grouped.mean(), grouped.std(ddof=1), grouped.count()
        errors = (
            finished[f"{metric}_stderr"].astype("float64").groupby(finished["condition"], sort=False).mean()
            if f"{metric}_stderr" in finished
            else stds * math.nan
        )
        columns = (means.index.tolist(), means.tolist(), stds.tolist(), numbers.tolist(), errors.tolist())
        for condition, mean, std, n, stderr in zip(*columns, strict=True):
            if n:
                spread, error = std if std == std else None, stderr if stderr == stderr else None  # without NaN
                ci_half_width = half_over_seeds(mean, spread, n)
                if n == 1 and error is not None:
                    ci_half_width = half_over_items(
                        mean,
                        error,
                        items_behind(results.get(cell_of[condition]), metric),
                        described(metric).unit == "share",
                    )
                by_condition.setdefault(condition, {})[metric] = Statistic(mean, spread, n, ci_half_width)
    return by_condition


_OVER_SEQUENCES = ("eval_loss", "perplexity", "bits_per_byte", "divergence")  # whose readings count tokens


def items_behind(result: CellResult | None, metric: str) -> int | None:
    """Items that the standard error of a cell's metric is over: sequences of a loss, questions of an accuracy; None
    where that is not stored."""
    if result is None:
        return None
    if metric in _OVER_SEQUENCES:
        test = result.resolved.test_examples if result.resolved else None
        return None if test is None else min(test, result.cell.evaluation.max_sequences)
    if described(metric).unit == "nats":
        return None
    return next((r.count for r in result.readings if r.metric == metric), None)
