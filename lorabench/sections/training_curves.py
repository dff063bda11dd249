"""training loss of each condition, step by step"""

from __future__ import annotations

import csv
import math

import pandas as pd

from lorabench.report import human
from lorabench.report.blocks import Figure, Section
from lorabench.report.figures import Axis, Drawing, Line, draw, thinned
from lorabench.report.view import View

ORDER = 60
TITLE = "Training"
MOST_POINTS = 200  # a line of a phone's width shows no more, and 100 conditions stay below 1 MB


def section(view: View) -> Section | None:
    """One figure; None where no cell kept a curve."""
    info = decide(view)
    if info is None:
        return None
    caption = (
        f"Mean over seeds; curves of more than {MOST_POINTS} steps are averaged to that many points. "
        "Look for curves that still fall at the end (more steps would help) and for jumps (the rate is too high). "
        "Click a name in the legend to hide its curve."
    )
    if info.y.span is not None:
        caption += " Diverged conditions leave at the top."
    words = tuple(
        f"{line.label}: from {human.decimals(line.y[0])} to {human.decimals(line.y[-1])} nats in {line.x[-1]:.0f} steps"
        for line in info.lines
    )
    return Section(TITLE, (Figure("training-curves", draw(info), "training loss by step", caption, words),))


def decide(view: View) -> Drawing | None:
    """The mean curve of each condition, of all its cells that trained."""
    lines: list[Line] = []
    calm: list[float] = []
    for s in view.summaries:
        curves = [c for r in view.of_condition(s.condition) if (c := _curve(view, r.cell.id)) is not None]
        if curves:
            mean = pd.concat(curves).groupby("step")["loss"].mean()
            x, y = thinned([float(step) for step in mean.index], mean.tolist(), MOST_POINTS)
            lines.append(Line(s.label.text, view.styles[s.condition], x, y))
            calm.extend(() if s.outcomes.diverged else y)
    # a diverged curve climbs by powers of ten: it may leave the figure, so that the others stay readable
    diverged = any(s.outcomes.diverged for s in view.summaries)
    span = (min(calm) - 0.05 * (max(calm) - min(calm)), max(calm) + 0.1 * (max(calm) - min(calm))) if calm and diverged else None
    return Drawing(Axis("optimizer step"), Axis("training loss (nats)", span=span), tuple(lines)) if lines else None


def _curve(view: View, cell_id: str) -> pd.DataFrame | None:
    path = view.file(cell_id, "curve.csv")
    if not path.is_file():
        return None
    kept = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:  # pandas takes 4 ms a file, 4 s for 1,000 cells
            for row in csv.DictReader(stream):
                step, loss = float(row["step"]), float(row["loss"])
                if math.isfinite(step) and math.isfinite(loss):
                    kept.append((step, loss))
    except (ValueError, KeyError, TypeError, csv.Error):  # a cell that was cut off, or a damaged file: what stands before it is shown
        pass
    return pd.DataFrame(kept, columns=["step", "loss"]) if kept else None
