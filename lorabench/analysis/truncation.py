"""What is left of each condition when its changes are cut to a lower rank, beside what was trained at that rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.condition_spectra import rank_of, spectra, truncations
from lorabench.analysis.spectra import over_seeds
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.metrics import metric
from lorabench.record.truncations import Allocation


@dataclass(frozen=True)
class TruncationPoint:
    """A condition's changes cut to one rank."""

    rank: int
    value: Statistic
    """over seeds"""
    trained: Statistic | None = None
    """of the condition of the same family that was trained at that rank"""
    ahead: int = 0
    """seeds of both in which the cut one is better"""
    pairs: int = 0
    """seeds of both"""


@dataclass(frozen=True)
class TruncationCurve:
    """A condition's curve under one allocation."""

    condition: str
    label: str
    family: str
    allocation: Allocation
    points: tuple[TruncationPoint, ...]
    """by rising rank"""
    whole: tuple[int, Statistic] | None
    """the condition's own rank and value, where nothing is cut"""


def compute_truncation(study: StudyAnalysis, name: str) -> tuple[TruncationCurve, ...]:
    """The curves of every condition that has one in this metric."""
    trained = {
        (s.label.family, rank): s.condition
        for s in study.summaries
        if (rank := rank_of(study, s.condition)) is not None
    }
    curves = []
    for s in study.summaries:
        values: dict[tuple[Allocation, int], dict[int, float]] = {}
        for seed, rows in truncations(study, s.condition).items():
            for t in rows:
                if (value := t.value(name)) is not None:
                    values.setdefault((t.allocation, t.rank), {})[seed] = value
        for allocation in get_args(Allocation):
            points = tuple(
                _point(
                    study,
                    name,
                    rank,
                    by_seed,
                    direct if (direct := trained.get((s.label.family, rank))) != s.condition else None,
                )
                for (how, rank), by_seed in sorted(values.items())
                if how == allocation
            )
            if points:
                curves.append(
                    TruncationCurve(
                        s.condition, s.label.text, s.label.family, allocation, points, _whole(study, name, s.condition)
                    )
                )
    return tuple(curves)


def _point(
    study: StudyAnalysis, name: str, rank: int, by_seed: dict[int, float], direct: str | None
) -> TruncationPoint:
    value = over_seeds(list(by_seed.values()))
    assert value is not None
    trained = study.summary(direct).statistics.get(name) if direct else None
    if direct is None or trained is None:
        return TruncationPoint(rank, value)
    other = {
        r.cell.seed: v
        for r in study.of_condition(direct)
        if r.outcome == "finished" and (v := r.value(name)) is not None
    }
    shared = [seed for seed in by_seed if seed in other]
    sign = 1 if metric(name).better == "higher" else -1
    return TruncationPoint(
        rank, value, trained, sum(sign * (by_seed[seed] - other[seed]) > 0 for seed in shared), len(shared)
    )


def _whole(study: StudyAnalysis, name: str, condition: str) -> tuple[int, Statistic] | None:
    """Unless the change can have more rank than its adapters (pissa: twice as much): then a cut to theirs is a cut
    still."""
    rank, value = rank_of(study, condition), study.summary(condition).statistics.get(name)
    ranks = {s.rank for cell in spectra(study, condition) for s in cell if s.rank is not None}
    return (rank, value) if rank is not None and value is not None and max(ranks, default=rank) <= rank else None
