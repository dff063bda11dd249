"""HTML page with the table alone, best values bold"""

from __future__ import annotations

from lorabench.report.page import table_page
from lorabench.report.table_model import Table

EXTENSION = "html"


def export(table: Table) -> str:
    """One file without scripts."""
    return table_page(table)
