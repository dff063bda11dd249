"""A table of the literature: what the paper prints, what lorabench computes, and how the two agree."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench.config.published_tables import UNITS, Paper, Reproduced, published
from lorabench.report.table_model import Column, Table, TableRow, Value


def paper_table(paper: Paper, reproduced: Sequence[Reproduced]) -> Table:
    """The table of a paper's rows; what explains a difference stands below it."""
    unit = UNITS.get(reproduced[0].row.quantity, "bytes")
    columns = (
        Column("row", "", align="left", importance=0),
        Column("published", "published", align="right", importance=0, meaning="as printed"),
        Column(
            "lorabench", "lorabench", unit, importance=0, meaning="computed from the architecture, nothing is trained"
        ),
        Column(
            "difference",
            "difference, %",
            "percent",
            signed=True,
            importance=1,
            meaning="of lorabench's value to the published one",
        ),
        Column("agreement", "agreement", align="left", importance=1, meaning="to the digits that are printed"),
    )
    rows: list[TableRow] = []
    explained: dict[str, int] = {}
    for item in reproduced:
        if item.row.note:
            explained.setdefault(item.row.note, len(explained) + 1)
        mark = f" [{explained[item.row.note]}]" if item.row.note else ""
        name, value = Value(item.row.name + mark), Value(item.value)
        if item.row.published is None:
            rows.append(TableRow("", (), (name, None, value, None, None)))
            continue
        printed = published(item.row.published)
        away = (
            None
            if printed.relation in ("over", "under") or not printed.value
            else Value(100 * (item.value / printed.value - 1))
        )
        rows.append(TableRow("", (), (name, Value(printed.text), value, away, Value(printed.agreement(item.value)))))
    notes = (f"[{number}] {note}" for note, number in explained.items())
    return Table(paper.question, columns, tuple(rows), (f"Published: {paper.source}.", *notes))
