"""Which of a study's own conditions to take: the least that is not worse than the best by more than is tolerated.

A condition is good enough where it is shown not to be worse than the best by more than is tolerated (analysis.verdict:
the one-sided 95 % bound of how much worse it is, paired by seed). With one seed nothing is shown and nothing chosen,
the best mean neither: a repetition may put another one there. Ranks of one family are tested from the best downwards
and the first that fails ends it (analysis.rank_curve says why); other conditions are tested alone. Of conditions of one
cost, which differ in what is free (FREE), only the one of the best mean is taken: a rate is tuned, not decided by the
noise of a peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.families import apart_from, families
from lorabench.analysis.verdict import Verdicts, leader
from lorabench.config.fingerprint import canonical_json
from lorabench.record.metrics import metric as described

PEAK = "train_peak_bytes"
FREE = (
    "method.alpha",
    "method.dropout",
    "training.learning_rate",
    "training.schedule",
    "training.warmup",
    "training.weight_decay",
    "training.max_grad_norm",
)


@dataclass(frozen=True)
class Option:
    """One condition of a study as a choice."""

    condition: str
    label: str
    family: int
    """conditions of one family differ in rank alone; -1 for one that has no rank"""
    rank: int | None
    cost: str
    """the same for conditions that differ in what costs nothing"""
    trainable_parameters: int
    peak_bytes: int | None
    """measured peak of training; absent where it was not measured"""
    mean: float
    worse: float
    """mean loss against the best, in the metric's unit; 0 for the best itself"""
    bound: float | None
    """one-sided 95 % bound of it; 0 for the best itself, absent where no noise is known"""
    seeds: int
    repeated: bool = True
    """whether a claim or a choice may rest on it: with one seed the bound speaks for the items alone, and the best mean
    for one run"""
    best: bool = False
    """whether it is the one that the others stand beside"""


def comparison_groups(groups: Sequence[Replicates]) -> tuple[tuple[Replicates, ...], ...]:
    """Conditions that may be held against each other: of one model and one task. Order of the study."""
    members_by_key: dict[str, list[Replicates]] = {}
    for g in groups:
        members_by_key.setdefault(
            canonical_json([g.declared["model"]["name"], g.declared["task"], g.setting.fingerprints.data]), []
        ).append(g)
    return tuple(tuple(members) for members in members_by_key.values())


def trained_options(
    groups: Sequence[Replicates], summaries: Sequence[ConditionSummary], verdicts: Verdicts, metric: str
) -> tuple[Option, ...]:
    """Every trained condition of a comparison group that finished whole, beside the best of them; none where the metric
    has no better and worse. Order of the study."""
    by_condition = {s.condition: s for s in summaries}
    able = [
        g
        for g in groups
        if g.trains and by_condition[g.condition].comparable and metric in by_condition[g.condition].statistics
    ]
    best = leader([by_condition[g.condition] for g in able], metric)
    if best is None:
        return ()
    place = {g.condition: i for i, members in enumerate(families(able, by_condition)) for g in members}
    return tuple(
        _option(g, by_condition[g.condition], place.get(g.condition, -1), best, verdicts, metric) for g in able
    )


def best_option(options: Sequence[Option]) -> Option:
    """The one that the others of a comparison group stand beside."""
    return next(o for o in options if o.best)


def select(options: Sequence[Option], tolerated: float, memory_bytes: float | None = None) -> Option | None:
    """Of the options that fit into the memory and are good enough the one of fewest trained parameters, then of least
    memory; None where there is none."""
    fit = [
        o for o in tuned(options) if memory_bytes is None or (o.peak_bytes is not None and o.peak_bytes <= memory_bytes)
    ]
    good = [o for o in fit if enough(o, options, tolerated)]
    return min(good, key=lambda o: (o.trainable_parameters, o.peak_bytes or 0, o.condition), default=None)


def tuned(options: Sequence[Option]) -> tuple[Option, ...]:
    """Of options of one cost the one of the best mean."""
    first: dict[str, Option] = {}
    for o in sorted(options, key=lambda o: (o.worse, o.condition)):
        first.setdefault(o.cost, o)
    return tuple(o for o in options if first[o.cost] is o)


def enough(option: Option, options: Sequence[Option], tolerated: float) -> bool:
    """Whether an option is shown to be within the tolerated loss, and so is every rank above it of its family up to the
    family's best."""
    mates = [o for o in options if o.family == option.family and o.family >= 0 and o.rank is not None]
    best = min((o.worse for o in mates), default=0.0)
    top = max((o.rank or 0 for o in mates if o.worse == best), default=0)
    between = [o for o in mates if (option.rank or 0) <= (o.rank or 0) <= max(top, option.rank or 0)] or [option]
    return all(o.repeated and o.bound is not None and o.bound <= tolerated for o in between)


def _option(
    g: Replicates, s: ConditionSummary, family: int, best: ConditionSummary, verdicts: Verdicts, metric: str
) -> Option:
    statistic, peak, sign = s.statistics[metric], s.mean(PEAK), -1.0 if described(metric).better == "higher" else 1.0
    worse, bound, repeated = sign * (statistic.mean - best.statistics[metric].mean), None, False
    if s is best:
        worse, bound, repeated = 0.0, 0.0, statistic.n > 1
    elif (c := verdicts.of(metric, s.condition, best.condition)) is not None:
        worse, bound, repeated = sign * c.difference, c.worse_at_most, c.repeated
    return Option(
        g.condition,
        s.label.text,
        family,
        g.setting.method.rank,
        apart_from(g, *FREE),
        int(s.mean("trainable_parameters") or 0),
        None if peak is None else round(peak),
        statistic.mean,
        worse,
        bound,
        statistic.n,
        repeated,
        s is best,
    )
