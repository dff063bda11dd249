"""A finding, and all that findings are found from: the plan, what came of its cells, and what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from lorabench.analysis.aggregate import Summary, metrics
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.tuning import Tuning
from lorabench.analysis.verdict import Comparison
from lorabench.config.decision import deciding_metric
from lorabench.config.study import Study
from lorabench.record.result import CellResult

Kind = Literal[
    "metric_absent", "failed", "diverged", "out_of_memory", "missing", "one_seed", "base_better", "rows_lost", "test_leaked", "few_test_rows",
    "skipped", "analysis_failed", "at_chance", "few_seeds", "shared_rate", "untuned_rates", "edge_rate", "few_validation_rows", "scaling_moves", "few_items", "mixed_environments", "mixed_precision", "still_falling",
    "rows_dropped", "responses_cut", "prompts_leaked", "unseen_labels", "one_sided_labels", "test_rows_differ",
    "no_reference", "rates_broke", "prediction_off", "stored_quantised", "unreached", "rows_changed", "rows_unmeasured",
]  # fmt: skip
Severity = Literal["grave", "caution", "note"]
"""grave: numbers are absent or mislead; caution: they hold, with less behind them; note: to know when using them"""
_NAMED = 3  # of a list in a sentence; the finding's conditions and cells name all


@dataclass(frozen=True)
class Finding:
    """One thing to know before believing the study's numbers."""

    kind: Kind
    severity: Severity
    title: str
    sentence: str
    """what was seen, with its values, and what to do about it"""
    conditions: tuple[str, ...] = ()
    """labels of the conditions it is about; empty: the study as a whole"""
    cells: tuple[str, ...] = ()
    """ids of the cells it rests on"""


@dataclass(frozen=True)
class Evidence:
    """What is known of a study."""

    study: Study
    metric: str
    """what the answer is about"""
    planned: Sequence[Replicates]
    """conditions with all of their cells"""
    chosen: Sequence[Replicates]
    """the same with the cells at their chosen rates, which all numbers come from"""
    results: Mapping[str, CellResult]
    """by cell id, at all rates"""
    data: pd.DataFrame
    """record.wide of the chosen cells"""
    summaries: Sequence[Summary]
    references: Mapping[str, str]
    comparisons: Sequence[Comparison]
    tunings: Sequence[Tuning]
    pairing: Pairing
    file: Callable[[str, str], Path]
    """the path of a file beside a cell's result, from cell id and name"""

    @cached_property
    def wanted(self) -> str:
        """The metric that the study asks for, measured or not."""
        return deciding_metric(self.study.comparison, (g.setting.task for g in self.planned), self.metrics)

    def outcome(self, cell: str) -> str:
        """How a cell ended; missing where it has not been run."""
        return self.results[cell].outcome if cell in self.results else "missing"

    def finished(self, groups: Sequence[Replicates]) -> tuple[str, ...]:
        """The ids of their finished cells."""
        return tuple(i for g in groups for i in g.ids if self.outcome(i) == "finished")

    def label(self, condition: str) -> str:
        """What people call a condition."""
        return self.by_condition[condition].label.text

    def labels(self, groups: Sequence[Replicates]) -> tuple[str, ...]:
        """What people call them."""
        return tuple(self.label(g.condition) for g in groups)

    @cached_property
    def by_condition(self) -> dict[str, Summary]:
        """The summary of each condition."""
        return {s.condition: s for s in self.summaries}

    @cached_property
    def groups(self) -> dict[str, Replicates]:
        """Each condition's chosen cells."""
        return {g.condition: g for g in self.chosen}

    @cached_property
    def trained(self) -> tuple[Replicates, ...]:
        """The conditions that train something."""
        return tuple(g for g in self.chosen if g.trains)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """What was measured."""
        return metrics(self.data)


def listed(parts: Sequence[str], separator: str = ", ") -> str:
    """ "a, b, c and 4 more" """
    more = len(parts) - _NAMED
    return (
        separator.join(parts) if more <= 0 else f"{separator.join(parts[:_NAMED])}{separator.rstrip()} and {more} more"
    )


def cells_of(number: int, total: int) -> str:
    """ "3 of 8 cells" """
    return f"{number} of {total} cell{'' if total == 1 else 's'}"
