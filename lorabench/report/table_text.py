"""What the results table says in words: the outcome of a condition, and the notes below the table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.rank_order import spearman
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.plain_settings import agrees
from lorabench.config.study import PublishedSpec, PublishedValue
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult
from lorabench.report.table_model import Column

_REFERENCES = 3  # named in a note
_LEAST_P = 0.001  # smaller ones are not told apart
_OUTCOMES = (
    ("diverged", "diverged"),
    ("out_of_memory", "out of memory"),
    ("failed", "failed"),
    ("skipped", "skipped: would not fit"),
    ("missing", "not run yet"),
)


def outcome_words(summary: ConditionSummary, results: Sequence[CellResult]) -> str:
    """ "diverged at step 12 (2 of 2)"; empty where all cells finished."""
    total, parts = summary.outcomes.total, []
    for kind, words in _OUTCOMES:
        number = int(getattr(summary.outcomes, kind))
        if number:
            steps = [r.error.step for r in results if r.outcome == kind and r.error and r.error.step is not None]
            where = f" at step {min(steps)}" if steps else ""
            where = f" from step {min(steps)}" if len(set(steps)) > 1 else where
            parts.append(f"{words}{where} ({number} of {total})")
    return "; ".join(parts)


def published_value(column: PublishedSpec, declared: Mapping[str, object]) -> PublishedValue | None:
    """The value that a published column has for a condition's declared setting."""
    return next((row for row in column.rows if agrees(dict(declared), row.at)), None)


def table_notes(analysis: StudyAnalysis, columns: Sequence[Column]) -> tuple[str, ...]:
    """The sentences below the table, in order: a base that was a GGUF file, the intervals, the references, the metric,
    the learning rates, the published columns."""
    return (
        *_base_notes(analysis),
        *_interval_notes(analysis, columns),
        *_reference_notes(analysis, columns),
        *_metric_notes(analysis),
        *_learning_rate_notes(analysis),
        *_time_notes(analysis),
        *_import_notes(analysis),
        *(_published_note(analysis, column) for column in analysis.study.published),
    )


def _base_notes(analysis: StudyAnalysis) -> Iterable[str]:
    for model, kind in analysis.gguf_types.items():
        yield f"The base is {model}, a GGUF file in {kind}, dequantized: every row carries the error of that form."


def _time_notes(analysis: StudyAnalysis) -> Iterable[str]:
    if analysis.timed_on is not None:
        yield (
            f"Cells ran on {len(set(analysis.machines.values()))} machines, whose times are not comparable: those shown"
            f" are of {analysis.timed_on} alone."
        )


def _interval_notes(analysis: StudyAnalysis, columns: Sequence[Column]) -> Iterable[str]:
    summaries, spread = analysis.summaries, [c.key for c in columns if c.spread]
    if not spread or not any(s.outcomes.finished for s in summaries):
        return
    single = any(s.outcomes.finished == 1 for s in summaries)
    statistics = [f for s in summaries for key in spread if (f := s.statistics.get(key))]
    alike = any(f.n > 1 and f.ci_half_width is None for f in statistics)
    none = " None is given where all seeds have the same value: how far others would lie is then unknown."
    yield (
        "± is the half-width of the mean's 95 % interval over seeds"
        f" (t){', of a single cell over its items' if single else ''}.{none if alike else ''}"
    )


def _reference_notes(analysis: StudyAnalysis, columns: Sequence[Column]) -> Iterable[str]:
    references, comparisons = tuple(dict.fromkeys(analysis.references.values())), analysis.comparisons
    if any(c.signed for c in columns):
        names = [analysis.label(r) for r in references]
        against = (
            " or ".join(names)
            if len(names) <= _REFERENCES
            else f"the reference of the same kind ({names[0]} and {len(names) - 1} others)"
        )
        bases = {c.basis for c in comparisons}
        over = (
            ["over seeds"] * ("seeds" in bases)
            + ["over seeds and items for accuracies"] * ("seeds and items" in bases)
            + ["over items where there is one cell on each side"] * ("items" in bases)
        )
        yield (
            f"Δ is the mean difference to {against}, paired by seed, with its 95 %"
            f" interval{' (' + '; '.join(over) + ')' if over else ''}, each taken alone."
        )
        compared = {c.condition for c in comparisons}
        alone = [s for s in map(analysis.summary, analysis.references) if s.outcomes.finished]
        alone = [s for s in alone if s.condition not in compared]
        if untrained := [s.label.text for s in alone if not s.seeds]:
            yield f"No Δ for {', '.join(untrained)}: nothing is trained there, so there is no seed to pair by."
        if unpaired := [s.label.text for s in alone if s.seeds]:
            yield f"No Δ for {', '.join(unpaired)}: no seed in common with the reference."
    elif not references:
        yield "The study has no reference condition (such as full fine-tuning), so no differences are given."
    fewer = [
        f"{analysis.label(c.condition)} ({c.pairs} of {n})"
        for c in comparisons
        if c.metric == analysis.metric and c.pairs < (n := analysis.summary(c.condition).outcomes.finished)
    ]
    if fewer:
        yield f"Δ over fewer seeds than the mean, since the reference lacks the others: {', '.join(fewer)}."
    if unfinished := [analysis.label(r) for r in references if not analysis.summary(r).outcomes.finished]:
        yield f"No Δ to {', '.join(unfinished)}: none of its cells finished."


def _metric_notes(analysis: StudyAnalysis) -> Iterable[str]:
    if analysis.metric != analysis.requested_metric and analysis.results:
        yield (
            f"The study's metric {analysis.requested_metric} cannot be judged here; {analysis.metric} stands in for it."
        )


def _learning_rate_notes(analysis: StudyAnalysis) -> Iterable[str]:
    tunings = analysis.tunings
    if not tunings:
        return
    trained = [s for s in analysis.summaries if s.seeds]
    whose = (
        "all trained conditions"
        if len(tunings) == len(trained)
        else ", ".join(analysis.label(t.condition) for t in tunings)
    )
    ends = [f"{analysis.label(t.condition)} ({t.chosen:g})" for t in tunings if t.chosen is not None and t.edge]
    beyond = f" The grid ends at what {', '.join(ends)} chose: a better rate may lie beyond." if ends else ""
    yield f"Learning rates were tuned for {whose}: reported at the rate of the lowest validation loss.{beyond}"


def _import_notes(analysis: StudyAnalysis) -> Iterable[str]:
    """Where an imported study's numbers come from, and what its importer says of them."""
    source = analysis.study.imported
    if source is not None:
        named = f"{source.sources[0]}{f' and {len(source.sources) - 1} more' if len(source.sources) > 1 else ''}"
        yield f"Imported ({source.importer}) from {named}: nothing of it was measured by lorabench."
        yield from source.notes


def _published_note(analysis: StudyAnalysis, column: PublishedSpec) -> str:
    """Where a published column comes from, and whether its conditions come in the same order as here."""
    m = metric(analysis.metric)
    pairs, matched = [], []
    for s in analysis.summaries:
        row, mean = published_value(column, analysis.declared(s.condition)), s.mean(m.name)
        if row is not None and mean is not None and not s.outcomes.broken:  # survivors alone would flatter
            matched.append(id(row))
            with contextlib.suppress(ValueError):
                pairs.append((mean, float(row.value)))
    idle = len(column.rows) - len(set(matched))
    unused = f"; {idle} of its {len(column.rows)} values belong to no finished condition here" if idle else ""
    source = f"{column.label}: as printed in {column.source}{unused}."
    correlation = (
        spearman([a for a, _ in pairs], [b for _, b in pairs])
        if len(pairs) > 3 and len(set(matched)) == len(matched)
        else None
    )
    if correlation is None:
        return source
    rho, p = correlation
    chance = f"p = {p:.2g}" if p >= _LEAST_P else f"p < {_LEAST_P:g}"
    return (
        f"{source} Its order and that of our {m.label} ({m.better} is better): Spearman's rho"
        f" {f'{rho:+.2f}'.replace('-', '−')} ({chance}) over {len(pairs)} conditions."
    )
