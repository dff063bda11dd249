"""HTML page with the table alone, best values bold"""

from __future__ import annotations

from lorabench.report.layout import Table
from lorabench.report.page import table_page

EXTENSION = "html"


def export(table: Table) -> str:
    """One file without scripts."""
    return table_page(table)
