"""what rank buys: each metric against rank, for every way of storing the base"""

from __future__ import annotations

from lorabench.record.metrics import metric
from lorabench.report import human
from lorabench.report.blocks import Block, Figure, Section
from lorabench.report.figures import Axis, Drawing, draw
from lorabench.report.learned import by_rank
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 50
TITLE = "Rank"


def section(view: View) -> Section | None:
    """A figure for the held-out loss and one for the first accuracy."""
    blocks: list[Block] = []
    for name in ("eval_loss", *accuracies(view)[:1]):
        info = decide(view, name)
        if info:
            m = metric(name)
            caption = (
                f"Mean {m.label} over seeds with its standard deviation ({m.better} is better). Look where a curve flattens: "
                "more rank buys nothing there. Level lines are conditions without a rank."
            )
            blocks.append(Figure(f"rank-{len(blocks)}", draw(info), f"{m.label} against rank", caption, _words(view, name)))
    return Section(TITLE, tuple(blocks)) if blocks else None


def decide(view: View, name: str) -> Drawing | None:
    """A line for each family that has two ranks or more; levels for what has no rank."""
    m = metric(name)
    factor = 100.0 if m.unit == "share" else 1.0
    lines, levels = by_rank(view, lambda s: s.statistics.get(name), factor)
    if not lines:
        return None
    ranks = sorted({x for line in lines for x in line.x})
    unit = human.head_unit(m.unit)
    return Drawing(
        Axis("rank", log=True, ticks=tuple(ranks)), Axis(f"{m.label} ({unit})" if unit else m.label), lines, levels, "lines+markers"
    )


def _words(view: View, name: str) -> tuple[str, ...]:
    m = metric(name)
    unit = human.head_unit(m.unit)
    return tuple(
        f"{s.label.text}: {human.number(f.mean, m.unit)}" + (f" ± {human.number(f.std, m.unit)}" if f.std is not None else "") + f" {unit}"
        for s in view.summaries
        if (f := s.statistics.get(name))
    )
