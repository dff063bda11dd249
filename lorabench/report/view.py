"""What tables, sections and figures draw from: a study's analysis, how its conditions look, and another study beside
it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from lorabench.analysis.findings.base import Finding
from lorabench.analysis.findings.registry import check
from lorabench.analysis.study import StudyAnalysis, analyse
from lorabench.record.store import Store
from lorabench.report.style import Style, styles


@dataclass(frozen=True, eq=False)
class View:
    """A study's analysis as it is shown."""

    analysis: StudyAnalysis
    styles: Mapping[str, Style]
    """by condition: the same colour, dash and symbol in every figure"""
    other: View | None = None
    """another study to be held beside this one"""

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What weakens the numbers; looked for when it is asked for, since a table does not show it."""
        return check(self.analysis)


def view_of(analysis: StudyAnalysis, other: StudyAnalysis | None = None) -> View:
    """An analysis with its styles; `other` likewise, to be held beside it."""
    return View(analysis, MappingProxyType(styles(analysis.summaries)), view_of(other) if other else None)


def make_view(store: Store, other: Store | None = None) -> View:
    """The same of stores that were not analysed yet."""
    return view_of(analyse(store), analyse(other) if other else None)
