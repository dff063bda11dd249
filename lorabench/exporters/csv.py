"""CSV with raw values: a column for each number, its unit in the column's name"""

from __future__ import annotations

import csv
import io

from lorabench.formatting import one_line
from lorabench.report.table_model import Table, Value, column_name

EXTENSION = "csv"
_PARTS = ("std", "low", "high")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run such a text


def export(table: Table) -> str:
    """Header and rows; the last column holds the ids of the cells behind a row."""
    extra = [
        [p for p in _PARTS if any(v and getattr(v, p) is not None for v in values)] for values in _by_column(table)
    ]
    header = []
    for column, parts in zip(table.columns, extra, strict=True):
        name = column_name(column)
        header += [name, *(f"{name}_{p}" for p in parts)]
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow([*map(text, header), "condition_id", "cells"])
    for row in table.rows:
        fields: list[object] = []
        for value, parts in zip(row.values, extra, strict=True):
            fields += [_raw(value), *(_number(getattr(value, p) if value else None) for p in parts)]
        lines.writerow([*fields, row.condition, " ".join(row.cells)])
    return stream.getvalue()


def _by_column(table: Table) -> list[list[Value | None]]:
    return [[row.values[j] for row in table.rows] for j in range(len(table.columns))]


def _raw(value: Value | None) -> object:
    if value is None:
        return ""
    return text(value.value) if isinstance(value.value, str) else _number(value.value)


def _number(value: float | None) -> object:
    if value is None:
        return ""
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def text(value: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe goes before what looks like one."""
    clean = one_line(value)
    return f"'{clean}" if clean.startswith(_FORMULA) else clean
