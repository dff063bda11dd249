"""The results table: `study_table` decides what stands in it (typed, raw values), exporters and `as_text` draw it.

Every condition of the study has a row, also those that failed, diverged or have not run; their outcome
stands in words. Each row keeps the ids of its cells.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.study import StudyAnalysis
from lorabench.analysis.verdict import candidates
from lorabench.record.metrics import is_accuracy, metric
from lorabench.record.store import Store
from lorabench.report.table_model import Column, Table, TableRow, Value, mean_value
from lorabench.report.table_text import outcome_words, published_value, table_notes
from lorabench.report.terminal import as_text
from lorabench.report.view import View, make_view

__all__ = ["Column", "Table", "TableRow", "Value", "as_text", "study_table", "table_of"]


_STATIC = (("trainable_parameters", 3), ("trainable_percent", 6), ("adapter_bytes", 7), ("weight_bytes", 5),
           ("train_peak_bytes", 3), ("run_reserved_bytes", 3), ("step_reserved_99th_bytes", 5), ("run_seconds", 4),
           ("tokens_per_second", 4))  # fmt: skip
_ELSEWHERE = ("wikipedia_forgetting", "wikipedia_forgetting_before_2026_07")  # in columns of their own
_LEARNED = (
    "learned_bits",
    "learned_bits_per_parameter",
)  # measured where data hold a known information, and then what a study is about


def study_table(store: Store) -> Table:
    """The table of a study's results: a row for each condition, a column for each metric that any of them has."""
    return table_of(make_view(store))


def table_of(view: View) -> Table:
    """The same of a study that is analysed already."""
    analysis = view.analysis
    columns = _columns(analysis)
    rows = tuple(
        TableRow(s.condition, s.cells, tuple(_value(c.key, s, analysis) for c in columns)) for s in analysis.summaries
    )
    filled = [i for i, c in enumerate(columns) if c.importance == 0 or any(r.values[i] is not None for r in rows)]
    rows = tuple(replace(r, values=tuple(r.values[i] for i in filled)) for r in rows)
    columns = tuple(columns[i] for i in filled)
    return Table(analysis.study.name, columns, _mark_best(columns, rows, analysis), table_notes(analysis, columns))


def accuracies(view: View) -> tuple[str, ...]:
    """The accuracies and exact matches that were measured."""
    return tuple(m for m in view.analysis.metrics if is_accuracy(m))


def _columns(analysis: StudyAnalysis) -> tuple[Column, ...]:
    columns = [Column("condition", "condition", align="left", importance=0)]
    if any(s.outcomes.finished != s.outcomes.total for s in analysis.summaries):
        meaning = "what became of the cells that did not finish"
        columns.append(Column("outcome", "outcome", align="left", importance=0, meaning=meaning))
    if analysis.tunings:
        meaning = "chosen by validation loss where it is tuned"
        columns.append(Column("learning_rate", "learning rate", importance=4, meaning=meaning))
    meaning = "finished replicates that the means are over"
    columns.append(Column("seeds", "seeds", "count", importance=1, meaning=meaning))
    columns.extend(_metric_column(name, importance) for name, importance in _STATIC)
    accuracy_names = tuple(m for m in analysis.metrics if is_accuracy(m))
    leading = (analysis.metric, "eval_loss", *_LEARNED, *accuracy_names[:1])
    for name in dict.fromkeys((*leading, *accuracy_names, "perplexity", "forgetting")):
        first = name in leading
        columns.append(replace(_metric_column(name, 1 if first else 9 if name == "perplexity" else 6), spread=True))
        if name != "perplexity":
            importance = (2 if name == analysis.metric else 4) if first else 8
            columns.append(_difference_column(name, importance))
    columns.extend(_metric_column(name, 6) for name in _ELSEWHERE)
    columns.extend(_imported_columns(analysis, {c.key for c in columns}))
    columns += [
        Column(f"published_{i + 1}", p.label, importance=3, meaning=f"as printed in {p.source}")
        for i, p in enumerate(analysis.study.published)
    ]
    return tuple(columns)


def _imported_columns(analysis: StudyAnalysis, shown: set[str]) -> tuple[Column, ...]:
    """Of tables and lm-eval's results every further metric that is better or worse: somebody chose to measure it."""
    if analysis.study.imported is None or analysis.study.imported.importer not in ("csv", "lm-eval"):
        return ()
    names = (m for m in analysis.metrics if m not in shown and metric(m).better != "none" and m != "eval_seconds")
    return tuple(replace(_metric_column(name, 5), spread=True) for name in names)


def _metric_column(name: str, importance: int) -> Column:
    m = metric(name)
    return Column(name, m.label, m.unit, m.better, meaning=m.meaning, importance=importance)


def _difference_column(name: str, importance: int) -> Column:
    m = metric(name)
    meaning = f"{m.label}: mean paired difference to the reference with its 95 % interval"
    key, label = f"{name}_difference", f"Δ {m.label}"
    return Column(key, label, m.unit, m.better, signed=True, meaning=meaning, importance=importance)


def _value(key: str, summary: ConditionSummary, analysis: StudyAnalysis) -> Value | None:
    if key == "condition":
        return Value(summary.label.text)
    if key == "outcome":
        return Value(outcome_words(summary, analysis.of_condition(summary.condition)) or "finished")
    if key == "learning_rate":
        return _learning_rate(summary, analysis)
    if key == "seeds":
        return Value(summary.outcomes.finished)
    if key.startswith("published_"):
        column = analysis.study.published[int(key.removeprefix("published_")) - 1]
        row = published_value(column, analysis.declared(summary.condition))
        return Value(row.value) if row else None
    if key.endswith("_difference"):
        c = analysis.comparison(key.removesuffix("_difference"), summary.condition)
        return Value(c.difference, low=c.low, high=c.high) if c else None
    statistic = summary.statistics.get(key)
    return mean_value(statistic, metric(key).unit) if statistic else None


def _learning_rate(summary: ConditionSummary, analysis: StudyAnalysis) -> Value | None:
    """Of a trained condition whose results so far all have the same one."""
    results = analysis.of_condition(summary.condition) if summary.seeds else ()
    learning_rates = {r.cell.training.fixed_learning_rate for r in results}
    return Value(f"{min(learning_rates):g}") if len(learning_rates) == 1 else None


def _mark_best(
    columns: tuple[Column, ...], rows: tuple[TableRow, ...], analysis: StudyAnalysis
) -> tuple[TableRow, ...]:
    """The best of each column with a direction and each task, among trained conditions that finished whole, with as
    many seeds as any (as analysis.verdict calls one best); none where all are equal."""
    marked = [list(r.values) for r in rows]
    tasks = [set(members) for members in analysis.by_task().values()]
    for (j, column), task in itertools.product(enumerate(columns), tasks):
        if column.better == "none" or column.signed:
            continue
        able = {s.condition for s in candidates([s for s in analysis.summaries if s.condition in task], column.key)}
        eligible = [i for i, s in enumerate(analysis.summaries) if s.condition in able]
        numbers = {i: v.value for i in eligible if (v := rows[i].values[j]) and isinstance(v.value, float)}
        if len(set(numbers.values())) < 2:
            continue
        best = min(numbers.values()) if column.better == "lower" else max(numbers.values())
        for i, number in numbers.items():
            value = marked[i][j]
            if number == best and value:
                marked[i][j] = replace(value, best=True)
    return tuple(replace(r, values=tuple(v)) for r, v in zip(rows, marked, strict=True))
