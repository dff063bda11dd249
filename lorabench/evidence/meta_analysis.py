"""What the published gaps say of a new setting in a source that nobody has seen: a mean and a prediction interval.

    interval = mean +- width x sd x t(degrees)

Four models, one a contrast (`gaps.Contrast`), each a mixed model over sources (random_effects) with the moderators that
its rows carry (moderators.py). Kinds of task are drawn around a common mean, so that a kind with one source is pulled
to the others; an effect of a source is one of a source in one kind, since a source in which ranks matter for code need
not be one in which they matter for chat. The priors are weakly informative: a step in any moderator is not expected to
move a score by more than a few points. That of the rank lies above zero, since what rank r can learn, rank 2r can
learn, too.

The height of a rank is 0 in the limit of high ranks (rank_height.py), so that the constant of `full` is that limit: an
adapter that is full fine-tuning written otherwise, which is expected to be no better and no worse. What a source's own
effect moves is what an adapter misses: it counts in proportion to the height. The level of tables with untuned rates is
their own, however far off, and says nothing of tuned ones: they speak for slopes and spreads.

Width and degrees are those that the sources themselves show when each is left out (calibration.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lorabench.evidence.gaps import Contrast, Gap
from lorabench.evidence.moderators import CONTRASTS, KINDS, Form, Setting, arrays, design, prior_of, setting_of
from lorabench.evidence.random_effects import Fit, Rows, Variances, fit

MODERATORS = ("rank", "against_rank", "parameters", "tokens", "scaling")
__all__ = ["CONTRASTS", "KINDS", "Setting", "setting_of"]


@dataclass(frozen=True)
class Prediction:
    """Of a gap in points: positive is better than what it is held against."""

    mean: float
    sd: float
    degrees: float

    def interval(self, level: float = 0.8) -> tuple[float, float]:
        """Between which a new source's gap lies with this probability: Student's t."""
        half = self.sd * quantile(self.degrees, (1 + level) / 2)
        return self.mean - half, self.mean + half

    def plus(self, other: Prediction) -> Prediction:
        """Of two gaps in a row, of different sources. The degrees are the harmonic mean of both, weighted by variance:
        each is itself a draw of Student's t, whose sum Welch and Satterthwaite's degrees, which are for means with
        estimated variances, would make narrower than the wider of the two."""
        parts = (self.sd**2, self.degrees), (other.sd**2, other.degrees)
        total = sum(v for v, _ in parts)
        below = sum(v / d for v, d in parts)
        return Prediction(self.mean + other.mean, math.sqrt(total), total / below if below > 0 else math.inf)


def quantile(degrees: float, share: float) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit  # an answer that has no use for it need not wait

    return float(stdtrit(degrees, share))


@dataclass(frozen=True)
class Calibration:
    """How far sources that were left out lay from what was predicted of them: by Student's t of these degrees, and
    this many standard deviations wide."""

    width: float = 1.0
    degrees: float = math.inf


@dataclass(frozen=True)
class Range:
    """What the sources of a kind of task span, of one moderator; without any, nothing is known of its effect."""

    low: float
    high: float
    low_source: str
    high_source: str


Ranges = Mapping[tuple[str, str], Range]
"""by kind ("" for all) and moderator"""


@dataclass(frozen=True)
class MetaAnalysis:
    """The fit of one contrast. A setting beyond what its sources span is predicted at their edge."""

    contrast: Contrast
    fit: Fit
    ranges: Ranges
    form: Form
    """of its curves"""
    calibration: Calibration = Calibration()

    def predict(self, setting: Setting) -> Prediction:
        """Of one setting in a new source."""
        return self.predict_all([setting])[0]

    def predict_all(self, settings: Sequence[Setting]) -> list[Prediction]:
        """Of many, each in a new source of its own."""
        x, kind, loading, flagged, noise = arrays(self.contrast, self.form, [self.within(s) for s in settings])
        mean, sd, degrees = self.fit.predict(x, kind, loading, flagged, noise)
        width, most = self.calibration.width, self.calibration.degrees
        return [
            Prediction(float(m), width * float(s), min(most, float(d)))
            for m, s, d in zip(mean, sd, degrees, strict=True)
        ]

    def weights(self, setting: Setting) -> dict[str, float]:
        """How much of what the sources tell of it each of them brought, largest first; they sum to one."""
        shares: dict[str, float] = {}
        for name, share in self.fit.shares(design(self.contrast, self.form, self.within(setting))).items():
            if name:
                source = name.split("\t")[0]
                shares[source] = shares.get(source, 0.0) + share
        total = sum(shares.values()) or 1.0
        return {s: w / total for s, w in sorted(shares.items(), key=lambda item: -item[1])}

    def within(self, setting: Setting) -> Setting:
        """The setting at the edge of what the sources span where it lies beyond; without what none of them prints."""
        at: dict[str, Any] = {}
        for name in MODERATORS:
            value, spanned = getattr(setting, name), self.range_of(setting.kind, name)
            if value is not None:
                at[name] = None if spanned is None else min(max(value, spanned.low), spanned.high)
        return replace(setting, **at)

    def range_of(self, kind: str, moderator: str) -> Range | None:
        """What is spanned: of tokens by the kind itself, whose slope is its own, else by all."""
        return self.ranges.get((kind if moderator == "tokens" else "", moderator))


def meta_analysis(
    contrast: Contrast,
    gaps: Iterable[Gap],
    form: Form,
    variances: Variances | None = None,
    start: Variances | None = None,
) -> MetaAnalysis:
    """Fits one contrast to the gaps of it that are in points; at the variances given, else at the most probable, sought
    from `start`. Its intervals are not calibrated yet. A power of 0 is the logarithm, which knows no limit."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    found = fit(rows_of(contrast, form, mine), prior_of(contrast), variances, start)
    return MetaAnalysis(contrast, found, ranges_of(mine), form)


def ranges_of(gaps: Iterable[Gap]) -> Ranges:
    """What gaps span."""
    found: dict[tuple[str, str], Range] = {}
    for g in gaps:
        values = [(name, getattr(g, name)) for name in MODERATORS]
        if g.contrast == "rank":
            values += [("rank", g.against_rank), ("against_rank", g.rank)]  # two ends of one curve
        for name, value in values:
            if value is None:
                continue
            for kind in ("", g.kind):
                r = found.get((kind, name), Range(value, value, g.source, g.source))
                low = (value, g.source) if value < r.low else (r.low, r.low_source)
                high = (value, g.source) if value > r.high else (r.high, r.high_source)
                found[kind, name] = Range(low[0], high[0], low[1], high[1])
    return found


def with_own(known: MetaAnalysis, own: Iterable[Gap]) -> MetaAnalysis:
    """With gaps of the user's own studies as further sources, at the variances that are known."""
    from lorabench.evidence.random_effects import added

    mine = [g for g in own if g.contrast == known.contrast and g.unit == "points"]
    if not mine:
        return known
    share = known.fit.variances.noise_share  # a study's own variance is of the paired gap, and counts in full
    mine = [replace(g, noise=g.noise / share) for g in mine]
    extra = fit(rows_of(known.contrast, known.form, mine), known.fit.prior, known.fit.variances)
    return replace(known, fit=added(known.fit, extra))


def rows_of(contrast: Contrast, form: Form, gaps: Iterable[Gap]) -> Rows:
    """The gaps of one contrast in points, as arrays."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    x, kind, loading, flagged, noise = arrays(contrast, form, [setting_of(g) for g in mine])
    sources, source = np.unique([f"{g.source}\t{g.kind}" for g in mine], return_inverse=True)
    setting = np.unique([g.setting for g in mine], return_inverse=True)[1]
    y = np.array([g.value for g in mine])
    rows = Rows(y, x, noise, loading, flagged, kind, setting, source, tuple(str(s) for s in sources), KINDS)
    return rows.of(np.ones(len(y), dtype=bool))
