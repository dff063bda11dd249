"""Findings about a study's design: metric, seeds, reference. Each function is named after its kind."""

from __future__ import annotations

from scipy import special

from lorabench.analysis.findings.base import Finding, listed
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.metrics import metric

ENOUGH_SEEDS = 5  # t(0.975) is 12.7 with 2 seeds, 4.3 with 3, 2.8 with 5


def metric_absent(e: StudyAnalysis) -> Finding | None:
    """The study names a metric that no finished cell has, or some trained conditions have not, or of which nobody knows
    what is better."""
    wanted, among = e.wanted, list(e.groups)
    if wanted == e.metric:
        among = [g for g in e.trained if e.by_condition[g.condition].mean(wanted) is None]
    cells = e.finished(among)
    if not cells:
        return None
    known = [
        m for m in e.metrics if metric(m).better != "none" and metric(m).unit in ("nats", "share", "bits", "ratio")
    ]
    some = wanted == e.metric
    lacking = e.labels([g for g in among if e.finished([g])]) if some else ()
    number = "the one finished cell" if len(cells) == 1 else f"none of the {len(cells)} finished cells"
    unknown = not some and wanted in e.metrics
    why = (
        "of which lorabench does not know whether more is better"
        if unknown
        else f"which {number}{f' of {listed(lacking)}' if some else ''} has{' not' if len(cells) == 1 else ''}"
    )
    said = "" if some else f"; the report answers with {e.metric}"
    sentence = (
        f"comparison.metric is {wanted}, {why}{said}. Name one that was measured ({', '.join(known)}), or have it"
        " measured under evaluation."
    )
    return Finding("metric_absent", "grave", "The study's metric cannot be judged", sentence, lacking, cells)


def one_seed(e: StudyAnalysis) -> Finding | None:
    """Conditions of which nothing was repeated."""
    seeds = _seeds(e)
    alone = [g for g in e.trained if seeds[g.condition] == 1]
    if not alone:
        return None
    able = [g for g in e.trained if seeds[g.condition] > 1]
    who = (
        f"{len(alone)} of {len(e.trained)} trained conditions {'has' if len(alone) == 1 else 'have'} a single finished"
        f" seed ({listed(e.labels(alone))})"
        if able
        else f"None of the {len(e.trained)} trained conditions has more than one finished seed"
    )
    which = "no difference of theirs" if able else "no difference"
    sentence = (
        f"{who}, so how far a repetition would land is unknown: {which} can be called decisive. Give {ENOUGH_SEEDS}"
        " seeds or more."
    )
    return Finding(
        "one_seed", "grave", "Seed noise is unknown", sentence, e.labels(alone) if able else (), e.finished(alone)
    )


def few_seeds(e: StudyAnalysis) -> Finding | None:
    """Conditions whose intervals are wide for want of seeds."""
    seeds = _seeds(e)
    few = [g for g in e.trained if 1 < seeds[g.condition] < ENOUGH_SEEDS]
    if not few:
        return None
    least = min(seeds[g.condition] for g in few)
    factor = f"a t factor of {special.stdtrit(least - 1, 0.975):.1f}"
    if len({n for n in seeds.values() if n}) == 1:
        said = f"{least} seeds give wide intervals ({factor} against 2.0 with many)"
    else:
        each = listed(
            [f"{e.label(g.condition)} {seeds[g.condition]}" for g in sorted(few, key=lambda g: seeds[g.condition])]
        )
        said = (
            f"{len(few)} of {len(e.trained)} trained conditions {'has' if len(few) == 1 else 'have'} 2 to"
            f" {ENOUGH_SEEDS - 1} finished seeds ({each}), which {'gives' if len(few) == 1 else 'give'} wide intervals"
            f" ({factor} with {least} against 2.0 with many)"
        )
    sentence = f"{said}. {ENOUGH_SEEDS} or more seeds tell small differences apart."
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
    said = []
    if len(e.groups) == 1:
        said.append(
            f"{e.label(alone[0].condition)} is the only condition: there is nothing to compare it with. Include full"
            " fine-tuning, or another condition as `reference`."
        )
    elif without:
        said.append(
            f"{len(without)} of {len(among)} conditions have no reference ({listed(e.labels(without))}). Name one"
            " condition under `reference`."
        )
    if apart:
        wanted = sorted({e.label(e.references[g.condition]) for g in apart})
        said.append(
            f"{len(apart)} of {len(among)} conditions share no finished seed with their reference ({listed(wanted)}),"
            " so they are compared with nothing. Complete the reference's cells, or name a trained condition under"
            " `reference`."
        )
    return Finding(
        "no_reference", "note", "Nothing to compare with", " ".join(said), e.labels(alone), e.finished(alone)
    )
