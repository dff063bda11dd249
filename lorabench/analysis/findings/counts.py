"""What the findings about a task's rows read: the stored counts of each condition, and the worst of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.data import DataFacts


class Worst(NamedTuple):
    """The counts with the highest share, and the conditions that have any."""

    share: float
    facts: DataFacts
    length: int
    groups: list[Replicates]


def worst(e: StudyAnalysis, share: Callable[[DataFacts], float]) -> Worst | None:
    """None where no finished cell has counts."""
    rows: list[tuple[float, DataFacts, Replicates]] = []
    for g in e.groups:
        if (facts := facts_of(e, g)) is not None:
            rows.append((share(facts), facts, g))
    if not rows:
        return None
    most, facts, group = max(rows, key=lambda row: row[0])
    return Worst(most, facts, group.setting.training.sequence_length, [g for part, _, g in rows if part > 0])


def facts_of(e: StudyAnalysis, g: Replicates) -> DataFacts | None:
    """A condition's counts: all its cells read the same rows."""
    return next(
        (r.data for i in e.finished([g]) if (r := e.results[i].resolved) is not None and r.data is not None), None
    )
