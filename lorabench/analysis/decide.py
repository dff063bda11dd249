"""What a study decides about its reference: the cheapest condition that does as well, or how far the nearest one stays behind.

    level      a condition is better, or within the margin (both beyond doubt): of these the one of least training memory
    behind     every condition is worse beyond doubt: the nearest by the mean
    open       neither: of those that are not decided the nearest by the mean, and what its interval leaves possible
    alone      no pair allows a comparison
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.analysis.aggregate import Summary
from lorabench.analysis.compare import Comparison
from lorabench.analysis.pareto import MEMORY
from lorabench.record.metrics import metric as described

Kind = Literal["level", "behind", "open"]


@dataclass(frozen=True)
class Decision:
    """The outcome of a study against one of its references."""

    reference: str
    kind: Kind
    chosen: Comparison
    """the condition that the sentence is about"""
    compared: int
    better: int
    worse: int
    equivalent: int
    """of those compared; the rest is not decisive"""
    memory: float | None
    """training memory of the chosen condition as a share of the reference's"""
    broken: int
    """cells of the reference that ran and did not finish: what is left of it may flatter"""

    @property
    def undecided(self) -> int:
        return self.compared - self.better - self.worse - self.equivalent


def decide(summaries: Sequence[Summary], comparisons: Sequence[Comparison], metric: str) -> tuple[Decision, ...]:
    """A Decision for each reference that conditions were compared with, in the study's order."""
    by_condition = {s.condition: s for s in summaries}
    families: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if c.metric == metric and by_condition[c.condition].outcomes.broken == 0:
            families.setdefault(c.reference, []).append(c)
    return tuple(_decision(reference, members, by_condition, metric) for reference, members in families.items())


def _decision(reference: str, members: Sequence[Comparison], summaries: Mapping[str, Summary], metric: str) -> Decision:
    sign = 1.0 if described(metric).better == "higher" else -1.0

    def cost(c: Comparison) -> tuple[float, float]:
        return summaries[c.condition].mean(MEMORY) or float("inf"), -sign * c.difference

    level = [c for c in members if c.verdict in ("better", "equivalent")]
    undecided = [c for c in members if c.verdict == "not decisive"]
    kind: Kind = "level" if level else "open" if undecided else "behind"
    chosen = min(level, key=cost) if level else max(undecided or members, key=lambda c: sign * c.difference)
    ours, theirs = (summaries[c].mean(MEMORY) for c in (chosen.condition, reference))
    counts = {v: sum(c.verdict == v for c in members) for v in ("better", "worse", "equivalent")}
    return Decision(reference, kind, chosen, len(members), **counts, memory=ours / theirs if ours and theirs else None, broken=summaries[reference].outcomes.broken)
