"""A table as plain text for a terminal.

All columns where they fit; else what qualifies a number goes below it; else columns are left out, the
least important first, and a note names them.
"""

from __future__ import annotations

import io
import re

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lorabench.formatting import one_line
from lorabench.report.table_model import Column, Table, Value, heading, parts

_LABEL_AT_MOST = 28
_HEAD_AT_MOST = 12
_GAP = 2  # blank columns between two columns of the table


def as_text(table: Table, width: int = 120, *, colour: bool = False) -> str:
    """The table within `width` columns; best values bold where `colour` allows escape codes."""
    columns = list(range(len(table.columns)))
    left_out: list[int] = []
    stacked = _needed(table, columns, False) > width
    while stacked and _needed(table, columns, True) > width:
        droppable = [i for i in columns if table.columns[i].importance > 0]
        if not droppable:
            break
        worst = max(droppable, key=lambda i: (table.columns[i].importance, i))
        columns.remove(worst)
        left_out.append(worst)
        stacked = _needed(table, columns, False) > width
    return _draw(table, columns, sorted(left_out), stacked, width, colour)


def _lines(value: Value | None, column: Column, stacked: bool) -> list[str]:
    main, second = parts(value, column)
    if not second:
        return [main]
    return [main, second] if stacked else [f"{main} {second}"]


def _head(column: Column) -> list[str]:
    label, unit = heading(column)
    if column.align == "left":
        return [label]
    lines = [""]
    for word in re.findall(r"[^\s-]+-?\s*|\S\s*", label):  # a long metric name takes several lines rather than width
        fits = cell_len((lines[-1] + word).rstrip()) <= _HEAD_AT_MOST or not lines[-1]
        lines = [*lines[:-1], lines[-1] + word] if fits else [*lines, word]
    return [*(line.rstrip() for line in lines), *([unit] if unit else [])]


def _needed(table: Table, columns: list[int], stacked: bool) -> int:
    total = 0
    for i in columns:
        column = table.columns[i]
        lines = [*_head(column), *(line for row in table.rows for line in _lines(row.values[i], column, stacked))]
        widest = max(cell_len(line) for line in lines)
        total += min(widest, _LABEL_AT_MOST) if column.align == "left" else widest
    return total + _GAP * (len(columns) - 1)


def _draw(table: Table, columns: list[int], left_out: list[int], stacked: bool, width: int, colour: bool) -> str:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        show_edge=False,
    )
    for i in columns:
        column = table.columns[i]
        left = column.align == "left"
        grid.add_column(
            Text("\n".join(_head(column))),
            justify=column.align,
            overflow="fold",
            no_wrap=not left,
            max_width=_LABEL_AT_MOST if left else None,
            vertical="top",
        )
    for row in table.rows:
        cells = []
        for i in columns:
            value = row.values[i]
            lines = _lines(value, table.columns[i], stacked)
            text = Text(lines[0], style="bold" if value and value.best else "")
            if lines[1:]:
                text.append("\n" + lines[1], style="dim")
            cells.append(text)
        grid.add_row(*cells)
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        color_system="standard" if colour else None,
        legacy_windows=False,
        _environ={},
    )
    console.print(grid)
    for note in _notes(table, left_out):
        console.print(Text(note), soft_wrap=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _notes(table: Table, left_out: list[int]) -> list[str]:
    notes = [one_line(n) for n in table.notes]
    if left_out:
        notes.append(f"Left out for width: {', '.join(one_line(table.columns[i].label) for i in left_out)}.")
    return ["", *notes] if notes else []
