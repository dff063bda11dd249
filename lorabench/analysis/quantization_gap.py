"""What quantization costs: each quantized condition against its unquantized counterpart, all pairs of a type pooled.

    gap        = value(quantized) - value(counterpart)
               counterpart: the same setting but for the quantization (a tuned rate: the same grid)
    pooled_s   = mean over the pairs of gap at seed s,   for the seeds at which all pairs are whole
    interval   = mean of pooled_s -+ t(0.975, n-1) * sd(pooled_s) / sqrt(n)

Pairs of one seed share what that seed does, so the seeds are what repeats, not the pairs. p values are adjusted over
the types (Holm 1979). For accuracies the items' error joins that of the seeds: pairs are judged on the same items, how
much alike is unknown, so the pooled error is taken as the mean of the pairs', which is the most it can be (the standard
deviation of a mean is at most the mean of the standard deviations). With one seed nothing is pooled but the value:
there is no interval. Untrained bases have no seed; each of their gaps stands for itself, judged over items. Where cells
of a quantized condition broke, the seeds that are left flatter it: its type is then not called better, equivalent or
non-inferior; where cells of a counterpart broke, it is not called worse or equivalent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import Difference, difference
from lorabench.analysis.families import apart_from
from lorabench.analysis.pairing import SEEDLESS
from lorabench.analysis.verdict import Comparison, Verdicts, adjusted, at_most, margin_of
from lorabench.config.study import Cell
from lorabench.record.metrics import metric as described


@dataclass(frozen=True)
class Gap:
    """One quantized condition against its counterpart."""

    kind: str
    """nf4, nf4 + double quant, ..."""
    condition: str
    unquantized_counterpart: str
    family: str
    """the same for all ranks of a family and all types"""
    rank: int | None
    model: str
    difference: Difference
    share: float | None
    """weight bytes over the counterpart's"""
    broken: int = 0
    """cells of the quantized condition that ran and did not finish"""
    counterpart_broken: int = 0
    """the same of the counterpart"""


@dataclass(frozen=True)
class TypeGap:
    """All gaps of one type of quantization in one metric."""

    kind: str
    gaps: tuple[Gap, ...]
    """of trained conditions that have a finished counterpart"""
    bases: tuple[Gap, ...]
    """of untrained ones"""
    expected: int
    """trained conditions of this type that the study gives a counterpart"""
    pooled: Comparison | None
    """condition: the type, reference: none; absent where nothing trained has a gap, or no seed has all"""

    @property
    def shares(self) -> tuple[float, ...]:
        """Weight bytes over the counterpart's, of each gap."""
        return tuple(g.share for g in (*self.gaps, *self.bases) if g.share is not None)


def quantization_gaps(
    groups: Sequence[Replicates], summaries: Sequence[ConditionSummary], verdicts: Verdicts, metric: str
) -> tuple[TypeGap, ...]:
    """A TypeGap for each type that has a gap in this metric, in the study's order; a type's one pair that is among the
    study's comparisons keeps its verdict there."""
    pairing = verdicts.pairing
    by_condition = {s.condition: s for s in summaries}
    plain = {apart_from(g, "quantization"): g for g in groups if g.setting.quantization.name == "none"}
    names = kinds(groups)
    gaps_of: dict[str, list[Gap]] = {}
    expected: Counter[str] = Counter()
    for g in groups:
        unquantized_counterpart, kind = plain.get(apart_from(g, "quantization")), names.get(g.condition)
        if kind is None or unquantized_counterpart is None:
            continue
        expected[kind] += g.trains
        d = pairing.difference(metric, g.condition, unquantized_counterpart.condition)
        if d is not None:
            family = apart_from(g, "quantization", "method.rank", "method.alpha")
            share = _share(by_condition[g.condition], by_condition[unquantized_counterpart.condition])
            broken = pairing.broken(g.condition), pairing.broken(unquantized_counterpart.condition)
            gaps_of.setdefault(kind, []).append(
                Gap(
                    kind,
                    g.condition,
                    unquantized_counterpart.condition,
                    family,
                    g.setting.method.rank,
                    g.setting.model.name,
                    d,
                    share,
                    *broken,
                )
            )
    trains = {g.condition for g in groups if g.trains}
    types, pooled = [], {}
    for kind, gaps in gaps_of.items():
        trained = tuple(g for g in gaps if g.condition in trains)
        bases = tuple(g for g in gaps if g.condition not in trains)
        types.append(TypeGap(kind, trained, bases, expected[kind], None))
        if (one := _pooled(metric, kind, trained, verdicts)) is not None:
            pooled[kind] = one
    of_kind = dict(zip(pooled, adjusted(list(pooled.values())), strict=True))
    return tuple(_with_own_verdict(replace(t, pooled=of_kind.get(t.kind)), verdicts) for t in types)


def kinds(groups: Sequence[Replicates]) -> dict[str, str]:
    """The type of each quantized condition; the compute dtype is named where one type has several."""
    quantized = [g for g in groups if g.setting.quantization.name != "none"]
    computed: dict[str, set[str]] = {}
    for g in quantized:
        computed.setdefault(_kind(g.setting), set()).add(g.setting.quantization.compute_dtype)
    return {
        g.condition: (
            _kind(g.setting)
            + (f", compute {g.setting.quantization.compute_dtype}" if len(computed[_kind(g.setting)]) > 1 else "")
        )
        for g in quantized
    }


def _kind(setting: Cell) -> str:
    return setting.quantization.name + (" + double quant" if setting.quantization.double_quant else "")


def _share(quantized: ConditionSummary, counterpart: ConditionSummary) -> float | None:
    small, large = quantized.mean("weight_bytes"), counterpart.mean("weight_bytes")
    return small / large if small is not None and large else None


def _pooled(metric: str, kind: str, gaps: Sequence[Gap], verdicts: Verdicts) -> Comparison | None:
    tables = [
        (verdicts.pairing.seeds(metric, g.condition), verdicts.pairing.seeds(metric, g.unquantized_counterpart))
        for g in gaps
    ]
    if not tables:
        return None
    shared = sorted(
        set.intersection(*(set(quantized) & set(counterparts) for quantized, counterparts in tables)) - {SEEDLESS}
    )
    if not shared:
        return None
    quantized, counterparts = (
        np.array([np.mean([pair[side][s] for pair in tables]) for s in shared]) for side in (0, 1)
    )
    errors = _item_errors(metric, gaps) if len(shared) > 1 else None
    d = difference(
        quantized,
        counterparts,
        errors,
        min((g.difference.items for g in gaps if g.difference.items), default=None) if errors else None,
    )
    low, high = d.interval or (None, None)
    margin = margin_of(metric, verdicts.rules)
    same = d.p_equivalent(margin) if margin is not None else None
    broken = sum(g.broken for g in gaps), sum({g.unquantized_counterpart: g.counterpart_broken for g in gaps}.values())
    return Comparison(
        metric,
        kind,
        "none",
        d.pairs,
        d.value,
        low,
        high,
        d.basis,
        d.p_value,
        None,
        margin,
        same,
        d.pairs > 1,
        *broken,
        *at_most(metric, d),
    )


def _item_errors(metric: str, gaps: Sequence[Gap]) -> tuple[float, float] | None:
    """The most that the pooled error can be; a pair whose items are unknown or never differ is taken for one like the
    others."""
    errors = [g.difference.item_errors for g in gaps if g.difference.item_errors]
    if described(metric).unit != "share" or not errors:
        return None
    return float(np.mean([k[0] for k in errors])), float(np.mean([k[1] for k in errors]))


def _with_own_verdict(t: TypeGap, verdicts: Verdicts) -> TypeGap:
    """One comparison has one verdict, in whatever family it stood first."""
    if t.pooled is None or len(t.gaps) != 1:
        return t
    (gap,) = t.gaps
    same = verdicts.own(t.pooled.metric, gap.condition, gap.unquantized_counterpart)
    return (
        t
        if same is None
        else replace(
            t,
            pooled=replace(
                same,
                condition=t.pooled.condition,
                reference=t.pooled.reference,
                low=t.pooled.low,
                high=t.pooled.high,
                basis=t.pooled.basis,
            ),
        )
    )
