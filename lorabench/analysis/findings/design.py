"""Findings about a study's design: metric, seeds, reference. Each function is named after its kind."""

from __future__ import annotations

from scipy import special

from lorabench.analysis.findings import design_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.metrics import metric

ENOUGH_SEEDS = 5  # t(0.975) is 12.7 with 2 seeds, 4.3 with 3, 2.8 with 5


def metric_absent(e: StudyAnalysis) -> Finding | None:
    """The study names a metric that no finished cell has, or some trained conditions have not, or of which nobody knows
    what is better."""
    requested, among = e.requested_metric, list(e.groups)
    some = requested == e.metric
    if some:
        among = [g for g in e.trained if e.by_condition[g.condition].mean(requested) is None]
    cells = e.finished(among)
    if not cells:
        return None
    usable = [
        m for m in e.metrics if metric(m).better != "none" and metric(m).unit in ("nats", "share", "bits", "ratio")
    ]
    lacking = e.labels([g for g in among if e.finished([g])]) if some else ()
    if requested in e.metrics and not some:
        sentence = text.metric_without_direction(requested, e.metric, usable)
    else:
        sentence = text.metric_not_measured(requested, len(cells), lacking, None if some else e.metric, usable)
    return Finding("metric_absent", "grave", "The study's metric cannot be judged", sentence, lacking, cells)


def one_seed(e: StudyAnalysis) -> Finding | None:
    """Conditions of which nothing was repeated."""
    seeds = _seeds(e)
    alone = [g for g in e.trained if seeds[g.condition] == 1]
    if not alone:
        return None
    some = len(alone) < sum(seeds[g.condition] > 0 for g in e.trained)
    sentence = text.one_seed(e.labels(alone), len(e.trained), ENOUGH_SEEDS, some=some)
    return Finding(
        "one_seed", "grave", "Seed noise is unknown", sentence, e.labels(alone) if some else (), e.finished(alone)
    )


def few_seeds(e: StudyAnalysis) -> Finding | None:
    """Conditions whose intervals are wide for want of seeds."""
    seeds = _seeds(e)
    few = [g for g in e.trained if 1 < seeds[g.condition] < ENOUGH_SEEDS]
    if not few:
        return None
    fewest_first = sorted(few, key=lambda g: seeds[g.condition])
    quantile = float(special.stdtrit(seeds[fewest_first[0].condition] - 1, 0.975))
    each = [(e.label(g.condition), seeds[g.condition]) for g in fewest_first]
    alike = len({n for n in seeds.values() if n}) == 1
    sentence = text.few_seeds(each, len(e.trained), quantile, ENOUGH_SEEDS, alike=alike)
    return Finding(
        "few_seeds",
        "caution",
        "Few seeds",
        sentence,
        e.labels(few) if len(few) < len(e.trained) else (),
        e.finished(few),
    )


def _seeds(e: StudyAnalysis) -> dict[str, int]:
    """Finished seeds of each trained condition."""
    return {
        g.condition: len({c.seed for c, i in zip(g.cells, g.ids, strict=True) if e.outcome(i) == "finished"})
        for g in e.trained
    }


def no_reference(e: StudyAnalysis) -> Finding | None:
    """Conditions that are compared with nothing in the metric that the answer is about."""
    among = e.trained or tuple(e.groups)
    compared = {c.condition for c in e.comparisons if c.metric == e.metric} | set(e.references.values())
    alone = [g for g in among if g.condition not in compared and e.finished([g])]
    if not alone:
        return None
    without, apart = ([g for g in alone if (g.condition in e.references) == named] for named in (False, True))
    sentences = []
    if len(e.groups) == 1:
        sentences.append(text.only_condition(e.label(alone[0].condition)))
    elif without:
        sentences.append(text.without_reference(e.labels(without), len(among), imported=e.study.imported is not None))
    if apart:
        references = sorted({e.label(e.references[g.condition]) for g in apart})
        sentences.append(text.no_shared_seed(len(apart), len(among), references))
    return Finding(
        "no_reference", "note", "Nothing to compare with", " ".join(sentences), e.labels(alone), e.finished(alone)
    )
