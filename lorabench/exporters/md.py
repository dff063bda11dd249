"""Markdown table (GitHub's flavour), best values bold"""

from __future__ import annotations

import re

from lorabench.formatting import one_line
from lorabench.report.table_model import Column, Table, Value, heading, shown

EXTENSION = "md"
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def export(table: Table) -> str:
    """The table with its title and notes."""
    heads = [
        " ".join(filter(None, (escape(label), f"({unit})" if unit else "")))
        for label, unit in map(heading, table.columns)
    ]
    rules = ["---:" if c.align == "right" else ":---" for c in table.columns]
    rows = [[_cell(v, c) for v, c in zip(r.values, table.columns, strict=True)] for r in table.rows]
    lines = [f"### {escape(table.title)}", "", *("| " + " | ".join(row) + " |" for row in (heads, rules, *rows))]
    for note in table.notes:
        lines += ["", escape(note)]
    return "\n".join(lines) + "\n"


def _cell(value: Value | None, column: Column) -> str:
    if value is None or isinstance(value.value, str) or not value.best:
        text = shown(value, column)
        # numbers carry no marks but an interval's brackets, which link to nothing
        return escape(text) if value is not None and isinstance(value.value, str) else text
    return f"**{shown(value, column)}**"


def escape(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is."""
    return _MARKS.sub(r"\\\1", one_line(text)).translate(_ENTITIES)
