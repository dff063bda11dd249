"""what weakens the numbers: few seeds, untuned rates, cells that did not finish"""

from __future__ import annotations

from lorabench.report.blocks import Notice, Section
from lorabench.report.view import View

ORDER = 30
TITLE = "Before you believe this"


def section(view: View) -> Section | None:
    """A notice for each finding."""
    notices = tuple(Notice(f.title, f.sentence, f.conditions) for f in view.findings)
    return Section(TITLE, notices) if notices else None
