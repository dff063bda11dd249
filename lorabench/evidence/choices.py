"""Which rank, method and storage the published tables speak for, and what that choice would have cost in sources that
it was not made from.

    regret = best score of a table's column - score of what was chosen, in points

A rank is given up for a lower one only where the higher one is expected to do no better in SURE of the new sources;
what is learned at rank r can be learned at 2r. A quantized base is taken for its quality only where it is expected to
do better in SURE of them, since rounding alone adds error. A method is taken for the highest expected gap to LoRA.
Fixed rules are held to the same tables: a rank that a table lacks is the nearest that it has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lorabench.evidence.gaps import Contrast, Gap
from lorabench.evidence.meta_analysis import MetaAnalysis, Prediction, Setting, quantile, setting_of

SURE = 0.8
"""share of new sources"""
FIXED = {"always 8": 8.0, "always 16": 16.0, "largest that fits": math.inf}
CHOSEN = "meta-analysis"


@dataclass(frozen=True)
class Regret:
    """What a rule would have cost in one column of a table."""

    source: str
    column: int
    """of those of the source"""
    kind: str
    rule: str
    points: float


@dataclass(frozen=True)
class Against:
    """How much more the choices in a kind of task cost than a fixed rule's."""

    kind: str
    rule: str
    points: float
    """mean over sources; above 0 the fixed rule is better"""
    low: float | None
    """of Student's 95 % interval over sources; absent with one, and where nothing differs"""
    high: float | None
    sources: int
    columns: int
    differing: int
    """columns in which the two chose differently"""

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def cost_of_rank(analysis: MetaAnalysis, setting: Setting, rank: float, highest: float) -> Prediction:
    """The gap of a rank to a higher one: negative where it is worse."""
    gained = analysis.predict(replace(setting, rank=highest, against_rank=rank, noise=0.0))
    return replace(gained, mean=-gained.mean)


def least(gap: Prediction) -> float:
    """What a gap is at least in SURE of the new sources."""
    return gap.mean - gap.sd * quantile(gap.degrees, SURE)


def costs_nothing(cost: Prediction) -> bool:
    """Whether a lower rank may be taken."""
    return least(cost) >= 0


def chosen_rank(analysis: MetaAnalysis, setting: Setting, ranks: Sequence[float]) -> float:
    """The least rank that costs nothing, else the highest."""
    highest = max(ranks)
    lower = (r for r in sorted(ranks) if r < highest)
    return next((r for r in lower if costs_nothing(cost_of_rank(analysis, setting, r, highest))), highest)


def regrets(known: Mapping[str, MetaAnalysis], gaps: Sequence[Gap]) -> list[Regret]:
    """Of every column of every source, chosen by what was fitted without it."""
    found: list[Regret] = []
    for source, analysis in known.items():
        mine = [g for g in gaps if g.source == source and g.contrast == analysis.contrast and g.unit == "points"]
        for i, column in enumerate(_columns(analysis.contrast, mine)):
            found += _of_column(analysis, column, i)
    return found


def _columns(contrast: Contrast, gaps: Iterable[Gap]) -> list[list[Gap]]:
    """Gaps that share their reference."""
    found: dict[tuple[object, ...], list[Gap]] = defaultdict(list)
    for g in gaps:
        same = (g.setting,) if contrast == "rank" else (g.setting, g.rank, g.against_score)
        found[same].append(g)
    return list(found.values())


def _of_column(analysis: MetaAnalysis, column: Sequence[Gap], i: int) -> list[Regret]:
    first = column[0]
    scores: dict[object, float]
    rules: dict[str, object]
    if analysis.contrast == "rank":
        ranks = [first.against_rank or 0.0, *(g.rank or 0.0 for g in column)]
        scores = dict(zip(ranks, [0.0, *(g.value for g in column)], strict=True))
        taken = chosen_rank(analysis, setting_of(column[-1]), ranks)
        rules = {CHOSEN: taken}
        rules.update((name, _nearest(rank, ranks)) for name, rank in FIXED.items())
    else:
        names = [g.method if analysis.contrast == "method" else g.storage for g in column]
        plain = first.against_method if analysis.contrast == "method" else first.against_storage
        scores = dict(zip([plain, *names], [0.0, *(g.value for g in column)], strict=True))
        said = analysis.predict_all([replace(setting_of(g), noise=0.0) for g in column])
        value = least if analysis.contrast == "storage" else _mean
        means = {plain: 0.0} | {n: value(p) for n, p in zip(names, said, strict=True)}
        rules = {f"always {plain}": plain, CHOSEN: max(means, key=lambda n: means[n])}
        if "nf4" in names:
            rules["nf4 always"] = "nf4"
    best = max(scores.values())
    return [Regret(first.source, i, first.kind, name, best - scores[took]) for name, took in rules.items()]


def _mean(gap: Prediction) -> float:
    return gap.mean


def _nearest(rank: float, ranks: Sequence[float]) -> float:
    return max(ranks) if math.isinf(rank) else min(ranks, key=lambda r: (abs(math.log2(r / rank)), r))


def mean_regrets(found: Sequence[Regret]) -> dict[str, dict[str, float]]:
    """By kind of task and rule, each source counted once."""
    of: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in found:
        of[r.kind, r.rule][r.source].append(r.points)
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for (kind, rule), sources in sorted(of.items()):
        means[kind][rule] = sum(sum(p) / len(p) for p in sources.values()) / len(sources)
    return dict(means)


def against_fixed(found: Sequence[Regret]) -> list[Against]:
    """By kind of task and fixed rule: columns are averaged within their source, since they share its training."""
    chosen = {(r.source, r.column): r.points for r in found if r.rule == CHOSEN}
    more: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in found:
        if r.rule != CHOSEN:
            more[r.kind, r.rule][r.source].append(chosen[r.source, r.column] - r.points)
    return [_against(kind, rule, list(of.values())) for (kind, rule), of in sorted(more.items())]


def _against(kind: str, rule: str, more: Sequence[Sequence[float]]) -> Against:
    columns = [d for of in more for d in of]
    means = [sum(of) / len(of) for of in more]
    mean, differing = sum(means) / len(means), sum(abs(d) > 1e-9 for d in columns)
    low = high = None
    if len(means) > 1 and differing:
        spread = math.sqrt(sum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means))
        half = spread * quantile(len(means) - 1, 0.975)
        low, high = mean - half, mean + half
    return Against(kind, rule, mean, low, high, len(means), len(columns), differing)
