"""What rank buys: the metric against rank for each family, and the smallest rank that is as good as the best one.

A rank r is non-inferior to the best one where the one-sided 95 % bound of its paired difference is below the margin,

    bound(worse(r) - worse(best)) < margin    (Piaggio et al. 2012, CONSORT for non-inferiority)

tested from the best rank downwards; the first that fails ends it, so each test keeps its whole 5 % and nothing is
adjusted (fixed sequence: Maurer, Hothorn and Lehmacher 1995). The knee is the last that passed. The claim is against
the rank of the best mean, which is chosen from the same data: where another rank is truly better, the knee may lie
further than the margin behind that one.

What a metric nears as rank grows is `saturation`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.families import common_name, families
from lorabench.analysis.saturation import Fit, NoFit, saturating
from lorabench.analysis.verdict import Verdicts, margin_of
from lorabench.record.metrics import metric as described


@dataclass(frozen=True)
class RankPoint:
    """One rank of a family."""

    rank: int
    condition: str
    mean: float
    ci_half_width: float | None
    """half-width of its 95 % interval"""
    n: int
    """finished replicates"""
    whole: bool
    """whether no replicate broke"""


@dataclass(frozen=True)
class RankDifference:
    """A rank against the best."""

    rank: int
    bound: float | None
    """how much worse it may be: one-sided 95 % bound"""
    seeds: int
    why: Literal["unfinished cells", "fewer than two common seeds", "constant difference"] | None = None
    """why there is no bound"""


@dataclass(frozen=True)
class SmallestSufficientRank:
    """The smallest rank that is non-inferior to the best."""

    rank: int | None
    margin: float | None
    passed: tuple[RankDifference, ...] = ()
    """by falling rank; none where the knee is the best itself"""
    failed: RankDifference | None = None
    """the rank that ended the sequence"""
    why: Literal["no margin", "no complete rank", "one seed"] | None = None
    """why nothing can be said"""


@dataclass(frozen=True)
class RankCurve:
    """One family in one metric."""

    metric: str
    family: str
    points: tuple[RankPoint, ...]
    """by rising rank, two or more"""
    best: int | None
    """the rank of best mean among those that no replicate of broke"""
    knee: SmallestSufficientRank
    fit: Fit | None
    unfitted: NoFit | None
    """why there is no fit"""

    @property
    def at_the_edge(self) -> bool:
        """Whether the best rank is the highest of those that no replicate of broke, so that a higher one may do
        better."""
        return self.best is not None and self.best == max(p.rank for p in self.points if p.whole)


def rank_curves(
    groups: Sequence[Replicates], summaries: Sequence[ConditionSummary], verdicts: Verdicts, metric: str
) -> tuple[RankCurve, ...]:
    """A curve for each family that has the metric at two ranks or more, in the study's order."""
    by_condition = {s.condition: s for s in summaries}
    curves = []
    for members in families(groups, by_condition):
        points = []
        for g in members:
            s, rank = by_condition[g.condition], g.setting.method.rank
            if rank is not None and (statistic := s.statistics.get(metric)) is not None:
                points.append(
                    RankPoint(rank, g.condition, statistic.mean, statistic.ci_half_width, statistic.n, s.comparable)
                )
        if len(points) > 1:
            curves.append(
                _curve(metric, _name(members, by_condition), tuple(sorted(points, key=lambda p: p.rank)), verdicts)
            )
    return tuple(curves)


def _name(members: Sequence[Replicates], summaries: Mapping[str, ConditionSummary]) -> str:
    """The label's family; where alpha stands in it and follows the rank, that it does."""
    names = [summaries[g.condition].label.family for g in members]
    if len(set(names)) == 1:
        return names[0]
    ratios = {(g.setting.method.alpha or 0.0) / (g.setting.method.rank or 1) for g in members}
    return ", ".join([common_name(names), *([f"alpha={ratios.pop():g} r"] if len(ratios) == 1 else [])])


def _curve(metric: str, family: str, points: tuple[RankPoint, ...], verdicts: Verdicts) -> RankCurve:
    tables = {p.rank: verdicts.pairing.seeds(metric, p.condition) for p in points}
    best = _best(points, described(metric).better)
    able = [p for p in points if p.whole]  # survivors would bend the curve
    fitted: Fit | NoFit = NoFit("no direction" if described(metric).better == "none" else "no complete rank")
    if best is not None:
        shared = sorted(set.intersection(*(set(tables[p.rank]) for p in able)))
        fitted = saturating(
            np.array([p.rank for p in able], dtype=np.float64),
            np.array([[tables[p.rank][s] for s in shared] for p in able], dtype=np.float64).reshape(len(able), -1),
            described(metric).better == "lower",
            [p.ci_half_width for p in able],
        )
    fit, unfitted = (None, fitted) if isinstance(fitted, NoFit) else (fitted, None)
    knee = _knee(metric, points, best, verdicts)
    return RankCurve(metric, family, points, best.rank if best else None, knee, fit, unfitted)


def _best(points: Sequence[RankPoint], better: str) -> RankPoint | None:
    """As analysis.verdict's leader is found, so that one condition is called best: by the mean, of those with the most
    finished replicates; the lowest rank of equal ones."""
    able = [p for p in points if p.whole]
    if better == "none" or not able:
        return None
    most, sign = max(p.n for p in able), 1 if better == "lower" else -1
    return min((p for p in able if p.n == most), key=lambda p: (sign * p.mean, p.rank))


def _knee(
    metric: str, points: Sequence[RankPoint], best: RankPoint | None, verdicts: Verdicts
) -> SmallestSufficientRank:
    margin = margin_of(metric, verdicts.rules)
    if margin is None:
        return SmallestSufficientRank(None, None, why="no margin")
    if best is None:
        return SmallestSufficientRank(None, margin, why="no complete rank")
    if best.n < 2:
        return SmallestSufficientRank(None, margin, why="one seed")
    passed: list[RankDifference] = []
    for p in reversed([p for p in points if p.rank < best.rank]):
        step = _step(metric, p, best, verdicts)
        if step.bound is None or step.bound > margin:
            return SmallestSufficientRank(passed[-1].rank if passed else best.rank, margin, tuple(passed), step)
        passed.append(step)
    return SmallestSufficientRank(passed[-1].rank if passed else best.rank, margin, tuple(passed))


def _step(metric: str, p: RankPoint, best: RankPoint, verdicts: Verdicts) -> RankDifference:
    c = verdicts.of(metric, p.condition, best.condition)
    pairs = 0 if c is None else c.pairs
    if not p.whole:
        return RankDifference(p.rank, None, pairs, "unfinished cells")
    if c is None or not c.repeated:
        return RankDifference(p.rank, None, pairs, "fewer than two common seeds")
    if c.worse_at_most is None:
        return RankDifference(p.rank, None, pairs, "constant difference")
    return RankDifference(p.rank, c.worse_at_most, pairs)
