"""Conditions against their reference: difference, interval, and what may be said of it.

All comparisons of one metric are a family: p values of difference, and those of equivalence, are adjusted by Holm.
A difference is decisive where its adjusted p is below 0.05; it is equivalent where two one-sided tests put it
within the study's margin. With one seed of something trained neither is said: a repetition may land elsewhere.
Nor is a condition of which cells broke called better or equivalent: its survivors flatter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import Basis, Difference, holm
from lorabench.analysis.pairing import SEEDLESS, Pairing
from lorabench.errors import LorabenchError
from lorabench.record.metrics import metric as described
from lorabench.spec.grid import agrees
from lorabench.spec.identity import References, canonical_json
from lorabench.spec.settings import ComparisonSpec
from lorabench.spec.study import Study

_FULL = {"method": {"name": "full"}}
LEVEL = 0.05  # not 1 - CONFIDENCE, which is a little more
Verdict = Literal["better", "worse", "equivalent", "not decisive"]


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
    """Holm, over the study's comparisons in this metric"""
    margin: float | None
    """difference that does not matter; absent for metrics that have none"""
    p_equivalent: float | None
    """two one-sided tests within the margin, adjusted by Holm"""
    repeated: bool
    """whether seed noise is known, or there is none"""
    broken: int = 0
    """cells of the condition that ran and did not finish"""

    @property
    def decisive(self) -> bool:
        """Whether there is a difference, as far as the data say."""
        return self.repeated and self.p_adjusted is not None and self.p_adjusted < LEVEL

    @property
    def equivalent(self) -> bool:
        """Whether the difference is within the margin, as far as the data say."""
        return self.repeated and self.p_equivalent is not None and self.p_equivalent < LEVEL

    @property
    def verdict(self) -> Verdict:
        """One word; a decisive difference that is within the margin all the same is equivalent."""
        return "not decisive" if self.flattered else self._of_those_that_finished

    @property
    def flattered(self) -> bool:
        """Whether it would be called better or equivalent, had no cell of it broken."""
        return self.broken > 0 and self._of_those_that_finished in ("better", "equivalent")

    @property
    def _of_those_that_finished(self) -> Verdict:
        if self.equivalent or not self.decisive:
            return "equivalent" if self.equivalent else "not decisive"
        better = described(self.metric).better
        return "not decisive" if better == "none" else "better" if (self.difference < 0) == (better == "lower") else "worse"


def margin_of(metric: str, rules: ComparisonSpec) -> float | None:
    """The difference of a metric that the study calls immaterial."""
    return {"nats": rules.loss_margin, "share": rules.accuracy_margin}.get(described(metric).unit)


def references(study: Study, groups: Sequence[Replicates]) -> dict[str, str]:
    """Condition id to the id of the condition it is compared with; the references themselves are left out."""
    rule = study.reference if study.reference is not None else _FULL
    plain = {g.condition: g.declared for g in groups}
    chosen = [p for p in plain.values() if agrees(p, rule)]
    by_setting = {canonical_json(p): c for c, p in plain.items() if agrees(p, rule)}
    known = References(chosen)
    found: dict[str, str] = {}
    for condition, setting in plain.items():
        if not chosen or condition in by_setting.values():
            continue
        try:
            found[condition] = by_setting[canonical_json(known.of(setting))]
        except LorabenchError:  # several conditions fit the default equally well: then there is none
            continue
    return found


def compare(pairing: Pairing, wanted: Mapping[str, str], metrics: Sequence[str], rules: ComparisonSpec) -> tuple[Comparison, ...]:
    """A Comparison for each condition and metric that has a pair."""
    made: list[Comparison] = []
    for metric in metrics:
        found = [(c, r, d) for c, r in wanted.items() if (d := pairing.difference(metric, c, r)) is not None]
        made += _adjusted([_of(metric, c, r, d, pairing, rules) for c, r, d in found])
    return tuple(made)


def _of(metric: str, condition: str, reference: str, d: Difference, pairing: Pairing, rules: ComparisonSpec) -> Comparison:
    low, high = d.interval or (None, None)
    margin = margin_of(metric, rules)
    repeated = d.pairs > 1 or SEEDLESS in pairing.seeds(metric, condition)
    equivalent = d.p_equivalent(margin) if margin is not None else None
    return Comparison(metric, condition, reference, d.pairs, d.value, low, high, d.basis, d.p_value, None, margin, equivalent, repeated, pairing.broken(condition))


def _adjusted(family: list[Comparison]) -> list[Comparison]:
    p, q = ({i: v for i, c in enumerate(family) if (v := getattr(c, name)) is not None} for name in ("p_value", "p_equivalent"))
    differ, same = (dict(zip(values, holm(list(values.values())), strict=True)) for values in (p, q))
    return [replace(c, p_adjusted=differ.get(i), p_equivalent=same.get(i)) for i, c in enumerate(family)]
