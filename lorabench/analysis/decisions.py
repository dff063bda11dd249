"""What a study decides about its reference: a condition that does as well for less, or how far the nearest one stays
behind.

level      a condition is better, or within the margin (both beyond doubt): of these the one of least training memory
           where that is less than the reference's, else the best by the mean
near       none is, but one is shown not to be worse by more than the margin: of these as of those
behind     every condition is worse beyond doubt: the nearest by the mean
open       neither: of those that are not decided the best by the mean, and what its interval leaves possible
alone      no pair allows a comparison
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.pareto import MEMORY
from lorabench.analysis.verdict import Comparison, leader
from lorabench.record.metrics import metric as described

_LESS = 0.995  # of the reference's memory: what counts as less
Kind = Literal["level", "near", "behind", "open"]


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
    noninferior: int
    """of those compared; the rest is not decisive"""
    memory: float | None
    """training memory of the chosen condition as a share of the reference's"""
    cheapest: bool
    """whether it was chosen for its memory"""
    family: int
    """comparisons that the verdicts are corrected for"""
    broken: int
    """cells of the reference that ran and did not finish: what is left of it may flatter"""

    @property
    def undecided(self) -> int:
        """Comparisons of which nothing is shown."""
        return self.compared - self.better - self.worse - self.equivalent - self.noninferior


def compute_decisions(
    summaries: Sequence[ConditionSummary], comparisons: Sequence[Comparison], metric: str
) -> tuple[Decision, ...]:
    """A Decision for each reference that conditions were compared with, in the study's order."""
    by_condition = {s.condition: s for s in summaries}
    families: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if c.metric == metric and by_condition[c.condition].outcomes.broken == 0:
            families.setdefault(c.reference, []).append(c)
    total = sum(c.metric == metric for c in comparisons)
    return tuple(_decision(reference, members, by_condition, metric, total) for reference, members in families.items())


def _decision(
    reference: str, members: Sequence[Comparison], summaries: Mapping[str, ConditionSummary], metric: str, total: int
) -> Decision:
    sign = 1.0 if described(metric).better == "higher" else -1.0

    def cost(c: Comparison) -> tuple[float, float]:
        return summaries[c.condition].mean(MEMORY) or float("inf"), -sign * c.difference

    def quality(c: Comparison) -> float:
        return sign * c.difference

    shown = [c for c in members if c.verdict in ("better", "equivalent")]
    level = shown or [c for c in members if c.verdict == "non-inferior"]
    undecided = [c for c in members if c.verdict == "not decisive"]
    kind: Kind = "level" if shown else "near" if level else "open" if undecided else "behind"
    least, limit = min(level, key=cost, default=None), summaries[reference].mean(MEMORY)
    cheapest = least is not None and limit is not None and cost(least)[0] < _LESS * limit
    among = level or undecided or members
    best = leader([summaries[c.condition] for c in among], metric)
    chosen = (
        least
        if least and cheapest
        else next((c for c in among if best and c.condition == best.condition), None) or max(among, key=quality)
    )
    chosen_memory, reference_memory = (summaries[c].mean(MEMORY) for c in (chosen.condition, reference))
    counts = {
        v.replace("-", ""): sum(c.verdict == v for c in members)
        for v in ("better", "worse", "equivalent", "non-inferior")
    }
    return Decision(
        reference,
        kind,
        chosen,
        len(members),
        **counts,
        memory=chosen_memory / reference_memory if chosen_memory and reference_memory else None,
        cheapest=cheapest,
        family=total,
        broken=summaries[reference].outcomes.broken,
    )
