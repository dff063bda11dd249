"""A study's results for pandas: `conditions` with all that is known of each condition, and the table of the report as
something that reads like a DataFrame.

Numbers are raw (bytes, seconds, nats, shares between 0 and 1). What was not measured, or has not run yet, is NaN (NA in
columns of whole numbers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from typing import Any

import pandas as pd

from lorabench.analysis.aggregate import ConditionSummary, Outcomes
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.study import StudyAnalysis
from lorabench.analysis.verdict import Comparison
from lorabench.config.fingerprint import flattened
from lorabench.record.frames import settings
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.report.table_model import Column, Table, Value, column_name, heading, mean_value, shown
from lorabench.report.terminal import as_text
from lorabench.report.view import View

_OF_A_CELL = ("cell", "seed", "learning_rate")
_WHOLE = ("rank", "seeds", "steps", "batch_size", "sequence_length", *(f.name for f in fields(Outcomes)))
_NUMBERS = ("_mean", "_std", "_ci_low", "_ci_high", "_difference", "_difference_ci_low", "_difference_ci_high", "_p")
_PLAIN = ("count", "percent", "bytes", "seconds", "tokens/s")  # units of metrics that have their mean alone
_PARTS = ("std", "low", "high")


def conditions(view: View) -> pd.DataFrame:
    """A row for each condition of the study, in its order, also for those that failed, diverged or have not run.

    condition, label                       id, and what the report calls it
    model ... sequence_length              its setting, as in cells.csv; further fields that differ between conditions
                                           by their dotted name
    learning_rate, tuned                   the rate that its numbers are reported at (NaN where none was chosen yet),
                                           whether it was chosen among several
    seeds, finished ... missing            how many seeds are planned, and what became of their cells at that rate
    reference                              label of the condition it is compared with
    <metric>_mean, _std, _n                mean and sample deviation over the n finished seeds, in the metric's own
                                           unit; counts, bytes and seconds have their mean alone, the parts of a
                                           predicted peak are in wide()
    <metric>_ci_low, _ci_high              95 % interval of the mean (NaN where no noise is known)
    <metric>_difference, _ci_low, _ci_high mean paired difference to the reference, and its 95 % interval taken alone
    <metric>_p                             of no difference, corrected by Holm over the study's comparisons in this
                                           metric; these three, and the verdict, of the metrics that are compared: the
                                           study's own, held-out loss, accuracies, forgetting
    <metric>_verdict                       better, equivalent, non-inferior, worse or not decisive (analysis.verdict
                                           says what each needs)
    """
    analysis = view.analysis
    compared = tuple(dict.fromkeys(c.metric for c in analysis.comparisons))
    further = _further(analysis)
    rows = [_row(analysis, g, s, further, compared) for g, s in zip(analysis.groups, analysis.summaries, strict=True)]
    data = pd.DataFrame(rows)
    for name in data.columns:
        if name in _WHOLE or name.endswith("_n"):
            data[name] = data[name].astype("Int64")
        elif name == "tuned":
            data[name] = data[name].astype("boolean")
        elif name in ("learning_rate", "alpha") or any(
            name == f"{m}{end}" for m in (*analysis.metrics, *compared) for end in _NUMBERS
        ):
            data[name] = data[name].astype("float64")
    return data


def _further(analysis: StudyAnalysis) -> tuple[str, ...]:
    """Dotted fields that differ between conditions and have no column of their own."""
    own_columns = {
        "model.name",
        "task.name",
        "method.name",
        "method.rank",
        "method.alpha",
        "method.target_modules",
        "quantization.name",
        "quantization.double_quant",
        "training.steps",
        "training.epochs",
        "training.batch_size",
        "training.sequence_length",
    }
    plain = [flattened(g.declared) for g in analysis.groups]
    every = dict.fromkeys(
        f for p in plain for f in p if f not in own_columns and not f.startswith("training.learning_rate")
    )
    return tuple(f for f in every if len({str(p.get(f)) for p in plain}) > 1)


def _row(
    analysis: StudyAnalysis, g: Replicates, s: ConditionSummary, further: tuple[str, ...], compared: tuple[str, ...]
) -> dict[str, object]:
    steps = {r.steps for i in g.ids if (r := analysis.results.get(i)) is not None}
    own, plain = settings(g.setting, steps.pop() if len(steps) == 1 else None), flattened(g.declared)
    learning_rates = {c.training.fixed_learning_rate for c in g.cells} if g.trains else set()
    row: dict[str, object] = {"condition": s.condition, "label": s.label.text} | {
        k: v for k, v in own.items() if k not in (*_OF_A_CELL, "condition")
    }
    row |= {f: ",".join(map(str, v)) if isinstance(v := plain.get(f), list) else v for f in further}
    row |= {
        "learning_rate": learning_rates.pop() if len(learning_rates) == 1 else None,
        "tuned": bool(g.setting.tuned_over),
    }
    row |= {"seeds": len({c.seed for c in g.cells}) if g.trains else 1} | {
        f.name: getattr(s.outcomes, f.name) for f in fields(Outcomes)
    }
    reference = analysis.references.get(s.condition)
    row["reference"] = None if reference is None else analysis.label(reference)
    for name in dict.fromkeys((*compared, *analysis.metrics)):  # what is compared stands first
        if name in PREDICTED_PARTS:
            continue
        row |= _of_metric(s, name) | (
            _of_comparison(name, analysis.comparison(name, s.condition)) if name in compared else {}
        )
    return row


def _of_metric(s: ConditionSummary, name: str) -> dict[str, object]:
    statistic, unit = s.statistics.get(name), metric(name).unit
    if unit in _PLAIN:
        return {f"{name}_mean": None if statistic is None else statistic.mean}
    if statistic is None:
        return {**{f"{name}_{part}": None for part in ("mean", "ci_low", "ci_high", "std")}, f"{name}_n": 0}
    value = mean_value(statistic, unit)
    parts = {"mean": value.value, "ci_low": value.low, "ci_high": value.high, "std": value.std, "n": statistic.n}
    return {f"{name}_{part}": number for part, number in parts.items()}


def _of_comparison(name: str, c: Comparison | None) -> dict[str, object]:
    ends = ("difference", "difference_ci_low", "difference_ci_high", "p", "verdict")
    values = (None,) * len(ends) if c is None else (c.difference, c.low, c.high, c.p_adjusted, c.verdict)
    return {f"{name}_{end}": value for end, value in zip(ends, values, strict=True)}


@dataclass(frozen=True, eq=False, repr=False)
class StudyTable:
    """The table of conditions as the report has it. Prints as text, shows as HTML in a notebook, and is read as a
    DataFrame is: `t["eval_loss_nats"]`, `t.columns`, `len(t)`, `t.sort_values(...)`.

    Its columns are those of `lorabench table DIR --format csv`; StudyResults.conditions() has more of them.
    """

    layout: Table
    """what is drawn: columns with their labels and units, rows with the ids of their cells, notes; what exporters
    take"""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The raw values: a row for each condition; a number with its sample deviation (_std) and interval where they
        are known; the condition's id and the ids of its cells."""
        values = [[row.values[j] for row in self.layout.rows] for j in range(len(self.layout.columns))]
        data: dict[str, object] = {}
        for column, column_values in zip(self.layout.columns, values, strict=True):
            name = column_name(column)
            data[name] = _series(column, column_values)
            data |= {
                f"{name}_{p}": _floats([getattr(v, p) if v else None for v in column_values])
                for p in _PARTS
                if any(v and getattr(v, p) is not None for v in column_values)
            }
        data["condition_id"] = [row.condition for row in self.layout.rows]
        data["cells"] = [" ".join(row.cells) for row in self.layout.rows]
        return pd.DataFrame(data)

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the frame, to be changed at will."""
        return self.frame.copy()

    def __str__(self) -> str:
        return as_text(self.layout)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        texts = pd.DataFrame(
            [[shown(v, c) for v, c in zip(row.values, self.layout.columns, strict=True)] for row in self.layout.rows]
        )
        texts.columns = pd.Index(
            [f"{label} ({unit})" if unit else label for label, unit in map(heading, self.layout.columns)]
        )
        return texts.to_html(index=False) + "".join(
            f"<p><small>{escape(note)}</small></p>" for note in self.layout.notes
        )

    def __len__(self) -> int:
        return len(self.layout.rows)

    def __iter__(self) -> Iterator[str]:
        return iter([str(c) for c in self.frame.columns])

    def __contains__(self, name: object) -> bool:
        return name in self.frame

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in (
            "layout",
            "frame",
        ):  # while it is being made or copied there is no frame to ask
            raise AttributeError(name)
        return getattr(self.frame, name)


def _series(column: Column, values: list[Value | None]) -> pd.Series[Any]:
    raw = [None if v is None else v.value for v in values]
    if column.align == "left":
        return pd.Series(raw, dtype="object")
    numbers = pd.to_numeric(pd.Series(raw, dtype="object"), errors="coerce")
    if any(v is not None and n != n for v, n in zip(raw, numbers, strict=True)):  # a published value may be words
        return pd.Series(raw, dtype="object")
    whole = column.unit in ("count", "bytes") and bool((numbers.dropna() % 1 == 0).all())
    return numbers.astype("Int64") if whole else numbers.astype("float64")


def _floats(values: list[float | None]) -> pd.Series[float]:
    return pd.Series(values, dtype="float64")
