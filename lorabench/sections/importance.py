"""which axes of the grid the metric depends on: shares of the variance between its conditions"""

from __future__ import annotations

from lorabench.analysis.importance import Importance, NoImportance, importances, varied_axes
from lorabench.record.metrics import metric
from lorabench.report import importance_text as text
from lorabench.report.bars import BarPart, Bars, draw_bars
from lorabench.report.blocks import Block, Figure, Section, Text
from lorabench.report.style import BLUE
from lorabench.report.view import View

ORDER = 56
TITLE = "What matters"
_MOST = 12  # bars; the words have all
_TASKS = 4  # of which there are figures


def section(view: View) -> Section | None:
    """A sentence and a figure for each grid; a sentence alone where the grid has holes; None without a grid of two
    axes."""
    if len(varied_axes(view.analysis.study)) < 2:  # of one axis all variance is its own
        return None
    grids, why = compute(view)
    if why is not None:
        return Section(TITLE, (Text(text.absent(why, view.analysis.metric)),))
    blocks: list[Block] = []
    for i, info in enumerate(grids[:_TASKS]):
        blocks.append(Text(text.sentence(info)))
        if info.std:
            within = f", {info.within}" if info.within else ""
            blocks.append(
                Figure(
                    f"importance-{i}",
                    draw_bars(bars(info)),
                    f"share of the variance in {metric(info.metric).label}{within}",
                    text.caption(info, tuned=bool(view.analysis.tunings)),
                    tuple(text.effect_words(e, info) for e in info.effects),
                )
            )
    return Section(TITLE, tuple(blocks))


def compute(view: View) -> tuple[tuple[Importance, ...], NoImportance | None]:
    """Of the study's grid, for each of its tasks; and why there is none, None where there is one."""
    return importances(view.analysis.groups, view.analysis.data, view.analysis.metric, view.analysis.study)


def bars(info: Importance) -> Bars:
    """A bar for each axis and combination, the largest first, and beside it what noise alone would give."""
    shown = info.effects[:_MOST]
    part = BarPart(
        "share of the variance",
        BLUE,
        tuple(100 * e.share for e in shown),
        tuple(text.effect_words(e, info) for e in shown),
    )
    return Bars(
        "share of the variance (%)",
        tuple(text.axes(e, info) for e in shown),
        (part,),
        "expected from the noise between seeds alone",
        tuple(None if e.noise is None else 100 * e.noise for e in shown),
        tuple(text.effect_words(e, info) for e in shown),
        tuple(text.percent(e.share) for e in shown),
    )
