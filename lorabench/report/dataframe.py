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
from lorabench.analysis.verdict import Comparison
from lorabench.config.fingerprint import flattened
from lorabench.record.frames import settings
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.report.table_model import Column, Table, Value, column_name, heading, shown
from lorabench.report.terminal import as_text
from lorabench.report.view import View

_OF_A_CELL = ("cell", "seed", "learning_rate")
_WHOLE = ("rank", "seeds", "steps", "batch_size", "sequence_length", *(f.name for f in fields(Outcomes)))
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
    told = tuple(dict.fromkeys(c.metric for c in view.analysis.comparisons))
    further = _further(view)
    rows = [_row(view, g, s, further, told) for g, s in zip(view.analysis.groups, view.analysis.summaries, strict=True)]
    data = pd.DataFrame(rows)
    for name in data.columns:
        if name in _WHOLE or name.endswith("_n"):
            data[name] = data[name].astype("Int64")
        elif name == "tuned":
            data[name] = data[name].astype("boolean")
        elif name in ("learning_rate", "alpha") or any(
            name == f"{m}{end}" for m in (*view.analysis.metrics, *told) for end in _NUMBERS
        ):
            data[name] = data[name].astype("float64")
    return data


_NUMBERS = ("_mean", "_std", "_ci_low", "_ci_high", "_difference", "_difference_ci_low", "_difference_ci_high", "_p")


_PLAIN = ("count", "percent", "bytes", "seconds", "tokens/s")


def _further(view: View) -> tuple[str, ...]:
    """Dotted fields that differ between conditions and have no column of their own."""
    known = {
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
    plain = [flattened(g.declared) for g in view.analysis.groups]
    every = dict.fromkeys(f for p in plain for f in p if f not in known and not f.startswith("training.learning_rate"))
    return tuple(f for f in every if len({str(p.get(f)) for p in plain}) > 1)


def _row(
    view: View, g: Replicates, s: ConditionSummary, further: tuple[str, ...], told: tuple[str, ...]
) -> dict[str, Any]:
    steps = {r.steps for i in g.ids if (r := view.analysis.results.get(i)) is not None}
    own, plain = settings(g.setting, steps.pop() if len(steps) == 1 else None), flattened(g.declared)
    rates = {c.training.fixed_learning_rate for c in g.cells} if g.trains else set()
    row: dict[str, Any] = {"condition": s.condition, "label": s.label.text} | {
        k: v for k, v in own.items() if k not in (*_OF_A_CELL, "condition")
    }
    row |= {f: ",".join(map(str, v)) if isinstance(v := plain.get(f), list) else v for f in further}
    row |= {"learning_rate": rates.pop() if len(rates) == 1 else None, "tuned": bool(g.setting.tuned_over)}
    row |= {"seeds": len({c.seed for c in g.cells}) if g.trains else 1} | {
        f.name: getattr(s.outcomes, f.name) for f in fields(Outcomes)
    }
    reference = view.analysis.references.get(s.condition)
    row["reference"] = None if reference is None else view.analysis.label(reference)
    for name in dict.fromkeys((*told, *view.analysis.metrics)):  # what is compared stands first
        if name in PREDICTED_PARTS:
            continue
        row |= _of_metric(s, name) | (
            _of_comparison(name, view.analysis.comparison(name, s.condition)) if name in told else {}
        )
    return row


def _of_metric(s: ConditionSummary, name: str) -> dict[str, Any]:
    found = s.statistics.get(name)
    mean, std, half, n = (
        (None, None, None, 0) if found is None else (found.mean, found.std, found.ci_half_width, found.n)
    )
    low, high = (None, None) if mean is None or half is None else (mean - half, mean + half)
    if low is not None and high is not None and metric(name).unit == "share":
        low, high = max(0.0, low), min(1.0, high)
    if metric(name).unit in _PLAIN:
        return {f"{name}_mean": mean}
    return {f"{name}_mean": mean, f"{name}_ci_low": low, f"{name}_ci_high": high, f"{name}_std": std, f"{name}_n": n}


def _of_comparison(name: str, c: Comparison | None) -> dict[str, Any]:
    seen = (None, None, None, None, None) if c is None else (c.difference, c.low, c.high, c.p_adjusted, c.verdict)
    return dict(
        zip(
            (
                f"{name}_difference",
                f"{name}_difference_ci_low",
                f"{name}_difference_ci_high",
                f"{name}_p",
                f"{name}_verdict",
            ),
            seen,
            strict=True,
        )
    )


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
        data: dict[str, Any] = {}
        for column, seen in zip(self.layout.columns, values, strict=True):
            name = column_name(column)
            data[name] = _series(column, seen)
            data |= {
                f"{name}_{p}": _floats([getattr(v, p) if v else None for v in seen])
                for p in _PARTS
                if any(v and getattr(v, p) is not None for v in seen)
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
        drawn = pd.DataFrame(
            [[shown(v, c) for v, c in zip(row.values, self.layout.columns, strict=True)] for row in self.layout.rows]
        )
        drawn.columns = pd.Index(
            [f"{label} ({unit})" if unit else label for label, unit in map(heading, self.layout.columns)]
        )
        return drawn.to_html(index=False) + "".join(
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


def _series(column: Column, seen: list[Value | None]) -> pd.Series[Any]:
    raw = [None if v is None else v.value for v in seen]
    if column.align == "left":
        return pd.Series(raw, dtype="object")
    numbers = pd.to_numeric(pd.Series(raw, dtype="object"), errors="coerce")
    if any(v is not None and n != n for v, n in zip(raw, numbers, strict=True)):  # a published value may be words
        return pd.Series(raw, dtype="object")
    whole = column.unit in ("count", "bytes") and bool((numbers.dropna() % 1 == 0).all())
    return numbers.astype("Int64") if whole else numbers.astype("float64")


def _floats(values: list[float | None]) -> pd.Series[Any]:
    return pd.Series(values, dtype="float64")
