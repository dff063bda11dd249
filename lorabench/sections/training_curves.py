"""training loss of each condition, step by step, and below it loss, gradient norm and learning rate of every seed"""

from __future__ import annotations

import csv
import math

import pandas as pd

from lorabench.report import training_text as text
from lorabench.report.blocks import Figure, Section
from lorabench.report.curves import PANELS, ConditionCurves, SeedCurves, draw_curves
from lorabench.report.drawing import Axis, Drawing, Line, thinned
from lorabench.report.figures import draw
from lorabench.report.view import View

ORDER = 60
TITLE = "Training"
_MOST_CONDITIONS = 60  # in the menu of seeds
_MOST_WORDS = 60
_ALL_POINTS = 24_000  # of all curves of seeds: some 400 kB
MOST_POINTS = 200  # a line of a phone's width shows no more, and 100 conditions stay below 1 MB


def section(view: View) -> Section | None:
    """One figure; None where no cell kept a curve."""
    info = compute(view)
    if info is None:
        return None
    caption = text.caption(MOST_POINTS, diverged=info.y.span is not None)
    words = tuple(map(text.loss_words, info.lines))
    figure = Figure("training-curves", draw(info), "training loss by step", caption, words)
    return Section(TITLE, (figure, *_by_seed(view)))


def _by_seed(view: View) -> tuple[Figure, ...]:
    curves = compute_by_seed(view)
    if not curves:
        return ()
    points = _points(view)
    trained = sum(bool(s.seeds) and bool(s.outcomes.finished or s.outcomes.broken) for s in view.analysis.summaries)
    averaged = any(len(s.step) >= points for c in curves for s in c.seeds)
    words = tuple(
        f"{c.label}, seed {s.seed}: {norms}" for c in curves for s in c.seeds if (norms := text.norm_words(s, c.clip))
    )[:_MOST_WORDS]
    return (
        Figure(
            "training-by-seed",
            draw_curves(curves),
            "loss, gradient norm and learning rate of each seed",
            text.seed_caption(len(curves), trained, points if averaged else None),
            words or ("No gradient norm was kept.",),
        ),
    )


def compute_by_seed(view: View) -> tuple[ConditionCurves, ...]:
    """Of the first conditions that kept curves."""
    curves = []
    for group, s in zip(view.analysis.groups, view.analysis.summaries, strict=True):
        seeds = []
        for r in view.analysis.of_condition(s.condition):
            rows = _rows(view, r.cell.id)
            if rows:
                x = [row[0] for row in rows]
                columns = [_thin(x, [row[1 + i] for row in rows], _points(view)) for i, _ in enumerate(PANELS)]
                seeds.append(SeedCurves(r.cell.seed, columns[0][0], tuple(y for _, y in columns)))
        if seeds:
            curves.append(ConditionCurves(s.label.text, tuple(seeds), group.setting.training.max_grad_norm))
        if len(curves) == _MOST_CONDITIONS:
            break
    return tuple(curves)


def _points(view: View) -> int:
    """Points of a seed's curve: fewer where there are many, so that the page stays small (about 16 bytes a point)."""
    cells = sum(len(s.cells) for s in view.analysis.summaries[:_MOST_CONDITIONS])
    return max(24, min(120, _ALL_POINTS // max(1, len(PANELS) * cells)))


def _thin(x: list[float], y: list[float | None], most: int) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """The same thinning for values of which some are absent: an average over none is absent."""
    filled = [0.0 if v is None else v for v in y]
    share = thinned(x, [float(v is not None) for v in y], most)[1]
    places, values = thinned(x, filled, most)
    return tuple(round(p, 1) for p in places), tuple(v / n if n else None for v, n in zip(values, share, strict=True))


def compute(view: View) -> Drawing | None:
    """The mean curve of each condition, of all its cells that trained."""
    lines: list[Line] = []
    calm: list[float] = []
    for s in view.analysis.summaries:
        curves = [c for r in view.analysis.of_condition(s.condition) if (c := _curve(view, r.cell.id)) is not None]
        if curves:
            mean = pd.concat(curves).groupby("step")["loss"].mean()
            x, y = thinned([float(step) for step in mean.index], mean.tolist(), MOST_POINTS)
            lines.append(Line(s.label.text, view.styles[s.condition], x, y))
            calm.extend(() if s.outcomes.diverged else y)
    # a diverged curve climbs by powers of ten: it may leave the figure, so that the others stay readable
    diverged = any(s.outcomes.diverged for s in view.analysis.summaries)
    span = (
        (min(calm) - 0.05 * (max(calm) - min(calm)), max(calm) + 0.1 * (max(calm) - min(calm)))
        if calm and diverged
        else None
    )
    return Drawing(Axis("optimizer step"), Axis("training loss (nats)", span=span), tuple(lines)) if lines else None


def _curve(view: View, cell_id: str) -> pd.DataFrame | None:
    points = [(row[0], row[1]) for row in _rows(view, cell_id) if row[1] is not None]
    return pd.DataFrame(points, columns=["step", "loss"]) if points else None


def _rows(view: View, cell_id: str) -> list[tuple[float, float | None, float | None, float | None]]:
    """(step, loss, gradient norm, learning rate) of each step whose line can be read; what is no finite number is
    absent."""
    path = view.analysis.file(cell_id, "curve.csv")
    if not path.is_file():
        return []
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:  # pandas takes 4 ms a file, 4 s for 1,000 cells
            for row in csv.DictReader(stream):
                step, loss = float(row["step"]), _finite(row["loss"])
                if math.isfinite(step):
                    rows.append((step, loss, _finite(row.get("grad_norm")), _finite(row.get("learning_rate"))))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        csv.Error,
    ):  # a cell that was cut off, replaced just now, or damaged: what stands before is shown
        pass
    return rows


def _finite(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
