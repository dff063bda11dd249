"""What tables, sections and figures draw from: a study's analysis, how its conditions look, and another study beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from lorabench.analysis.aggregate import Summary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.findings.registry import check
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.study import StudyAnalysis, analyse
from lorabench.analysis.tuning import Tuning
from lorabench.analysis.verdict import Comparison, Verdicts
from lorabench.config.study import Study
from lorabench.record.items import Items
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.report.style import Style, styles


@dataclass(frozen=True, eq=False)
class View:
    """A study's analysis as it is shown. What it knows of the study it asks of the analysis, which documents it."""

    analysis: StudyAnalysis
    styles: Mapping[str, Style]
    """by condition: the same colour, dash and symbol in every figure"""
    other: View | None = None
    """another study to be held beside this one"""

    @property
    def folder(self) -> Path:
        return self.analysis.folder

    @property
    def study(self) -> Study:
        return self.analysis.study

    @property
    def planned(self) -> tuple[Replicates, ...]:
        return self.analysis.planned

    @property
    def groups(self) -> tuple[Replicates, ...]:
        return self.analysis.groups

    @property
    def results(self) -> Mapping[str, CellResult]:
        return self.analysis.results

    @property
    def data(self) -> pd.DataFrame:
        return self.analysis.data

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.analysis.metrics

    @property
    def metric(self) -> str:
        return self.analysis.metric

    @property
    def summaries(self) -> tuple[Summary, ...]:
        return self.analysis.summaries

    @property
    def references(self) -> Mapping[str, str]:
        return self.analysis.references

    @property
    def pairing(self) -> Pairing:
        return self.analysis.pairing

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return self.analysis.comparisons

    @property
    def tunings(self) -> tuple[Tuning, ...]:
        return self.analysis.tunings

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What weakens the numbers; looked for when it is asked for, since a table does not show it."""
        return check(self.analysis)

    @property
    def verdicts(self) -> Verdicts:
        return self.analysis.verdicts

    def label(self, condition: str) -> str:
        return self.analysis.label(condition)

    def summary(self, condition: str) -> Summary:
        return self.analysis.summary(condition)

    def declared(self, condition: str) -> Mapping[str, Any]:
        return self.analysis.declared(condition)

    def by_task(self) -> dict[str, tuple[str, ...]]:
        return self.analysis.by_task()

    def comparison(self, metric: str, condition: str) -> Comparison | None:
        return self.analysis.comparison(metric, condition)

    def of_condition(self, condition: str) -> tuple[CellResult, ...]:
        return self.analysis.of_condition(condition)

    def items(self, cell_id: str) -> Mapping[str, Items]:
        return self.analysis.items(cell_id)

    def file(self, cell_id: str, name: str) -> Path:
        return self.analysis.file(cell_id, name)


def view_of(analysis: StudyAnalysis, other: StudyAnalysis | None = None) -> View:
    """An analysis with its styles; `other` likewise, to be held beside it."""
    return View(analysis, MappingProxyType(styles(analysis.summaries)), view_of(other) if other else None)


def make_view(store: Store, other: Store | None = None) -> View:
    """The same of stores that were not analysed yet."""
    return view_of(analyse(store), analyse(other) if other else None)
