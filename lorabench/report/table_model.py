"""What a table is before it is drawn: columns, rows and raw typed values; and each value in words.

Exporters and the terminal draw from this alone, so that a number reads the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.record.metrics import Direction
from lorabench.report.metric_text import plus_minus


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    key: str
    """name in code and CSV"""
    label: str
    unit: str = ""
    """of the raw values, as record.metrics names it; empty for text"""
    better: Direction = "none"
    align: Literal["left", "right"] = "right"
    signed: bool = False
    """a difference to the reference, with its interval"""
    spread: bool = False
    """show the half-width of the mean's 95 % interval beside it"""
    meaning: str = ""
    importance: int = 5
    """0 is always shown; in a narrow terminal the highest go first"""


@dataclass(frozen=True)
class Value:
    """What stands in a cell of the table, raw."""

    value: float | str
    std: float | None = None
    low: float | None = None
    high: float | None = None
    ci_half_width: float | None = None
    """half-width, where value and ends are those of a mean: of a share near 0 or 1 an end is nearer than that"""
    best: bool = False


def mean_value(statistic: Statistic, unit: str) -> Value:
    """A mean with its sample deviation and its 95 % interval, whose ends stay between 0 and 1 where the unit is
    "share"; without an interval where no noise is known."""
    mean, half_width = statistic.mean, statistic.ci_half_width
    if half_width is None:
        return Value(mean, std=statistic.std)
    low, high = mean - half_width, mean + half_width
    if unit == "share":
        low, high = max(0.0, low), min(1.0, high)
    return Value(mean, std=statistic.std, low=low, high=high, ci_half_width=half_width)


@dataclass(frozen=True)
class TableRow:
    """A condition's line."""

    condition: str
    cells: tuple[str, ...]
    values: tuple[Value | None, ...]
    """one for each column, None where nothing was measured"""


@dataclass(frozen=True)
class Table:
    """A table before it is drawn."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Title reduced to what a file or a LaTeX label may be called."""
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in self.title)


def shown(value: Value | None, column: Column) -> str:
    """A value as people read it: "2.031 ± 0.004", "+0.034 [−0.010, 0.078]", "1.23 MB"."""
    main, second = parts(value, column)
    return f"{main} {second}" if second else main


def parts(value: Value | None, column: Column) -> tuple[str, str]:
    """The same as the number and what qualifies it (spread or interval, empty where there is none)."""
    if value is None:
        return formatting.DASH, ""
    if isinstance(value.value, str):
        return formatting.one_line(value.value), ""
    if column.signed:
        main = formatting.difference(value.value, column.unit)
        if value.low is None or value.high is None:
            return main, ""
        return main, f"[{formatting.number(value.low, column.unit)}, {formatting.number(value.high, column.unit)}]"
    main = formatting.number(value.value, column.unit)
    return (
        main,
        (plus_minus(value.ci_half_width, column.unit).strip() if column.spread else ""),
    )


def heading(column: Column) -> tuple[str, str]:
    """A column's label and the unit under it."""
    return formatting.one_line(column.label), formatting.head_unit(column.unit, column.signed)


def column_name(column: Column) -> str:
    """eval_loss_nats, train_peak_bytes, tokens_per_second: the key, with its unit where it does not say so itself."""
    unit = column.unit.replace(" ", "_")
    if not unit or unit in ("count", "ratio", "tokens/s") or column.key.endswith(f"_{unit}"):
        return column.key
    return f"{column.key}_{unit}"
