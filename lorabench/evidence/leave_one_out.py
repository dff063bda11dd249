"""How far the meta-analysis may be trusted: each source is left out, the rest is fitted anew, variances and all, and
what it would have said of the source is held against what the source printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lorabench.evidence.calibration import calibrated
from lorabench.evidence.gaps import Contrast, Gap
from lorabench.evidence.learning_rate_model import (
    RULES,
    PublishedRate,
    RatePrediction,
    rate_model,
)
from lorabench.evidence.meta_analysis import MetaAnalysis, Prediction, quantile, setting_of
from lorabench.evidence.random_effects import Variances
from lorabench.evidence.rank_height import POWERS

LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class LeftOut:
    """A gap and what was predicted of it without its source."""

    gap: Gap
    prediction: Prediction

    def covered(self, level: float) -> bool:
        """Whether the prediction interval holds it."""
        away = abs(self.gap.value - self.prediction.mean)
        return away <= self.prediction.sd * quantile(self.prediction.degrees, (1 + level) / 2)


def without_each(
    contrast: Contrast, gaps: Sequence[Gap], start: Variances | None = None, powers: Sequence[float] = POWERS
) -> dict[str, MetaAnalysis]:
    """By source, what is fitted without it: coefficients, variances, power of the rank and the width of its
    intervals."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    names = dict.fromkeys(g.source for g in mine)
    return {s: calibrated(contrast, [g for g in mine if g.source != s], start, powers) for s in names}


def left_out(known: Mapping[str, MetaAnalysis], gaps: Sequence[Gap]) -> list[LeftOut]:
    """Every gap in points, predicted without its source."""
    return [f for s, m in known.items() for f in held_out(m, [g for g in gaps if g.source == s])]


def held_out(known: MetaAnalysis, gaps: Iterable[Gap]) -> list[LeftOut]:
    """Gaps of sources that a fit has not seen."""
    mine = [g for g in gaps if g.contrast == known.contrast and g.unit == "points"]
    if not mine:
        return []
    return [LeftOut(g, p) for g, p in zip(mine, known.predict_all([setting_of(g) for g in mine]), strict=True)]


def coverage(found: Sequence[LeftOut], level: float) -> tuple[float, float]:
    """Share of gaps that the interval holds: over rows, and with each source counted once."""
    by_source: dict[str, list[bool]] = {}
    for f in found:
        by_source.setdefault(f.gap.source, []).append(f.covered(level))
    rows = [c for of in by_source.values() for c in of]
    return sum(rows) / len(rows), sum(sum(of) / len(of) for of in by_source.values()) / len(by_source)


def share_interval(share: float, sources: int) -> tuple[float, float]:
    """Of a share that so many sources showed, 95 %: Jeffreys' interval, as if gaps of one source were one draw, which
    errors that they have in common make them at the worst (Brown, Cai and DasGupta 2001)."""
    from scipy.special import betaincinv

    inside = share * sources
    low, high = (float(betaincinv(inside + 0.5, sources - inside + 0.5, p)) for p in (0.025, 0.975))
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


@dataclass(frozen=True)
class RateLeftOut:
    """A published best rate and what was said of it without its source, and by the rules that circulate."""

    published: PublishedRate
    prediction: RatePrediction

    def errors(self) -> dict[str, float]:
        """|log| of the factor between the best rate and each rule's."""
        setting = self.published.setting
        said = {MODEL: self.prediction.rate} | {name: rule(setting) for name, rule in RULES.items()}
        return {rule: abs(math.log(rate / self.published.rate)) for rule, rate in said.items()}


MODEL = "model with rules"


def rates_left_out(rates: Sequence[PublishedRate]) -> list[RateLeftOut]:
    """Every adapter's best rate, predicted by a model that was fitted without its source."""
    found = []
    for source in dict.fromkeys(r.source for r in rates):
        model = rate_model([r for r in rates if r.source != source])
        mine = [r for r in rates if r.source == source and r.setting.method != "full"]
        found += [RateLeftOut(r, model.predict(r.setting)) for r in mine]
    return found


def rate_errors(found: Sequence[RateLeftOut]) -> dict[str, dict[str, float]]:
    """By rule, factors: the median over rates, the mean (of logarithms) of the sources' medians, and their median."""
    by_source: dict[str, list[dict[str, float]]] = {}
    for f in found:
        by_source.setdefault(f.published.source, []).append(f.errors())
    rules = next(iter(by_source.values()))[0]
    out = {}
    for rule in rules:
        medians = [median(e[rule] for e in of) for of in by_source.values()]
        rows = median(e[rule] for of in by_source.values() for e in of)
        out[rule] = {"rates": math.exp(rows), "sources": math.exp(sum(medians) / len(medians))}
        out[rule]["median of sources"] = math.exp(median(medians))
        out[rule] |= {s: math.exp(m) for s, m in zip(by_source, medians, strict=True)}
    return out
