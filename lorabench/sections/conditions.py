"""the results table: every condition, also those that did not finish"""

from __future__ import annotations

from lorabench.report.blocks import Results, Section, Text
from lorabench.report.tables import table_of
from lorabench.report.view import View

ORDER = 20
TITLE = "Conditions"


def section(view: View) -> Section | None:
    """The table."""
    note = (
        "Bold is the best of a column among trained conditions whose cells all finished. Under each condition are the"
        " ids of its cells."
    )
    return Section(TITLE, (Results(table_of(view)), Text(note, "small")))
