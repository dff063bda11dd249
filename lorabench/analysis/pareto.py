"""Which conditions are worth their memory: the Pareto front of training memory against quality, under uncertainty.

    j dominates i     memory_j <= memory_i and j is better than i beyond doubt: the 95 % interval of their paired
                      difference leaves zero out on j's side
    front             no condition has a better mean at no more memory
    open              one has, but not beyond doubt
    dominated         one has, beyond doubt

Memory is a count of bytes that repeats exactly (a few kB between seeds), so its mean is taken as known. Each difference
is taken alone: with many conditions a few dominations are chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.analysis.aggregate import Summary
from lorabench.analysis.pairing import Pairing
from lorabench.record.metrics import metric as described

Standing = Literal["front", "open", "dominated"]
MEMORY = "train_peak_bytes"


@dataclass(frozen=True)
class Point:
    """A condition in the plane of memory and quality."""

    condition: str
    memory: float
    """bytes, mean over seeds"""
    value: float
    half: float | None
    """half-width of the value's 95 % interval"""
    standing: Standing
    by: str | None = None
    """a condition that is better at no more memory: beyond doubt where it is dominated, by the mean where it is open"""


def pareto(summaries: Sequence[Summary], metric: str, pairing: Pairing) -> tuple[Point, ...]:
    """A Point for each condition that has both values, by rising memory; conditions whose cells broke never dominate."""
    sign = 1.0 if described(metric).better == "higher" else -1.0
    known = [(s, m.mean, v) for s in summaries if (m := s.statistics.get(MEMORY)) and (v := s.statistics.get(metric))]
    known.sort(key=lambda k: (k[1], -sign * k[2].mean))
    made = []
    for s, memory, value in known:
        rivals = [(o, v) for o, m, v in known if o is not s and o.comparable and m <= memory and sign * v.mean > sign * value.mean]
        rivals.sort(key=lambda r: -sign * r[1].mean)
        surely = next((o.condition for o, _ in rivals if _better(pairing, metric, o.condition, s.condition, sign)), None)
        standing: Standing = "dominated" if surely else "open" if rivals else "front"
        made.append(Point(s.condition, memory, value.mean, value.half, standing, surely or (rivals[0][0].condition if rivals else None)))
    return tuple(made)


def _better(pairing: Pairing, metric: str, ours: str, theirs: str, sign: float) -> bool:
    found = pairing.difference(metric, ours, theirs)
    if found is None or found.pairs < 2 or found.interval is None:
        return False
    low, high = found.interval
    return low > 0 if sign > 0 else high < 0
