"""Which conditions are worth their memory: the Pareto front of training memory against quality, under uncertainty.

    front             no condition has a better mean at no more memory
    level             one has, and it is shown to be within the margin of that one
    open              one has, but nothing is shown of the two
    dominated         one has, beyond doubt: its verdict beside it is `worse` (analysis.verdict), corrected by Holm over
                      all pairs of a condition behind the front and one on it that takes no more memory and has a better
                      mean
    broken            cells of it ran and did not finish: its mean is that of survivors, so it has no place on the front
                      or behind it

Memory is a count of bytes that repeats exactly (a few kB between seeds), so its mean is taken as known. The front is
that of the means, so it may hold a lucky condition or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.verdict import LEVEL_WITH, Verdicts
from lorabench.record.metrics import metric as described

Tier = Literal["front", "level", "open", "dominated", "broken"]
MEMORY = "train_peak_bytes"


@dataclass(frozen=True)
class ParetoPoint:
    """A condition in the plane of memory and quality."""

    condition: str
    memory: float
    """bytes, mean over seeds"""
    value: float
    ci_half_width: float | None
    """half-width of the value's 95 % interval"""
    tier: Tier
    by: str | None = None
    """a condition of a better mean at no more memory: better beyond doubt where this one is dominated"""


def pareto(summaries: Sequence[ConditionSummary], metric: str, verdicts: Verdicts) -> tuple[ParetoPoint, ...]:
    """A Point for each condition that has both values, by rising memory; conditions whose cells broke neither stand on
    the front nor dominate.

    A pair that is among the study's comparisons keeps its verdict there.
    """
    sign = 1.0 if described(metric).better == "higher" else -1.0
    measured = [
        (s, m.mean, v) for s in summaries if (m := s.statistics.get(MEMORY)) and (v := s.statistics.get(metric))
    ]
    measured.sort(key=lambda k: (k[1], -sign * k[2].mean))
    front: list[tuple[str, float, float]] = []  # condition, memory, mean: each better than all that take less
    for s, memory, value in measured:
        if s.comparable and (not front or sign * value.mean > sign * front[-1][2]):
            front.append((s.condition, memory, value.mean))
    rivals = {
        s.condition: [c for c, m, v in front if m <= memory and sign * v > sign * value.mean][::-1]
        for s, memory, value in measured
        if not s.outcomes.broken
    }
    verdict_of = {
        pair: c.verdict
        for pair, c in verdicts.among(metric, [(c, rival) for c, ahead in rivals.items() for rival in ahead]).items()
    }
    points = []
    for s, memory, value in measured:
        if s.outcomes.broken:
            points.append(ParetoPoint(s.condition, memory, value.mean, value.ci_half_width, "broken"))
            continue
        ahead = rivals[s.condition]
        surely = next((r for r in ahead if verdict_of.get((s.condition, r)) == "worse"), None)
        level = next((r for r in ahead if verdict_of.get((s.condition, r)) in LEVEL_WITH), None)
        tier: Tier = "dominated" if surely else "level" if level else "open" if ahead else "front"
        points.append(
            ParetoPoint(
                s.condition, memory, value.mean, value.ci_half_width, tier, surely or level or next(iter(ahead), None)
            )
        )
    return tuple(points)
