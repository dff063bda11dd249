"""The results table: `study_table` decides what stands in it (typed, raw values), exporters and `as_text` draw it.

Every condition of the study has a row, also those that failed, diverged or have not run; their outcome
stands in words. Each row keeps the ids of its cells.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.rank_order import spearman
from lorabench.analysis.verdict import candidates
from lorabench.config.decision import deciding_metric
from lorabench.config.plain_settings import agrees
from lorabench.config.study import PublishedSpec, PublishedValue
from lorabench.record.metrics import is_accuracy, metric
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.report.table_model import Column, Table, TableRow, Value
from lorabench.report.terminal import as_text
from lorabench.report.view import View, make_view

__all__ = ["Column", "Table", "TableRow", "Value", "as_text", "study_table", "table_of"]


_STATIC = (("trainable_parameters", 3), ("trainable_percent", 6), ("adapter_bytes", 7), ("weight_bytes", 5),
           ("train_peak_bytes", 3), ("tokens_per_second", 4))  # fmt: skip
_LEARNED = (
    "learned_bits",
    "learned_bits_per_parameter",
)  # measured where data hold a known information, and then what a study is about
_REFERENCES = 3  # named in a note
_LEAST_P = 0.001  # smaller ones are not told apart


def study_table(store: Store) -> Table:
    """The table of a study's results."""
    return table_of(make_view(store))


def table_of(view: View) -> Table:
    """The same from a view."""
    columns = _columns(view)
    rows = tuple(
        TableRow(s.condition, s.cells, tuple(_value(c.key, s, view) for c in columns)) for s in view.analysis.summaries
    )
    kept = [i for i, c in enumerate(columns) if c.importance == 0 or any(r.values[i] is not None for r in rows)]
    rows = tuple(replace(r, values=tuple(r.values[i] for i in kept)) for r in rows)
    columns = tuple(columns[i] for i in kept)
    return Table(view.analysis.study.name, columns, _mark_best(columns, rows, view), _notes(view, columns))


def accuracies(view: View) -> tuple[str, ...]:
    """The accuracies and exact matches that were measured."""
    return tuple(m for m in view.analysis.metrics if is_accuracy(m))


def _columns(view: View) -> tuple[Column, ...]:
    made = [Column("condition", "condition", align="left", importance=0)]
    if any(s.outcomes.finished != s.outcomes.total for s in view.analysis.summaries):
        made.append(
            Column(
                "outcome", "outcome", align="left", importance=0, meaning="what became of the cells that did not finish"
            )
        )
    if view.analysis.tunings:
        made.append(
            Column(
                "learning_rate", "learning rate", importance=4, meaning="chosen by validation loss where it is tuned"
            )
        )
    made.append(Column("seeds", "seeds", "count", importance=1, meaning="finished replicates that the means are over"))
    made.extend(_metric_column(name, importance) for name, importance in _STATIC)
    for name in dict.fromkeys(
        (view.analysis.metric, "eval_loss", *_LEARNED, *accuracies(view), "perplexity", "forgetting")
    ):
        first = name in (view.analysis.metric, "eval_loss", *_LEARNED) or name == next(iter(accuracies(view)), None)
        made.append(replace(_metric_column(name, 1 if first else 9 if name == "perplexity" else 6), spread=True))
        if name != "perplexity":
            m = metric(name)
            meaning = f"{m.label}: mean paired difference to the reference with its 95 % interval"
            key = f"{name}_difference"
            made.append(
                Column(
                    key,
                    f"Δ {m.label}",
                    m.unit,
                    m.better,
                    signed=True,
                    meaning=meaning,
                    importance=(2 if name == view.analysis.metric else 4) if first else 8,
                )
            )
    made += [
        Column(f"published_{i + 1}", p.label, importance=3, meaning=f"as printed in {p.source}")
        for i, p in enumerate(view.analysis.study.published)
    ]
    return tuple(made)


def _metric_column(name: str, importance: int) -> Column:
    m = metric(name)
    return Column(name, m.label, m.unit, m.better, meaning=m.meaning, importance=importance)


def _value(key: str, summary: ConditionSummary, view: View) -> Value | None:
    if key == "condition":
        return Value(summary.label.text)
    if key == "outcome":
        return Value(outcome_words(summary, view.analysis.of_condition(summary.condition)) or "finished")
    if key == "learning_rate":
        return _rate(summary, view)
    if key == "seeds":
        return Value(summary.outcomes.finished)
    if key.startswith("published_"):
        row = _published(
            view.analysis.study.published[int(key.removeprefix("published_")) - 1],
            view.analysis.declared(summary.condition),
        )
        return Value(row.value) if row else None
    if key.endswith("_difference"):
        found = view.analysis.comparison(key.removesuffix("_difference"), summary.condition)
        return Value(found.difference, low=found.low, high=found.high) if found else None
    statistic = summary.statistics.get(key)
    if statistic is None:
        return None
    low, high = (
        (None, None)
        if statistic.ci_half_width is None
        else (statistic.mean - statistic.ci_half_width, statistic.mean + statistic.ci_half_width)
    )
    if low is not None and high is not None and metric(key).unit == "share":
        low, high = max(0.0, low), min(1.0, high)
    return Value(statistic.mean, std=statistic.std, low=low, high=high, ci_half_width=statistic.ci_half_width)


def _rate(summary: ConditionSummary, view: View) -> Value | None:
    rates = (
        {
            view.analysis.results[i].cell.training.fixed_learning_rate
            for i in summary.cells
            if i in view.analysis.results
        }
        if summary.seeds
        else set()
    )
    return Value(f"{min(rates):g}") if len(rates) == 1 else None


def _published(column: PublishedSpec, declared: Mapping[str, Any]) -> PublishedValue | None:
    return next((row for row in column.rows if agrees(dict(declared), row.at)), None)


def outcome_words(summary: ConditionSummary, results: Sequence[CellResult]) -> str:
    """ "diverged at step 12 (2 of 2)"; empty where all cells finished."""
    total, said = summary.outcomes.total, []
    for kind, words in (
        ("diverged", "diverged"),
        ("out_of_memory", "out of memory"),
        ("failed", "failed"),
        ("skipped", "skipped: would not fit"),
        ("missing", "not run yet"),
    ):
        number = int(getattr(summary.outcomes, kind))
        if number:
            steps = [r.error.step for r in results if r.outcome == kind and r.error and r.error.step is not None]
            where = f" at step {min(steps)}" if steps else ""
            where = f" from step {min(steps)}" if len(set(steps)) > 1 else where
            said.append(f"{words}{where} ({number} of {total})")
    return "; ".join(said)


def _mark_best(columns: tuple[Column, ...], rows: tuple[TableRow, ...], view: View) -> tuple[TableRow, ...]:
    """The best of each column with a direction and each task, among trained conditions that finished whole, with as
    many seeds as any (as analysis.verdict calls one best); none where all are equal."""
    marked = [list(r.values) for r in rows]
    tasks = [set(members) for members in view.analysis.by_task().values()]
    for (j, column), task in itertools.product(enumerate(columns), tasks):
        if column.better == "none" or column.signed:
            continue
        able = {
            s.condition for s in candidates([s for s in view.analysis.summaries if s.condition in task], column.key)
        }
        eligible = [i for i, s in enumerate(view.analysis.summaries) if s.condition in able]
        seen = {i: v.value for i in eligible if (v := rows[i].values[j]) and isinstance(v.value, float)}
        if len(set(seen.values())) < 2:
            continue
        best = min(seen.values()) if column.better == "lower" else max(seen.values())
        for i, value in seen.items():
            old = marked[i][j]
            if value == best and old:
                marked[i][j] = replace(old, best=True)
    return tuple(replace(r, values=tuple(v)) for r, v in zip(rows, marked, strict=True))


def _notes(view: View, columns: Sequence[Column]) -> tuple[str, ...]:
    notes = []
    if any(c.spread for c in columns) and any(s.outcomes.finished for s in view.analysis.summaries):
        single = any(s.outcomes.finished == 1 for s in view.analysis.summaries)
        alike = any(
            c.spread and f.n > 1 and f.ci_half_width is None
            for s in view.analysis.summaries
            for c in columns
            if (f := s.statistics.get(c.key))
        )
        none = (
            " None is given where all seeds have the same value: how far others would lie is then unknown."
            if alike
            else ""
        )
        notes.append(
            "± is the half-width of the mean's 95 % interval over seeds"
            f" (t){', of a single cell over its items' if single else ''}.{none}"
        )
    if any(c.signed for c in columns):
        against = [view.analysis.label(r) for r in dict.fromkeys(view.analysis.references.values())]
        named = (
            " or ".join(against)
            if len(against) <= _REFERENCES
            else f"the reference of the same kind ({against[0]} and {len(against) - 1} others)"
        )
        bases = {c.basis for c in view.analysis.comparisons}
        over = (
            ["over seeds"] * ("seeds" in bases)
            + ["over seeds and items for accuracies"] * ("seeds and items" in bases)
            + ["over items where there is one cell on each side"] * ("items" in bases)
        )
        notes.append(
            f"Δ is the mean difference to {named}, paired by seed, with its 95 %"
            f" interval{' (' + '; '.join(over) + ')' if over else ''}, each taken alone."
        )
        compared = {c.condition for c in view.analysis.comparisons}
        alone_ids = [
            c for c in view.analysis.references if c not in compared and view.analysis.summary(c).outcomes.finished
        ]
        alone = [view.analysis.label(c) for c in alone_ids if view.analysis.summary(c).seeds]
        idle = [view.analysis.label(c) for c in alone_ids if not view.analysis.summary(c).seeds]
        if idle:
            notes.append(f"No Δ for {', '.join(idle)}: nothing is trained there, so there is no seed to pair by.")
        if alone:
            notes.append(f"No Δ for {', '.join(alone)}: no seed in common with the reference.")
    elif not view.analysis.references:
        notes.append("The study has no reference condition (such as full fine-tuning), so no differences are given.")
    short = [
        f"{view.analysis.label(c.condition)} ({c.pairs} of {n})"
        for c in view.analysis.comparisons
        if c.metric == view.analysis.metric and c.pairs < (n := view.analysis.summary(c.condition).outcomes.finished)
    ]
    if short:
        notes.append(f"Δ over fewer seeds than the mean, since the reference lacks the others: {', '.join(short)}.")
    gone = [
        view.analysis.label(r)
        for r in dict.fromkeys(view.analysis.references.values())
        if not view.analysis.summary(r).outcomes.finished
    ]
    if gone:
        notes.append(f"No Δ to {', '.join(gone)}: none of its cells finished.")
    wanted = deciding_metric(
        view.analysis.study.comparison, (g.setting.task for g in view.analysis.planned), view.analysis.metrics
    )
    if view.analysis.metric != wanted and view.analysis.results:
        notes.append(f"The study's metric {wanted} cannot be judged here; {view.analysis.metric} stands in for it.")
    if view.analysis.tunings:
        trained = [s for s in view.analysis.summaries if s.seeds]
        whose = (
            "all trained conditions"
            if len(view.analysis.tunings) == len(trained)
            else ", ".join(view.analysis.label(t.condition) for t in view.analysis.tunings)
        )
        ends = [
            f"{view.analysis.label(t.condition)} ({t.chosen:g})"
            for t in view.analysis.tunings
            if t.chosen is not None and t.edge
        ]
        beyond = f" The grid ends at what {', '.join(ends)} chose: a better rate may lie beyond." if ends else ""
        notes.append(
            f"Learning rates were tuned for {whose}: reported at the rate of the lowest validation loss.{beyond}"
        )
    notes += [_agreement(view, i) for i in range(len(view.analysis.study.published))]
    return tuple(notes)


def _agreement(view: View, i: int) -> str:
    """Where a published column comes from, and whether its order is ours."""
    column, m = view.analysis.study.published[i], metric(view.analysis.metric)
    pairs, used = [], []
    for s in view.analysis.summaries:
        row, ours = _published(column, view.analysis.declared(s.condition)), s.mean(m.name)
        if row is not None and ours is not None and not s.outcomes.broken:  # survivors alone would flatter
            used.append(id(row))
            with contextlib.suppress(ValueError):
                pairs.append((ours, float(row.value)))
    idle = len(column.rows) - len(set(used))
    unused = f"; {idle} of its {len(column.rows)} values belong to no finished condition here" if idle else ""
    told = f"{column.label}: as printed in {column.source}{unused}."
    found = (
        spearman([a for a, _ in pairs], [b for _, b in pairs])
        if len(pairs) > 3 and len(set(used)) == len(used)
        else None
    )
    if found is None:
        return told
    rho, p = found
    chance = f"p = {p:.2g}" if p >= _LEAST_P else f"p < {_LEAST_P:g}"
    return (
        f"{told} Its order and that of our {m.label} ({m.better} is better): Spearman's rho"
        f" {f'{rho:+.2f}'.replace('-', '−')} ({chance}) over {len(pairs)} conditions."
    )
