"""what a reader must know before believing the numbers, the gravest first, with the cells behind it"""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.findings.base import Severity
from lorabench.report.blocks import Block, Code, Notice, Section, Text
from lorabench.report.view import View

ORDER = 30
TITLE = "Before you believe this"
_HEADS: dict[Severity, str] = {
    "grave": "Numbers are absent, or mislead:",
    "caution": "These numbers stand, but rest on less evidence than it may seem:",
    "note": "Good to know when using the numbers:",
}
_MOST_CONDITIONS, _MOST_CELLS = 12, 24  # of 1,000 cells all ids would be most of the page; Provenance has them


def section(view: View) -> Section | None:
    """A notice for each finding, the gravest first, and folded below them the cells that each rests on."""
    if not view.findings:
        return None
    blocks: list[Block] = []
    for severity, head in _HEADS.items():
        members = [f for f in view.findings if f.severity == severity]
        if members:
            blocks += [
                Text(head),
                *(Notice(f.title, f.sentence, _short(f.conditions, _MOST_CONDITIONS)) for f in members),
            ]
    lines = [
        f"{f.title} ({formatting.plural(len(f.cells), 'cell')}): {' '.join(_short(f.cells, _MOST_CELLS))}"
        for f in view.findings
        if f.cells
    ]
    if lines:
        blocks.append(Code("\n".join(lines), "The cells behind each finding"))
    return Section(TITLE, tuple(blocks))


def _short(names: Sequence[str], most: int) -> tuple[str, ...]:
    return tuple(names) if len(names) <= most else (*names[:most], f"and {len(names) - most} more")
