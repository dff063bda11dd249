"""What the published gaps say of a new setting in a source that nobody has seen: a mean and a prediction interval.

    interval = mean +- width x sd x t(degrees)

Four models, one a contrast (`gaps.Contrast`), each a mixed model over sources (random_effects) with the moderators that
its rows carry:

    full     1, untuned, log10 parameters, log10 tokens, height of the rank, log2 scaling; kind of task and its slopes;
             adapter
    rank     each times the distance d = height(rank) - height(reference): 1, parameters, tokens, alpha follows,
             untuned, kind
    method   untuned, kind, method
    storage  kind, storage, log10 parameters

Sizes are centred at 7e9 parameters, 1e8 training tokens, rank 16, scaling 1; what a row does not carry stands at the
centre. Kinds of task are drawn around a common mean, so that a kind with one source is pulled to the others; an effect
of a source is one of a source in one kind, since a source in which ranks matter for code need not be one in which they
matter for chat. The priors are weakly informative: a step in any moderator is not expected to move a score by more than
a few points. That of the rank lies above zero, since what rank r can learn, rank 2r can learn, too.

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

from lorabench.evidence.gaps import METHODS, STORAGES, Contrast, Gap
from lorabench.evidence.random_effects import Array, Fit, Prior, Rows, Variances, fit
from lorabench.evidence.rank_height import CENTER, height

KINDS = (
    "classification", "instruction", "math", "code", "continued-pretraining", "commonsense", "generation", "other",
)  # fmt: skip
MODERATORS = ("rank", "against_rank", "parameters", "tokens", "scaling")
CONTRASTS: tuple[Contrast, ...] = ("full", "rank", "method", "storage")
UNTUNED = 10.0
"""points, standard deviation of the level of untuned tables: as far as the largest tuned gap of a source (code, -13)"""
_ADAPTER_EFFECTS = ("rslora", "dora", "pissa")


@dataclass(frozen=True)
class Setting:
    """What a gap is asked for, or was printed for; absent: not known."""

    kind: str
    method: str = "lora"
    rank: float | None = None
    against_rank: float | None = None
    storage: str = "none"
    parameters: float | None = None
    tokens: float | None = None
    scaling: float | None = None
    alpha_moves: bool | None = None
    tuned: bool = True
    flagged: bool = False
    noise: float = 0.0


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
        """Of two gaps in a row, of different sources; degrees of freedom as Welch and Satterthwaite have them."""
        parts = (self.sd**2, self.degrees), (other.sd**2, other.degrees)
        total = sum(v for v, _ in parts)
        below = sum(v**2 / d for v, d in parts)
        return Prediction(
            self.mean + other.mean, math.sqrt(total), total**2 / below if below > 0 else min(d for _, d in parts)
        )


def quantile(degrees: float, share: float) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit  # an answer that has no use for it need not wait

    return float(stdtrit(degrees, share))


def setting_of(gap: Gap) -> Setting:
    """A printed gap as a question."""
    return Setting(
        gap.kind, gap.method, gap.rank, gap.against_rank, gap.storage, gap.parameters, gap.tokens, gap.scaling,
        gap.alpha_moves, not gap.untuned, gap.flagged, gap.noise,
    )  # fmt: skip


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
    power: float
    """of the rank"""
    calibration: Calibration = Calibration()

    def predict(self, setting: Setting) -> Prediction:
        """Of one setting in a new source."""
        return self.predict_all([setting])[0]

    def predict_all(self, settings: Sequence[Setting]) -> list[Prediction]:
        """Of many, each in a new source of its own."""
        x, kind, loading, flagged, noise = _arrays(self.contrast, self.power, [self.within(s) for s in settings])
        mean, sd, degrees = self.fit.predict(x, kind, loading, flagged, noise)
        width, most = self.calibration.width, self.calibration.degrees
        return [
            Prediction(float(m), width * float(s), min(most, float(d)))
            for m, s, d in zip(mean, sd, degrees, strict=True)
        ]

    def weights(self, setting: Setting) -> dict[str, float]:
        """How much of what the sources tell of it each of them brought, largest first; they sum to one."""
        shares: dict[str, float] = {}
        for name, share in self.fit.shares(design(self.contrast, self.power, self.within(setting))).items():
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
    power: float,
    variances: Variances | None = None,
    start: Variances | None = None,
) -> MetaAnalysis:
    """Fits one contrast to the gaps of it that are in points; at the variances given, else at the most probable, sought
    from `start`. Its intervals are not calibrated yet. A power of 0 is the logarithm, which knows no limit."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    found = fit(rows_of(contrast, power, mine), prior_of(contrast), variances, start)
    return MetaAnalysis(contrast, found, ranges_of(mine), power)


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
    extra = fit(rows_of(known.contrast, known.power, mine), known.fit.prior, known.fit.variances)
    return replace(known, fit=added(known.fit, extra))


def rows_of(contrast: Contrast, power: float, gaps: Iterable[Gap]) -> Rows:
    """The gaps of one contrast in points, as arrays."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    x, kind, loading, flagged, noise = _arrays(contrast, power, [setting_of(g) for g in mine])
    sources, source = np.unique([f"{g.source}\t{g.kind}" for g in mine], return_inverse=True)
    setting = np.unique([g.setting for g in mine], return_inverse=True)[1]
    y = np.array([g.value for g in mine])
    rows = Rows(y, x, noise, loading, flagged, kind, setting, source, tuple(str(s) for s in sources), KINDS)
    return rows.of(np.ones(len(y), dtype=bool))


def kind_index(kind: str) -> int:
    """A kind that is not known is another."""
    return KINDS.index(kind if kind in KINDS else "other")


def _arrays(
    contrast: Contrast, power: float, settings: Sequence[Setting]
) -> tuple[Array, np.ndarray, Array, Array, Array]:
    x = np.array([design(contrast, power, s) for s in settings])
    kind = np.array([kind_index(s.kind) for s in settings])
    loading = np.array([_loading(contrast, power, s) for s in settings])
    flagged = np.array([float(s.flagged) for s in settings])
    return x, kind, loading, flagged, np.array([s.noise for s in settings])


def _log(value: float | None, center: float, base: float) -> float:
    return math.log(value / center, base) if value else 0.0


def _loading(contrast: Contrast, power: float, s: Setting) -> float:
    if contrast == "rank":
        return _distance(s, power)
    return height(s.rank, power) / height(CENTER, power) if contrast == "full" and power else 1.0


def _distance(s: Setting, power: float) -> float:
    return height(s.rank, power) - height(s.against_rank, power) if s.rank and s.against_rank else 0.0


def design(contrast: Contrast, power: float, s: Setting) -> Array:
    """The row of moderators of a setting."""
    size, tokens = _log(s.parameters, 7e9, 10), _log(s.tokens, 1e8, 10)
    kind = np.zeros(len(KINDS))
    kind[kind_index(s.kind)] = 1.0
    untuned = float(not s.tuned)
    if contrast == "full":
        rank = height(s.rank, power)
        adapter = [float(s.method == m) for m in _ADAPTER_EFFECTS]
        common = [1.0, untuned, size, tokens, rank, _log(s.scaling, 1.0, 2)]
        return np.array([*common, *kind, *(kind * rank), *(kind * tokens), *(kind * untuned), *adapter])
    if contrast == "rank":
        d = _distance(s, power)
        common = [d, d * size, d * tokens, d * float(bool(s.alpha_moves)), d * untuned]
        return np.array([*common, *(kind * d), *(kind * d * tokens)])
    if contrast == "method":
        return np.array([untuned, *(float(s.method == m) for m in METHODS), *kind])
    return np.array([*(float(s.storage == q) for q in STORAGES), size, *kind])


def prior_of(contrast: Contrast) -> Prior:
    """Means and standard deviations in points for a step of one moderator; the means are zero but for a doubling of the
    rank, whose two ends, nothing and a step of GLUE's own spread over seeds (0.6), it lies between."""
    k = len(KINDS)
    full = [3.0, 2.0, 1.0, 1.0, 0.3, 0.5] + k * [2.0] + k * [0.5] + k * [2.0] + k * [UNTUNED]
    sd = {
        "full": full + len(_ADAPTER_EFFECTS) * [1.0],
        "rank": [0.3, 0.2, 0.2, 0.2, 0.3] + k * [0.5] + k * [0.3],
        "method": [1.0] + len(METHODS) * [1.0] + k * [0.5],
        "storage": len(STORAGES) * [1.0] + [0.5] + k * [0.5],
    }[contrast]
    mean = np.zeros(len(sd))
    if contrast in ("full", "rank"):
        mean[{"full": 4, "rank": 0}[contrast]] = 0.3
    return Prior(mean, np.array(sd))
