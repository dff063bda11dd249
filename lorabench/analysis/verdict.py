"""One comparison, one verdict: whatever is said anywhere of two conditions is read off the Comparison of that pair,
which is made here.

    equivalent       two one-sided tests put the difference within the margin (Schuirmann 1987)
    better, worse    two-sided p of no difference below 0.05
    non-inferior     not worse by more than the margin: the one-sided 95 % bound of how much worse it is lies within it
                     (Piaggio et al. 2012)
    not decisive     none of these

The first that holds is the verdict, in the order equivalent, better, non-inferior, worse: what is worse beyond doubt,
and shown to be so by less than the margin, is non-inferior. Two further claims rest on any tolerated loss in place of
the margin: `within` (non-inferior) and `beyond` (worse, and its interval lies beyond).

A family is a study's comparisons in one metric: p values of difference and those of equivalence are each adjusted by
Holm over it. Non-inferiority is what a choice rests on, whose tests go in a fixed order (analysis.rank_curve,
advice.selection): its bound is taken alone, here and everywhere, and the sentence that gives it says so. What is
equivalent or better is within the margin by that bound, too, and what is beyond it is worse, so that no two claims of
one pair exclude each other. A pair that the study compares keeps its verdict whoever asks, whichever of the two stands
first and whatever else is asked with it; another pair is taken alone.

Claimed is nothing from one seed of something trained: a repetition may land elsewhere. A condition of which cells broke
is not called better, equivalent or non-inferior, since its survivors flatter it; and nothing is called worse than a
reference of which cells broke, nor equivalent to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.difference import Basis, Difference, holm
from lorabench.analysis.pairing import SEEDLESS, Pairing
from lorabench.config.settings import ComparisonSpec
from lorabench.record.metrics import metric as described

LEVEL = 0.05  # not 1 - CONFIDENCE, which is a little more
Verdict = Literal["better", "worse", "equivalent", "non-inferior", "not decisive"]
VERDICTS: tuple[Verdict, ...] = ("better", "equivalent", "non-inferior", "worse", "not decisive")
LEVEL_WITH: tuple[Verdict, ...] = ("better", "equivalent", "non-inferior")
"""what puts a condition level with its reference, or above it"""


@dataclass(frozen=True)
class Comparison:
    """How far a condition lies from its reference in one metric."""

    metric: str
    condition: str
    reference: str
    pairs: int
    """seeds that finished on both sides; 1 where neither has any"""
    difference: float
    """mean of condition - reference"""
    low: float | None
    high: float | None
    """95 % interval of the difference, taken alone"""
    basis: Basis | None
    """what the interval speaks for"""
    p_value: float | None
    p_adjusted: float | None
    """Holm, over the family"""
    margin: float | None
    """difference that does not matter; absent for metrics that have none"""
    p_equivalent: float | None
    """two one-sided tests within the margin, adjusted by Holm"""
    repeated: bool
    """whether seed noise is known, or there is none"""
    broken: int = 0
    """cells of the condition that ran and did not finish"""
    reference_broken: int = 0
    """the same of the reference"""
    worse_at_most: float | None = None
    """one-sided 95 % bound, taken alone, of how much worse the condition is, negative where it is better; absent where
    no noise is known, or the metric has no better and worse"""
    better_at_most: float | None = None
    """the same of how much better it is"""
    family: int = 1
    """comparisons that it is corrected for"""

    @property
    def decisive(self) -> bool:
        """Whether there is a difference, as far as the data say."""
        return self.repeated and self.p_adjusted is not None and self.p_adjusted < LEVEL

    @property
    def equivalent(self) -> bool:
        """Whether the difference is within the margin, as far as the data say."""
        return self.repeated and self.p_equivalent is not None and self.p_equivalent < LEVEL

    def within(self, tolerated: float) -> bool:
        """Whether the condition is shown not to be worse by more than that."""
        return self.repeated and not self.broken and self.worse_at_most is not None and self.worse_at_most <= tolerated

    def beyond(self, tolerated: float) -> bool:
        """Whether the condition is shown to be worse by more than that: worse beyond doubt, and its interval lies
        beyond."""
        better = described(self.metric).better
        if not self.decisive or self.reference_broken or self.low is None or self.high is None or better == "none":
            return False
        return (self.low if better == "lower" else -self.high) > max(tolerated, 0.0)

    @property
    def verdict(self) -> Verdict:
        """The one word for this pair; a decisive difference that is within the margin all the same is equivalent."""
        verdict = self.of_those_that_finished
        if self.flattered or (self.reference_broken and verdict == "worse"):
            return "not decisive"
        return "non-inferior" if self.reference_broken and verdict == "equivalent" else verdict

    @property
    def flattered(self) -> bool:
        """Whether it would be called level or better, had no cell of it broken."""
        return self.broken > 0 and self.of_those_that_finished in LEVEL_WITH

    @property
    def of_those_that_finished(self) -> Verdict:
        """The verdict as if no cell had broken."""
        if self.equivalent:
            return "equivalent"
        better = described(self.metric).better
        ahead = (self.difference < 0) == (better == "lower")
        if self.decisive and better != "none" and ahead:
            return "better"
        if (
            self.repeated
            and self.margin is not None
            and self.worse_at_most is not None
            and self.worse_at_most <= self.margin
        ):
            return "non-inferior"
        return "worse" if self.decisive and better != "none" else "not decisive"

    def mirrored(self) -> Comparison:
        """The reference beside the condition."""
        low, high = (None, None) if self.low is None or self.high is None else (-self.high, -self.low)
        return replace(
            self,
            condition=self.reference,
            reference=self.condition,
            difference=-self.difference,
            low=low,
            high=high,
            broken=self.reference_broken,
            reference_broken=self.broken,
            worse_at_most=self.better_at_most,
            better_at_most=self.worse_at_most,
        )


def margin_of(metric: str, rules: ComparisonSpec) -> float | None:
    """The difference of a metric that the study calls immaterial."""
    return {"nats": rules.loss_margin, "share": rules.accuracy_margin}.get(described(metric).unit)


def adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of one family and metric, corrected by Holm over it."""
    p, q = (
        {i: v for i, c in enumerate(comparisons) if (v := getattr(c, name)) is not None}
        for name in ("p_value", "p_equivalent")
    )
    differ, same = (dict(zip(values, holm(list(values.values())), strict=True)) for values in (p, q))
    return tuple(
        replace(c, p_adjusted=differ.get(i), p_equivalent=same.get(i), family=len(comparisons))
        for i, c in enumerate(comparisons)
    )


def compared(pairing: Pairing, metric: str, condition: str, reference: str, rules: ComparisonSpec) -> Comparison | None:
    """One pair, not yet corrected; None where no seed allows it."""
    d = pairing.difference(metric, condition, reference)
    if d is None:
        return None
    low, high = d.interval or (None, None)
    margin = margin_of(metric, rules)
    repeated = d.pairs > 1 or SEEDLESS in pairing.seeds(metric, condition)
    equivalent = d.p_equivalent(margin) if margin is not None else None
    broken = pairing.broken(condition), pairing.broken(reference)
    return Comparison(
        metric,
        condition,
        reference,
        d.pairs,
        d.value,
        low,
        high,
        d.basis,
        d.p_value,
        None,
        margin,
        equivalent,
        repeated,
        *broken,
        *at_most(metric, d),
    )


def at_most(metric: str, d: Difference) -> tuple[float | None, float | None]:
    """One-sided 95 % bounds of how much worse, and how much better, a difference may be."""
    up, down, better = d.bound("high", LEVEL), d.bound("low", LEVEL), described(metric).better
    if up is None or down is None or better == "none":
        return None, None
    return (up, -down) if better == "lower" else (-down, up)


class Verdicts:
    """The Comparison of any two conditions of a study: the study's own where it has one, else of the pair alone or
    among others."""

    def __init__(self, pairing: Pairing, rules: ComparisonSpec, own: Sequence[Comparison] = ()) -> None:
        self.pairing, self.rules = pairing, rules
        self._own = {(c.metric, c.condition, c.reference): c for c in own}
        self._own |= {
            (c.metric, c.reference, c.condition): c.mirrored()
            for c in own
            if (c.metric, c.reference, c.condition) not in self._own
        }
        self._alone: dict[tuple[str, str, str], Comparison | None] = {}

    def own(self, metric: str, condition: str, reference: str) -> Comparison | None:
        """What the study's own comparisons say of the pair, whichever stands first there."""
        return self._own.get((metric, condition, reference))

    def of(self, metric: str, condition: str, reference: str) -> Comparison | None:
        """The pair's comparison; None where no seed allows one."""
        key = (metric, condition, reference)
        if key in self._own:
            return self._own[key]
        if key not in self._alone:
            comparison = compared(self.pairing, metric, condition, reference, self.rules)
            self._alone[key] = adjusted([comparison])[0] if comparison else None
        return self._alone[key]

    def among(self, metric: str, pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Comparison]:
        """Those of many pairs, which are corrected for each other where the study does not compare them itself."""
        alone = {(a, b): c for a, b in pairs if (c := compared(self.pairing, metric, a, b, self.rules)) is not None}
        corrected = dict(zip(alone, adjusted(list(alone.values())), strict=True))
        return {(a, b): self._own.get((metric, a, b), c) for (a, b), c in corrected.items()}


def candidates(summaries: Sequence[ConditionSummary], metric: str) -> tuple[ConditionSummary, ...]:
    """Those whose mean may be called best: trained, no replicate broken, and as many finished ones as any has (fewer
    are no fair mean)."""
    able = [s for s in summaries if s.comparable and metric in s.statistics]
    most = max((s.statistics[metric].n for s in able), default=0)
    return tuple(s for s in able if s.statistics[metric].n == most)


def leader(summaries: Sequence[ConditionSummary], metric: str) -> ConditionSummary | None:
    """The one that is called best, everywhere: of the best mean; of equal ones that of fewest trained parameters, then
    the study's first."""
    better = described(metric).better
    sign = -1.0 if better == "higher" else 1.0
    able = candidates(summaries, metric) if better != "none" else ()
    return min(
        able, key=lambda s: (sign * s.statistics[metric].mean, s.mean("trainable_parameters") or 0.0), default=None
    )
